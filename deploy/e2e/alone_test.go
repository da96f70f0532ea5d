package e2e

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// tenant is the tenant of a new installation.
const tenant = "tenants/default"

// finish waits for an operation and reads its answer into out, which may be nil.
func finish(t *testing.T, conn *grpc.ClientConn, op *longrunningpb.Operation, err error, out proto.Message) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	operations := longrunningpb.NewOperationsClient(conn)
	for !op.GetDone() {
		if op, err = operations.WaitOperation(t.Context(), &longrunningpb.WaitOperationRequest{Name: op.GetName(), Timeout: durationpb.New(30 * time.Second)}); err != nil {
			t.Fatal(err)
		}
	}
	if op.GetError() != nil {
		t.Fatalf("%s: %s", op.GetName(), op.GetError().GetMessage())
	}
	if out == nil {
		return
	}
	if err := op.GetResponse().UnmarshalTo(out); err != nil {
		t.Fatal(err)
	}
}

// TestAlone works with single resources by their own typed APIs, without a stack.
func TestAlone(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	i.Cloud.Hurry(t)
	nothing := i.Cloud.Inventory(t)
	conn := i.Dial(t, i.Context())
	t.Run("subnet", func(t *testing.T) { subnetAlone(t, conn) })
	i.NothingLeft(t, nothing)
	t.Run("private network", func(t *testing.T) { compositeAlone(t, i, conn) })
	i.NothingLeft(t, nothing)
	t.Run("private network of a stack", func(t *testing.T) { compositeOfStack(t, i, conn) })
	i.NothingLeft(t, nothing)
	t.Run("reflection", func(t *testing.T) { byReflection(t, conn) })
	i.NothingLeft(t, nothing)
}

func subnetAlone(t *testing.T, conn *grpc.ClientConn) {
	networks, subnets, ctx := networkv1.NewNetworkServiceClient(conn), networkv1.NewSubnetServiceClient(conn), t.Context()
	op, err := networks.CreateNetwork(ctx, &networkv1.CreateNetworkRequest{Parent: tenant, NetworkId: "lan", Network: &networkv1.Network{Cloud: "clouds/lab", Spec: &networkv1.NetworkSpec{}}})
	lan := &networkv1.Network{}
	finish(t, conn, op, err, lan)
	for id, cidr := range map[string]string{"one": "10.1.0.0/24", "two": "10.2.0.0/24", "three": "10.3.0.0/24"} {
		op, err := subnets.CreateSubnet(ctx, &networkv1.CreateSubnetRequest{Parent: tenant, SubnetId: id, Subnet: &networkv1.Subnet{
			Cloud: "clouds/lab", Spec: &networkv1.SubnetSpec{Network: lan.GetName(), Cidr: cidr},
		}})
		made := &networkv1.Subnet{}
		finish(t, conn, op, err, made)
		if made.GetObserved().GetCidr() != cidr || made.GetStatus().GetPhase() != kindv1.Phase_PHASE_READY || made.GetObserved().GetSubnetId() == "" {
			t.Errorf("the operation's answer: %v", made)
		}
	}
	_, err = subnets.CreateSubnet(ctx, &networkv1.CreateSubnetRequest{Parent: tenant, SubnetId: "one", Subnet: &networkv1.Subnet{
		Cloud: "clouds/lab", Spec: &networkv1.SubnetSpec{Network: lan.GetName(), Cidr: "10.9.0.0/24"},
	}})
	if status.Code(err) != codes.AlreadyExists {
		t.Errorf("a second subnet of the name: %v", err)
	}
	_, err = subnets.CreateSubnet(ctx, &networkv1.CreateSubnetRequest{Parent: tenant, SubnetId: "bad", Subnet: &networkv1.Subnet{
		Cloud: "clouds/lab", Spec: &networkv1.SubnetSpec{Network: lan.GetName(), Cidr: "nonsense"},
	}})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a subnet of nonsense: %v", err)
	}
	pages(t, subnets)
	change(t, conn, subnets)
	listed(t, conn)
	op, err = networks.DeleteNetwork(ctx, &networkv1.DeleteNetworkRequest{Name: lan.GetName()})
	if err == nil { // it waits for its subnets, which go below
		t.Logf("the network is being deleted by %s", op.GetName())
	}
	for _, id := range []string{"one", "two", "three"} {
		deleting, err := subnets.DeleteSubnet(ctx, &networkv1.DeleteSubnetRequest{Name: tenant + "/subnets/" + id})
		finish(t, conn, deleting, err, nil)
	}
	if err != nil {
		op, err = networks.DeleteNetwork(ctx, &networkv1.DeleteNetworkRequest{Name: lan.GetName()})
	}
	finish(t, conn, op, err, nil)
	if _, err := subnets.GetSubnet(ctx, &networkv1.GetSubnetRequest{Name: tenant + "/subnets/one"}); status.Code(err) != codes.NotFound {
		t.Errorf("a subnet that was deleted: %v", err)
	}
}

// pages lists in pages of one, and with a filter.
func pages(t *testing.T, subnets networkv1.SubnetServiceClient) {
	t.Helper()
	var names []string
	for token := ""; ; {
		page, err := subnets.ListSubnets(t.Context(), &networkv1.ListSubnetsRequest{Parent: tenant, PageSize: 1, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		if len(page.GetSubnets()) > 1 {
			t.Fatalf("a page of one has %d", len(page.GetSubnets()))
		}
		for _, s := range page.GetSubnets() {
			names = append(names, s.GetName())
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	if len(names) != 3 || names[0] != tenant+"/subnets/one" || names[1] != tenant+"/subnets/three" || names[2] != tenant+"/subnets/two" {
		t.Errorf("pages of one: %v", names)
	}
	found, err := subnets.ListSubnets(t.Context(), &networkv1.ListSubnetsRequest{Parent: tenant, Filter: `spec.cidr == "10.2.0.0/24"`})
	if err != nil || len(found.GetSubnets()) != 1 || found.GetSubnets()[0].GetName() != tenant+"/subnets/two" {
		t.Errorf("the filter found %v, %v", found, err)
	}
	if _, err := subnets.ListSubnets(t.Context(), &networkv1.ListSubnetsRequest{Parent: tenant, Filter: `spec.colour == "red"`}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a filter by a field that there is not: %v", err)
	}
}

// change changes one field by a mask: what else stands in the message is left alone. A wrong etag is refused.
func change(t *testing.T, conn *grpc.ClientConn, subnets networkv1.SubnetServiceClient) {
	t.Helper()
	name := tenant + "/subnets/one"
	op, err := subnets.UpdateSubnet(t.Context(), &networkv1.UpdateSubnetRequest{
		Subnet:     &networkv1.Subnet{Name: name, Spec: &networkv1.SubnetSpec{DnsServers: []string{"9.9.9.9"}, DhcpDisabled: true}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec.dns_servers"}},
	})
	changed := &networkv1.Subnet{}
	finish(t, conn, op, err, changed)
	if s := changed.GetSpec(); s.GetCidr() != "10.1.0.0/24" || s.GetDhcpDisabled() || len(s.GetDnsServers()) != 1 {
		t.Errorf("after an update of dns_servers alone: %v", s)
	}
	_, err = subnets.UpdateSubnet(t.Context(), &networkv1.UpdateSubnetRequest{
		Subnet:     &networkv1.Subnet{Name: name, Spec: &networkv1.SubnetSpec{Cidr: "10.99.0.0/24"}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec.cidr"}},
	})
	if status.Code(err) != codes.InvalidArgument && status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a change of what can never be changed: %v", err)
	}
	if _, err := subnets.DeleteSubnet(t.Context(), &networkv1.DeleteSubnetRequest{Name: name, Etag: "old"}); status.Code(err) != codes.Aborted && status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a deletion with an old etag: %v", err)
	}
}

// listed looks for the single changes among the tenant's operations, in pages of one: of each resource the last one.
func listed(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	found := map[string][]string{}
	for token := ""; ; {
		page, err := longrunningpb.NewOperationsClient(conn).ListOperations(t.Context(), &longrunningpb.ListOperationsRequest{
			Name: tenant, PageSize: 1, PageToken: token, Filter: `target.contains("/subnets/") && state == "DONE"`,
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range page.GetOperations() {
			m := &orchestratorv1.OperationMetadata{}
			if err := op.GetMetadata().UnmarshalTo(m); err != nil {
				t.Fatal(err)
			}
			found[m.GetTarget()] = append(found[m.GetTarget()], m.GetAction().String())
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	want := map[string][]string{
		tenant + "/subnets/one": {"ACTION_UPDATE"}, tenant + "/subnets/two": {"ACTION_CREATE"}, tenant + "/subnets/three": {"ACTION_CREATE"},
	}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("the operations on subnets (-want +got):\n%s", diff)
	}
}

func compositeAlone(t *testing.T, i *story.Installation, conn *grpc.ClientConn) {
	nets, ctx := networkv1.NewPrivateNetworkServiceClient(conn), t.Context()
	name := tenant + "/privateNetworks/office"
	op, err := nets.CreatePrivateNetwork(ctx, &networkv1.CreatePrivateNetworkRequest{Parent: tenant, PrivateNetworkId: "office", PrivateNetwork: &networkv1.PrivateNetwork{
		Cloud: "clouds/lab", Spec: &networkv1.PrivateNetworkSpec{Cidr: "10.80.0.0/24", External: "public"},
	}})
	made := &networkv1.PrivateNetwork{}
	finish(t, conn, op, err, made)
	if made.GetObserved().GetCidr() != "10.80.0.0/24" || made.GetObserved().GetNetworkId() == "" {
		t.Errorf("the operation's answer: %v", made)
	}
	if counts := i.Cloud.Inventory(t).Counts(); counts["network.network"] != 1 || counts["network.subnet"] != 1 || counts["network.router"] != 1 {
		t.Errorf("a private network is %v", counts)
	}
	got, err := nets.GetPrivateNetwork(ctx, &networkv1.GetPrivateNetworkRequest{Name: name})
	if err != nil || got.GetStatus().GetPhase() != kindv1.Phase_PHASE_READY {
		t.Errorf("get: %v, %v", got, err)
	}
	all, err := nets.ListPrivateNetworks(ctx, &networkv1.ListPrivateNetworksRequest{Parent: tenant})
	if err != nil || len(all.GetPrivateNetworks()) != 1 || all.GetPrivateNetworks()[0].GetName() != name {
		t.Errorf("list: %v, %v", all, err)
	}
	op, err = nets.DeletePrivateNetwork(ctx, &networkv1.DeletePrivateNetworkRequest{Name: name})
	finish(t, conn, op, err, nil)
	if _, err := nets.GetPrivateNetwork(ctx, &networkv1.GetPrivateNetworkRequest{Name: name}); status.Code(err) != codes.NotFound {
		t.Errorf("a private network that was deleted: %v", err)
	}
}

// compositeOfStack reads composite resources that a stack holds by their own API, beside one that was made alone. What the
// stack owns is changed by its document alone: the refusals are those of a plain resource that the stack owns.
func compositeOfStack(t *testing.T, i *story.Installation, conn *grpc.ClientConn) {
	nets, ctx := networkv1.NewPrivateNetworkServiceClient(conn), t.Context()
	owned, office := tenant+"/privateNetworks/house.net", tenant+"/privateNetworks/office"
	i.Apply(t, stackOf("house", `  net: {kind: PrivateNetwork, labels: {env: prod}, spec: {cidr: "${params.range}", external: public, dnsServers: ["${lan.gateway_ip}"]}}
  lan: {kind: Subnet, spec: {network: base, cidr: 10.72.0.0/24}}
  base: {kind: Network, spec: {}}
  vm: {kind: Server, spec: {image: tiny, flavor: m1.tiny, network: net}}
  door: {kind: Publication, spec: {target: vm, port: 80, via: FLOATING_IP}}
parameters: {range: 10.71.0.0/24}
`), "DONE")
	op, err := nets.CreatePrivateNetwork(ctx, &networkv1.CreatePrivateNetworkRequest{Parent: tenant, PrivateNetworkId: "office", PrivateNetwork: &networkv1.PrivateNetwork{
		Cloud: "clouds/lab", Spec: &networkv1.PrivateNetworkSpec{Cidr: "10.73.0.0/24"},
	}})
	finish(t, conn, op, err, nil)
	net := &networkv1.PrivateNetwork{}
	i.Must(t, "get", "privatenetwork", "house.net", "-o", "json").Decode(t, net)
	if s := net.GetSpec(); s.GetCidr() != "10.71.0.0/24" || s.GetExternal() != "public" || !slices.Equal(s.GetDnsServers(), []string{"10.72.0.1"}) {
		t.Errorf("the spec: %v", s)
	}
	if net.GetStatus().GetPhase() != kindv1.Phase_PHASE_READY || net.GetMetadata().GetStack() != tenant+"/stacks/house" || net.GetMetadata().GetLabels()["env"] != "prod" ||
		net.GetObserved().GetNetworkId() == "" || net.GetObserved().GetGatewayIp() != "10.71.0.1" || net.GetCloud() != "clouds/lab" {
		t.Errorf("the private network: %v", net)
	}
	door := &networkv1.Publication{}
	i.Must(t, "get", "publication", "house.door", "-o", "json").Decode(t, door)
	if door.GetSpec().GetTarget() != tenant+"/servers/house.vm" || door.GetObserved().GetAddress() == "" || door.GetObserved().GetPort() != 80 {
		t.Errorf("the publication: %v", door)
	}
	if got := privateNetworks(t, nets, ""); !slices.Equal(got, []string{owned, office}) {
		t.Errorf("pages of one: %v", got)
	}
	if got := privateNetworks(t, nets, `metadata.stack.endsWith("/house") && status.phase == "READY"`); !slices.Equal(got, []string{owned}) {
		t.Errorf("by filter: %v", got)
	}
	if out := i.Must(t, "get", "privatenetworks").Out; !strings.Contains(out, "house.net") || !strings.Contains(out, "office") {
		t.Errorf("the table: %s", out)
	}
	i.Must(t, "describe", "privatenetwork", "house.net")
	_, composite := nets.UpdatePrivateNetwork(ctx, &networkv1.UpdatePrivateNetworkRequest{PrivateNetwork: &networkv1.PrivateNetwork{Name: owned, Spec: net.GetSpec()}})
	base := tenant + "/networks/house.base"
	_, plain := networkv1.NewNetworkServiceClient(conn).UpdateNetwork(ctx, &networkv1.UpdateNetworkRequest{Network: &networkv1.Network{Name: base, Spec: &networkv1.NetworkSpec{}}})
	alike(t, "a change", composite, owned, plain, base)
	_, composite = nets.DeletePrivateNetwork(ctx, &networkv1.DeletePrivateNetworkRequest{Name: owned})
	_, plain = networkv1.NewNetworkServiceClient(conn).DeleteNetwork(ctx, &networkv1.DeleteNetworkRequest{Name: base})
	alike(t, "a deletion", composite, owned, plain, base)
	i.Destroy(t, "house", "DONE")
	if _, err := nets.GetPrivateNetwork(ctx, &networkv1.GetPrivateNetworkRequest{Name: owned}); status.Code(err) != codes.NotFound {
		t.Errorf("after its stack was destroyed: %v", err)
	}
	op, err = nets.DeletePrivateNetwork(ctx, &networkv1.DeletePrivateNetworkRequest{Name: office})
	finish(t, conn, op, err, nil)
}

// alike fails the test unless both were refused in the same words.
func alike(t *testing.T, what string, composite error, name string, plain error, plainName string) {
	t.Helper()
	want := strings.ReplaceAll(status.Convert(plain).Message(), plainName, name)
	if status.Code(composite) != codes.FailedPrecondition || status.Code(plain) != codes.FailedPrecondition || status.Convert(composite).Message() != want {
		t.Errorf("%s of what a stack owns: %v, and of a plain kind %v", what, composite, plain)
	}
}

// privateNetworks lists in pages of one.
func privateNetworks(t *testing.T, nets networkv1.PrivateNetworkServiceClient, filter string) []string {
	t.Helper()
	var names []string
	for token := ""; ; {
		page, err := nets.ListPrivateNetworks(t.Context(), &networkv1.ListPrivateNetworksRequest{Parent: tenant, PageSize: 1, PageToken: token, Filter: filter})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range page.GetPrivateNetworks() {
			names = append(names, n.GetName())
		}
		if token = page.GetNextPageToken(); token == "" {
			return names
		}
	}
}

// byReflection does what grpcurl does: it knows no contract, asks the server for it, and speaks JSON.
func byReflection(t *testing.T, conn *grpc.ClientConn) {
	ctx, cancel := context.WithTimeout(t.Context(), story.Patience)
	defer cancel()
	types := reflected(ctx, t, conn, "weft.network.v1.NetworkService")
	call := func(service, method, request string) *dynamicpb.Message {
		t.Helper()
		d, err := types.FindDescriptorByName(protoreflect.FullName(service))
		if err != nil {
			t.Fatal(err)
		}
		m := d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(method))
		in, out := dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output())
		if err := protojson.Unmarshal([]byte(request), in); err != nil {
			t.Fatal(err)
		}
		if err := conn.Invoke(ctx, "/"+service+"/"+method, in, out); err != nil {
			t.Fatalf("%s: %s", method, err)
		}
		return out
	}
	field := func(m *dynamicpb.Message, name protoreflect.Name) protoreflect.Value {
		return m.Get(m.Descriptor().Fields().ByName(name))
	}
	wait := func(op *dynamicpb.Message) {
		t.Helper()
		finish(t, conn, &longrunningpb.Operation{Name: field(op, "name").String()}, nil, nil)
	}
	wait(call("weft.network.v1.NetworkService", "CreateNetwork", `{"parent": "tenants/default", "networkId": "curled", "network": {"cloud": "clouds/lab", "spec": {}}}`))
	list := call("weft.network.v1.NetworkService", "ListNetworks", `{"parent": "tenants/default", "pageSize": 1, "filter": "name.endsWith('/curled')"}`)
	if n := field(list, "networks").List().Len(); n != 1 {
		t.Errorf("listed %d networks, want 1", n)
	}
	wait(call("weft.network.v1.NetworkService", "DeleteNetwork", `{"name": "tenants/default/networks/curled"}`))
}

// reflected asks the server for the files that describe a service.
func reflected(ctx context.Context, t *testing.T, conn *grpc.ClientConn, service string) *protoregistry.Files {
	t.Helper()
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	set := &descriptorpb.FileDescriptorSet{}
	seen := map[string]bool{}
	ask := func(r *reflectionv1.ServerReflectionRequest) {
		t.Helper()
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e := answer.GetErrorResponse(); e != nil {
			t.Fatalf("reflection: %s", e.GetErrorMessage())
		}
		for _, raw := range answer.GetFileDescriptorResponse().GetFileDescriptorProto() {
			f := &descriptorpb.FileDescriptorProto{}
			if err := proto.Unmarshal(raw, f); err != nil {
				t.Fatal(err)
			}
			if !seen[f.GetName()] {
				seen[f.GetName()] = true
				set.File = append(set.File, f)
			}
		}
	}
	ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: service}})
	for n := 0; n < len(set.File); n++ {
		for _, dependency := range set.File[n].GetDependency() {
			if !seen[dependency] {
				ask(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileByFilename{FileByFilename: dependency}})
			}
		}
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	return files
}
