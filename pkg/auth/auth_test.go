package auth

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	longrunning "cloud.google.com/go/longrunning/autogen/longrunningpb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/fault"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

var (
	service  = Identity{Class: Service, Name: "network"}
	operator = Identity{Class: Operator, Name: "root"}
	editor   = Identity{Class: Editor, Tenant: "acme", Name: "anna"}
	viewer   = Identity{Class: Viewer, Tenant: "acme", Name: "vera"}
	stranger = Identity{Class: Editor, Tenant: "other", Name: "otto"}
)

func TestParseIdentity(t *testing.T) {
	for _, id := range []Identity{service, operator, editor, viewer} {
		got, err := ParseIdentity(id.String())
		if err != nil || got != id {
			t.Errorf("ParseIdentity(%s) = %v, %v", id, got, err)
		}
	}
	for name, uri := range map[string]string{
		"other trust domain":   "spiffe://elsewhere/service/network",
		"no class":             "spiffe://weft/network",
		"unknown class":        "spiffe://weft/root/network",
		"tenant's service":     "spiffe://weft/tenant/acme/role/service/x",
		"operator of a tenant": "spiffe://weft/tenant/acme/role/operator/x",
		"editor of none":       "spiffe://weft/editor/anna",
		"empty name":           "spiffe://weft/operator/",
		"wildcard tenant":      "spiffe://weft/tenant/*/role/editor/x",
		"subject token":        "spiffe://weft/tenant/a.b/role/editor/x",
		"too long a path":      "spiffe://weft/tenant/acme/role/editor/x/y",
	} {
		t.Run(name, func(t *testing.T) {
			if id, err := ParseIdentity(uri); !fault.Is(err, fault.Invalid) {
				t.Errorf("ParseIdentity(%s) = %v, %v; want Invalid", uri, id, err)
			}
		})
	}
}

func TestOpenCAIsStableAndPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	cas := make([]*CA, 8)
	var wg sync.WaitGroup
	for i := range cas {
		wg.Go(func() {
			ca, err := OpenCA(dir)
			if err != nil {
				t.Error(err)
				return
			}
			cas[i] = ca
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for _, ca := range cas {
		if diff := cmp.Diff(string(cas[0].PEM()), string(ca.PEM())); diff != "" {
			t.Error("two openings of one folder are two CAs")
		}
	}
	info, err := os.Stat(filepath.Join(dir, keyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the key: %v, %v", info.Mode(), err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("the folder holds %v, %v; want the key and the certificate", left, err)
	}
}

func TestIssue(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	ca, err := openCA(t.TempDir(), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	verify := func(id Identity, usage x509.ExtKeyUsage, at time.Time) error {
		cert, err := ca.Issue(id, IssueOptions{Lifetime: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		got, err := FromCertificate(cert.Leaf)
		if err != nil || got != id {
			t.Errorf("the certificate of %s bears %v, %v", id, got, err)
		}
		_, err = cert.Leaf.Verify(x509.VerifyOptions{Roots: ca.Pool(), CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}})
		return err
	}
	if err := verify(service, x509.ExtKeyUsageServerAuth, now); err != nil {
		t.Errorf("a service cannot serve: %v", err)
	}
	for _, id := range []Identity{operator, editor, viewer} {
		if err := verify(id, x509.ExtKeyUsageClientAuth, now); err != nil {
			t.Errorf("%s cannot call: %v", id, err)
		}
		if err := verify(id, x509.ExtKeyUsageServerAuth, now); err == nil {
			t.Errorf("%s can pose as a server", id)
		}
		if err := verify(id, x509.ExtKeyUsageClientAuth, now.Add(2*time.Hour)); err == nil {
			t.Errorf("the certificate of %s is valid after its lifetime", id)
		}
	}
	if _, err := ca.Issue(editor, IssueOptions{Hosts: []string{"weft.example"}}); !fault.Is(err, fault.Invalid) {
		t.Errorf("a member of a tenant got a host name: %v", err)
	}
}

func TestSourceRenews(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	ca, err := openCA(t.TempDir(), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	source := ca.Source(service, IssueOptions{Lifetime: time.Hour})
	serial := func() string {
		cert, err := source()
		if err != nil {
			t.Fatal(err)
		}
		return cert.Leaf.SerialNumber.String()
	}
	first := serial()
	now = now.Add(20 * time.Minute)
	if serial() != first {
		t.Error("renewed with most of its life left")
	}
	now = now.Add(30 * time.Minute)
	if serial() == first {
		t.Error("not renewed with ten minutes left of an hour")
	}
}

func TestAuthorize(t *testing.T) {
	const subnets, stacks = "/weft.network.v1.SubnetService/", "/weft.orchestrator.v1.StackService/"
	const clouds, operations = "/weft.orchestrator.v1.CloudService/", "/google.longrunning.Operations/"
	subnet := func(name, network string) *networkv1.Subnet {
		return &networkv1.Subnet{Name: name, Spec: &networkv1.SubnetSpec{Network: network}}
	}
	tests := map[string]struct {
		method  string
		request proto.Message
		allowed []Identity
	}{
		"get by name":             {subnets + "GetSubnet", &networkv1.GetSubnetRequest{Name: "tenants/acme/subnets/a"}, []Identity{service, operator, editor, viewer}},
		"list by parent":          {subnets + "ListSubnets", &networkv1.ListSubnetsRequest{Parent: "tenants/acme"}, []Identity{service, operator, editor, viewer}},
		"create":                  {subnets + "CreateSubnet", &networkv1.CreateSubnetRequest{Parent: "tenants/acme", Subnet: subnet("", "tenants/acme/networks/n")}, []Identity{service, operator, editor}},
		"create in another":       {subnets + "CreateSubnet", &networkv1.CreateSubnetRequest{Parent: "tenants/acme", Subnet: subnet("tenants/other/subnets/a", "")}, []Identity{service, operator}},
		"refer to another's":      {subnets + "CreateSubnet", &networkv1.CreateSubnetRequest{Parent: "tenants/acme", Subnet: subnet("", "tenants/other/networks/n")}, []Identity{service, operator}},
		"update by nested name":   {subnets + "UpdateSubnet", &networkv1.UpdateSubnetRequest{Subnet: subnet("tenants/acme/subnets/a", "")}, []Identity{service, operator, editor}},
		"update without a name":   {subnets + "UpdateSubnet", &networkv1.UpdateSubnetRequest{Subnet: subnet("", "")}, []Identity{service, operator}},
		"no tenant":               {subnets + "GetSubnet", &networkv1.GetSubnetRequest{Name: "subnets/a"}, []Identity{service, operator}},
		"prefix of a tenant":      {subnets + "GetSubnet", &networkv1.GetSubnetRequest{Name: "tenants/acme-2/subnets/a"}, []Identity{service, operator}},
		"plan":                    {stacks + "PlanStack", &orchestratorv1.PlanStackRequest{Parent: "tenants/acme"}, []Identity{service, operator, editor, viewer}},
		"apply":                   {stacks + "ApplyStack", &orchestratorv1.ApplyStackRequest{Parent: "tenants/acme"}, []Identity{service, operator, editor}},
		"clouds are seen by all":  {clouds + "ListClouds", &orchestratorv1.ListCloudsRequest{}, []Identity{service, operator, editor, viewer, stranger}},
		"clouds are operators'":   {clouds + "DeleteCloud", &orchestratorv1.DeleteCloudRequest{Name: "clouds/lab"}, []Identity{service, operator}},
		"forgetting frees quota":  {"/weft.orchestrator.v1.ImportService/ForgetResource", &orchestratorv1.ForgetResourceRequest{Name: "tenants/acme/stacks/s", LocalName: "a"}, []Identity{service, operator}},
		"services only":           {"/weft.participant.v1.ParticipantService/Query", &participantv1.QueryRequest{Name: "tenants/acme/subnets/a"}, []Identity{service}},
		"credentials":             {"/weft.orchestrator.v1.CredentialService/GetSecretData", &orchestratorv1.GetSecretDataRequest{Name: "tenants/acme/secrets/s"}, []Identity{service}},
		"get operation":           {operations + "GetOperation", &longrunning.GetOperationRequest{Name: "tenants/acme/operations/o"}, []Identity{service, operator, editor, viewer}},
		"cancel operation":        {operations + "CancelOperation", &longrunning.CancelOperationRequest{Name: "tenants/acme/operations/o"}, []Identity{service, operator, editor}},
		"list operations":         {operations + "ListOperations", &longrunning.ListOperationsRequest{Name: "tenants/acme"}, []Identity{service, operator, editor, viewer}},
		"operations of no tenant": {operations + "ListOperations", &longrunning.ListOperationsRequest{}, []Identity{service, operator}},
		"ledger of all":           {"/weft.orchestrator.v1.LedgerService/ListLedgerEntries", &orchestratorv1.ListLedgerEntriesRequest{Parent: "tenants/-"}, []Identity{service, operator}},
		"health":                  {"/grpc.health.v1.Health/Check", &longrunning.GetOperationRequest{}, []Identity{service, operator, editor, viewer, stranger}},
		"no such method":          {"/weft.network.v1.SubnetService/Drop", &networkv1.GetSubnetRequest{Name: "tenants/acme/subnets/a"}, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var allowed []Identity
			for _, id := range []Identity{service, operator, editor, viewer, stranger} {
				if Authorize(id, test.method, test.request) == nil {
					allowed = append(allowed, id)
				}
			}
			if diff := cmp.Diff(test.allowed, allowed); diff != "" {
				t.Errorf("allowed (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAuthorizeBytes holds what a proxy passes on unread to the same rule.
func TestAuthorizeBytes(t *testing.T) {
	m, err := describe("/weft.network.v1.SubnetService/GetSubnet")
	if err != nil {
		t.Fatal(err)
	}
	data, err := proto.Marshal(&networkv1.GetSubnetRequest{Name: "tenants/acme/subnets/a"})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.admitAny(editor, &data); err != nil {
		t.Errorf("editor: %v", err)
	}
	if err := m.admitAny(stranger, &data); !fault.Is(err, fault.Denied) {
		t.Errorf("stranger: %v, want Denied", err)
	}
	if err := m.admitAny(editor, struct{}{}); !fault.Is(err, fault.Denied) {
		t.Errorf("unreadable: %v, want Denied", err)
	}
}
