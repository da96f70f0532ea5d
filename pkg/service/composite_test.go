package service_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/service"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

const nets = acme + "/privateNetworks/"

// stacks keeps the stacks that are applied, as the orchestrator does, and what persons' stacks hold.
type stacks struct {
	orchestratorv1.UnimplementedStackServiceServer
	participantv1.UnimplementedParticipantServiceServer

	kept     map[string]*orchestratorv1.Stack
	held     map[string]*networkv1.PrivateNetwork
	vanished string // it goes between the list and the look
	changes  []string
}

func (s *stacks) ApplyStack(_ context.Context, r *orchestratorv1.ApplyStackRequest) (*longrunningpb.Operation, error) {
	s.changes = append(s.changes, "apply "+r.GetDocumentName())
	id := r.GetDocumentName()[len(nets):]
	name := acme + "/stacks/privatenetwork-" + id
	s.kept[name] = &orchestratorv1.Stack{
		Name: name, Document: r.GetDocument(), State: orchestratorv1.StackState_STACK_STATE_READY, Metadata: &kindv1.Metadata{Key: "k-" + id, Etag: fmt.Sprint(len(s.changes))},
	}
	return &longrunningpb.Operation{Name: acme + "/operations/1"}, nil
}

func (s *stacks) DeleteStack(_ context.Context, r *orchestratorv1.DeleteStackRequest) (*longrunningpb.Operation, error) {
	s.changes = append(s.changes, "delete "+r.GetName())
	return &longrunningpb.Operation{Name: acme + "/operations/2"}, nil
}

func (s *stacks) GetStack(_ context.Context, r *orchestratorv1.GetStackRequest) (*orchestratorv1.Stack, error) {
	st, ok := s.kept[r.GetName()]
	if !ok {
		return nil, fault.New(fault.NotFound, "%s does not exist", r.GetName())
	}
	return st, nil
}

func (s *stacks) ListStacks(context.Context, *orchestratorv1.ListStacksRequest) (*orchestratorv1.ListStacksResponse, error) {
	out := &orchestratorv1.ListStacksResponse{}
	for _, st := range s.kept {
		out.Stacks = append(out.Stacks, st)
	}
	return out, nil
}

func (s *stacks) Resolve(_ context.Context, r *participantv1.ResolveRequest) (*participantv1.ResolveResponse, error) {
	m, ok := s.held[r.GetName()]
	if !ok || r.GetName() == s.vanished {
		return nil, fault.New(fault.NotFound, "%s does not exist", r.GetName())
	}
	packed, err := anypb.New(m)
	return &participantv1.ResolveResponse{Resource: packed}, err
}

func (s *stacks) ListLedger(_ context.Context, r *participantv1.ListLedgerRequest) (*participantv1.ListLedgerResponse, error) {
	out := &participantv1.ListLedgerResponse{Entries: []*participantv1.LedgerEntry{{Name: acme + "/publications/shop.door", Type: "network.weft.cloud/Publication"}}}
	if r.GetTenant() != acme {
		return out, nil
	}
	for name := range s.held {
		out.Entries = append(out.Entries, &participantv1.LedgerEntry{Name: name, Type: "network.weft.cloud/PrivateNetwork"})
	}
	return out, nil
}

// hold lets a person's stack hold private networks.
func (s *stacks) hold(ids ...string) {
	for _, id := range ids {
		s.held[nets+id] = &networkv1.PrivateNetwork{
			Name: nets + id, Cloud: "clouds/lab", Spec: &networkv1.PrivateNetworkSpec{Cidr: "10.0.0.0/24"},
			Metadata: &kindv1.Metadata{Stack: acme + "/stacks/shop", Etag: "e1", Labels: map[string]string{"of": id}}, Status: &kindv1.Status{Phase: kindv1.Phase_PHASE_UPDATING},
		}
	}
}

func composites(t *testing.T) (*rig, *stacks, networkv1.PrivateNetworkServiceClient) {
	t.Helper()
	r := &rig{T: t, wire: wire{}}
	s := &stacks{kept: map[string]*orchestratorv1.Stack{}, held: map[string]*networkv1.PrivateNetwork{}}
	peer := wire{}
	orchestratorv1.RegisterStackServiceServer(peer, s)
	participantv1.RegisterParticipantServiceServer(peer, s)
	r.serve(service.Catalog{Service: "network", Kinds: []service.Kind{{Message: &networkv1.PrivateNetwork{}}}}, service.Peers{"orchestrator": peer})
	return r, s, networkv1.NewPrivateNetworkServiceClient(r.wire)
}

func makeNet(t *testing.T, c networkv1.PrivateNetworkServiceClient, id string) error {
	_, err := c.CreatePrivateNetwork(t.Context(), &networkv1.CreatePrivateNetworkRequest{Parent: acme, PrivateNetworkId: id, PrivateNetwork: &networkv1.PrivateNetwork{
		Cloud: "clouds/lab", Spec: &networkv1.PrivateNetworkSpec{Cidr: "10.1.0.0/24"}, Metadata: &kindv1.Metadata{Labels: map[string]string{"of": id}},
	}})
	return err
}

// TestCompositesOfStacks reads composite resources that a stack holds beside those that were made alone: one order, one
// paging, one filter.
func TestCompositesOfStacks(t *testing.T) {
	r, s, c := composites(t)
	for _, id := range []string{"office", "attic"} {
		if err := makeNet(t, c, id); err != nil {
			t.Fatal(err)
		}
	}
	s.hold("shop.net", "lab.net", "zoo.net")
	got, err := c.GetPrivateNetwork(t.Context(), &networkv1.GetPrivateNetworkRequest{Name: nets + "shop.net"})
	if diff := cmp.Diff(s.held[nets+"shop.net"], got, cmp.Comparer(func(a, b *networkv1.PrivateNetwork) bool { return proto.Equal(a, b) })); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	_, err = c.GetPrivateNetwork(t.Context(), &networkv1.GetPrivateNetworkRequest{Name: nets + "shop.nosuch"})
	r.want(err, fault.NotFound, "")
	alone, err := c.GetPrivateNetwork(t.Context(), &networkv1.GetPrivateNetworkRequest{Name: nets + "office"})
	if err != nil || alone.GetMetadata().GetLabels()["of"] != "office" || alone.GetStatus().GetPhase() != kindv1.Phase_PHASE_READY {
		t.Errorf("%v, %v", alone, err)
	}
	tests := map[string]struct {
		size   int32
		filter string
		gone   string
		want   []string
	}{
		"all":            {want: []string{"attic", "lab.net", "office", "shop.net", "zoo.net"}},
		"pages of two":   {size: 2, want: []string{"attic", "lab.net", "office", "shop.net", "zoo.net"}},
		"pages of one":   {size: 1, want: []string{"attic", "lab.net", "office", "shop.net", "zoo.net"}},
		"by stack":       {size: 1, filter: `metadata.stack == "` + acme + `/stacks/shop"`, want: []string{"lab.net", "shop.net", "zoo.net"}},
		"by label":       {filter: `metadata.labels.of == "zoo.net"`, want: []string{"zoo.net"}},
		"by phase":       {filter: `status.phase == "READY"`, want: []string{"attic", "office"}},
		"one that goes":  {size: 2, gone: "lab.net", want: []string{"attic", "office", "shop.net", "zoo.net"}},
		"the last goes":  {size: 1, gone: "zoo.net", want: []string{"attic", "lab.net", "office", "shop.net"}},
		"none by filter": {filter: `spec.cidr == "10.9.0.0/24"`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s.vanished = nets + test.gone
			var names []string
			for token := ""; ; {
				page, err := c.ListPrivateNetworks(t.Context(), &networkv1.ListPrivateNetworksRequest{Parent: acme, PageSize: test.size, PageToken: token, Filter: test.filter})
				if err != nil {
					t.Fatal(err)
				}
				if test.size > 0 && len(page.GetPrivateNetworks()) > int(test.size) {
					t.Fatalf("a page of %d has %d", test.size, len(page.GetPrivateNetworks()))
				}
				for _, n := range page.GetPrivateNetworks() {
					names = append(names, n.GetName()[len(nets):])
				}
				if token = page.GetNextPageToken(); token == "" {
					break
				}
			}
			if !slices.Equal(names, test.want) {
				t.Errorf("listed %v, want %v", names, test.want)
			}
		})
	}
}

// TestCompositeThatAStackOwns is changed by its stack's document alone, as plain kinds are.
func TestCompositeThatAStackOwns(t *testing.T) {
	r, s, c := composites(t)
	s.hold("shop.net")
	change := func(etag string) error {
		_, err := c.UpdatePrivateNetwork(t.Context(), &networkv1.UpdatePrivateNetworkRequest{PrivateNetwork: &networkv1.PrivateNetwork{
			Name: nets + "shop.net", Spec: &networkv1.PrivateNetworkSpec{Mtu: 1400}, Metadata: &kindv1.Metadata{Etag: etag},
		}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec.mtu"}}})
		return err
	}
	r.want(change(""), fault.Precondition, "")
	r.want(change("e1"), fault.Precondition, "")
	r.want(change("old"), fault.Conflict, "")
	_, err := c.DeletePrivateNetwork(t.Context(), &networkv1.DeletePrivateNetworkRequest{Name: nets + "shop.net"})
	r.want(err, fault.Precondition, "")
	_, err = c.DeletePrivateNetwork(t.Context(), &networkv1.DeletePrivateNetworkRequest{Name: nets + "shop.net", Etag: "old"})
	r.want(err, fault.Conflict, "")
	_, err = c.DeletePrivateNetwork(t.Context(), &networkv1.DeletePrivateNetworkRequest{Name: nets + "shop.other"})
	r.want(err, fault.NotFound, "")
	r.want(makeNet(t, c, "shop.net"), fault.Exists, "")
	r.want(makeNet(t, c, "shop.other"), fault.Invalid, "")
	if len(s.changes) != 0 {
		t.Errorf("what was refused changed something: %v", s.changes)
	}
}

// TestCompositeAlone changes and deletes one that its own API made: what the mask does not name stays, and what was
// changed since is not overwritten.
func TestCompositeAlone(t *testing.T) {
	r, s, c := composites(t)
	if err := makeNet(t, c, "office"); err != nil {
		t.Fatal(err)
	}
	change := &networkv1.UpdatePrivateNetworkRequest{PrivateNetwork: &networkv1.PrivateNetwork{
		Name: nets + "office", Spec: &networkv1.PrivateNetworkSpec{Mtu: 1400}, Metadata: &kindv1.Metadata{Etag: "old"},
	}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec.mtu"}}}
	_, err := c.UpdatePrivateNetwork(t.Context(), change)
	r.want(err, fault.Conflict, "")
	change.PrivateNetwork.Metadata.Etag = "1"
	if _, err := c.UpdatePrivateNetwork(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	got, err := c.GetPrivateNetwork(t.Context(), &networkv1.GetPrivateNetworkRequest{Name: nets + "office"})
	if err != nil || got.GetSpec().GetMtu() != 1400 || got.GetSpec().GetCidr() != "10.1.0.0/24" || got.GetMetadata().GetLabels()["of"] != "office" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := c.DeletePrivateNetwork(t.Context(), &networkv1.DeletePrivateNetworkRequest{Name: nets + "office", Etag: "2"}); err != nil {
		t.Fatal(err)
	}
	want := []string{"apply " + nets + "office", "apply " + nets + "office", "delete " + acme + "/stacks/privatenetwork-office"}
	if diff := cmp.Diff(want, s.changes); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}
