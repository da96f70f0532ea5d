package ledger

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/record/recordtest"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/service"
	"github.com/weftcloud/weft/pkg/store/memstore"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// having is a service with records at clouds, and an orphan of west at each cloud that it is to look at.
type having struct {
	participantv1.UnimplementedParticipantServiceServer
	grpc.ClientConnInterface

	records []*participantv1.LedgerEntry
	// failing is how many calls fail at first.
	failing int
}

func (h *having) ListLedger(_ context.Context, r *participantv1.ListLedgerRequest) (*participantv1.ListLedgerResponse, error) {
	if h.failing > 0 {
		h.failing--
		return nil, fault.New(fault.Unavailable, "it is away")
	}
	out := &participantv1.ListLedgerResponse{}
	for _, e := range h.records {
		if strings.HasPrefix(e.GetName(), r.GetTenant()+"/") {
			out.Entries = append(out.Entries, e)
		}
	}
	for _, c := range r.GetClouds() {
		out.Entries = append(out.Entries, &participantv1.LedgerEntry{Name: "tenants/west/networks/lost", Cloud: c, Key: c, Orphan: true})
	}
	return out, nil
}

// Invoke implements grpc.ClientConnInterface: it is called as a peer is.
func (h *having) Invoke(ctx context.Context, method string, in, out any, _ ...grpc.CallOption) error {
	request, asked := in.(*participantv1.ListLedgerRequest)
	response, ok := out.(*participantv1.ListLedgerResponse)
	if !asked || !ok {
		return fault.New(fault.Unsupported, "%s is not faked", method)
	}
	answer, err := h.ListLedger(ctx, request)
	if err != nil {
		return err
	}
	proto.Merge(response, answer)
	return nil
}

// TestWhereOrphansAreLookedFor: of the clouds that a tenant may not use, those in which it has something are looked at, too:
// it knows their names, and would be told that all is clean. Of the others nothing is said.
func TestWhereOrphansAreLookedFor(t *testing.T) {
	volume := &participantv1.LedgerEntry{Name: "tenants/west/volumes/v", Cloud: "clouds/lab"}
	project := &participantv1.LedgerEntry{Name: "tenants/west/projects/lab", Cloud: "clouds/lab"}
	foreign := &participantv1.LedgerEntry{Name: "tenants/acme/volumes/v", Cloud: "clouds/lab"}
	for name, c := range map[string]struct {
		peer, own   *having
		want        []string
		unreachable int
	}{
		"a record there":         {&having{records: []*participantv1.LedgerEntry{volume}}, &having{}, []string{"clouds/lab", "clouds/open"}, 0},
		"a project there":        {&having{}, &having{records: []*participantv1.LedgerEntry{project}}, []string{"clouds/lab", "clouds/open"}, 0},
		"nothing there":          {&having{records: []*participantv1.LedgerEntry{foreign}}, &having{}, []string{"clouds/open"}, 0},
		"nobody knows for sure":  {&having{records: []*participantv1.LedgerEntry{volume}, failing: 1}, &having{}, []string{"clouds/open"}, 1},
		"nobody knows and hears": {&having{records: []*participantv1.LedgerEntry{volume}, failing: 2}, &having{}, []string{"clouds/open"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Server{Book: clouds(t), Own: c.own, Peers: service.Peers{"storage": c.peer}, Now: time.Now}
			out, err := s.ListLedgerEntries(t.Context(), &orchestratorv1.ListLedgerEntriesRequest{Parent: "tenants/west", Orphans: true})
			if err != nil {
				t.Fatal(err)
			}
			var looked []string
			for _, e := range out.GetEntries() {
				if e.GetOrphan() {
					looked = append(looked, e.GetCloud())
				}
			}
			slices.Sort(looked)
			if got := slices.Compact(looked); !slices.Equal(got, c.want) {
				t.Errorf("looked at %v, want %v", got, c.want)
			}
			if len(out.GetUnreachable()) != c.unreachable {
				t.Errorf("unreachable are %v, want %d", out.GetUnreachable(), c.unreachable)
			}
		})
	}
}

// clouds gives a book of two: open to all, and lab for acme only.
func clouds(t *testing.T) *record.Book {
	t.Helper()
	kinds, err := resource.NewRegistry(&orchestratorv1.Cloud{})
	if err != nil {
		t.Fatal(err)
	}
	mem := memstore.New()
	book := record.New(record.Config{Service: "orchestrator", Store: mem, Outbox: recordtest.NewBox(mem, "/box/"), Kinds: kinds, Now: time.Now})
	for _, c := range []*orchestratorv1.Cloud{
		{Name: "clouds/open", Spec: &orchestratorv1.CloudSpec{Driver: "openstack"}},
		{Name: "clouds/lab", Spec: &orchestratorv1.CloudSpec{Driver: "openstack", Tenants: []string{"tenants/acme"}}},
	} {
		object := resource.Wrap(c)
		kind, _, err := kinds.Of(object.Name())
		if err != nil {
			t.Fatal(err)
		}
		object.Metadata().Key = "k-" + c.GetName()
		e := &record.Entry{ID: record.ID{Name: c.GetName(), Key: object.Metadata().GetKey()}, Kind: kind, Record: &participantv1.Record{}, Object: object}
		if err := book.Add(t.Context(), e, record.Notice{}); err != nil {
			t.Fatal(err)
		}
	}
	return book
}
