package operation

import (
	"context"
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/expr"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/service"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/frontdoor"
)

// A tenant's operations are kept in several places: sagas here, the single changes of each service's kinds in that
// service's records. A list goes through the places one after the other, so a page reads no more than it shows. Its token
// says in which place the page before ended and, in that place's own words, where.

// sagas is the place of the sagas. The others are named as their services.
const sagas = "sagas"

// peerPatience is how long another service may take for one page.
const peerPatience = 10 * time.Second

// listing is one request for a page, on its way through the places.
type listing struct {
	tenant, filter string
	match          func(proto.Message) (bool, error)
	// partial leaves out a service that cannot be asked.
	partial bool
	size    int
	out     *longrunningpb.ListOperationsResponse
}

// ListOperations lists the operations of a tenant: its sagas, newest first, then of each service those of single changes.
// The filter is over an operation's metadata. The name is tenants/{tenant}, or with /operations behind it.
func (s *Server) ListOperations(ctx context.Context, r *longrunningpb.ListOperationsRequest) (*longrunningpb.ListOperationsResponse, error) {
	l := &listing{tenant: resource.TenantOf(r.GetName()), filter: r.GetFilter(), partial: r.GetReturnPartialSuccess(), size: service.PageOfOperations(r.GetPageSize()), out: &longrunningpb.ListOperationsResponse{}}
	if l.tenant == "" {
		return nil, fault.InField("name", "%q is no tenant; it should look like tenants/acme", r.GetName())
	}
	var err error
	if l.match, err = expr.CompileFilter((&orchestratorv1.OperationMetadata{}).ProtoReflect().Descriptor(), r.GetFilter()); err != nil {
		return nil, err
	}
	places := append([]string{sagas, "orchestrator"}, slices.Sorted(maps.Keys(s.Peers))...)
	place, token, err := parseToken(r.GetPageToken(), places)
	if err != nil {
		return nil, err
	}
	for i := place; i < len(places); i++ {
		if token, err = s.listPlace(ctx, places[i], token, l); err != nil {
			return nil, err
		}
		if token != "" {
			l.out.NextPageToken = tokenOf(places[i], token)
			return l.out, nil
		}
		if len(l.out.GetOperations()) >= l.size && i+1 < len(places) {
			l.out.NextPageToken = tokenOf(places[i+1], "")
			return l.out, nil
		}
	}
	return l.out, nil
}

func tokenOf(place, inner string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(place + " " + inner))
}

// parseToken gives the place at which a list goes on, and that place's own token.
func parseToken(token string, places []string) (int, string, error) {
	if token == "" {
		return 0, "", nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	place, inner, _ := strings.Cut(string(raw), " ")
	i := slices.Index(places, place)
	if err != nil || i < 0 {
		return 0, "", fault.InField("page_token", "%q is no token of this list", token)
	}
	return i, inner, nil
}

// listPlace fills the page from one place, and gives the place's token if there is more than the page takes.
func (s *Server) listPlace(ctx context.Context, place, token string, l *listing) (string, error) {
	if place == sagas {
		return s.listSagas(ctx, token, l)
	}
	for {
		page, err := s.listService(ctx, place, &longrunningpb.ListOperationsRequest{
			Name: "tenants/" + l.tenant, Filter: l.filter, PageSize: int32(l.size - len(l.out.GetOperations())), PageToken: token,
		})
		if err != nil {
			err = fault.Wrap(fault.FromStatus(err), "list the operations of the %s service", place)
		}
		if l.partial && ctx.Err() == nil && fault.Is(err, fault.Unavailable) {
			l.out.Unreachable = append(l.out.Unreachable, "services/"+place)
			return "", nil
		}
		if err != nil {
			return "", err
		}
		l.out.Operations = append(l.out.Operations, page.GetOperations()...)
		if token = page.GetNextPageToken(); token == "" || len(l.out.GetOperations()) >= l.size {
			return token, nil
		}
	}
}

func (s *Server) listService(ctx context.Context, name string, r *longrunningpb.ListOperationsRequest) (*longrunningpb.ListOperationsResponse, error) {
	if name == "orchestrator" {
		return s.Own.ListOperations(ctx, r)
	}
	ctx, cancel := context.WithTimeout(frontdoor.OnBehalf(ctx), peerPatience)
	defer cancel()
	return longrunningpb.NewOperationsClient(s.Peers[name]).ListOperations(ctx, r)
}

// listSagas fills the page with sagas that are older than the last one of the page before.
func (s *Server) listSagas(ctx context.Context, last string, l *listing) (string, error) {
	names, err := s.Engine.Names(ctx, l.tenant)
	if err != nil {
		return "", err
	}
	slices.Sort(names) // their ids tell the time (UUIDv7)
	slices.Reverse(names)
	for _, name := range names {
		if last != "" && name >= last {
			continue
		}
		if len(l.out.GetOperations()) == l.size {
			return l.out.GetOperations()[l.size-1].GetName(), nil
		}
		summary, err := s.Engine.Read(ctx, name)
		if fault.Is(err, fault.NotFound) {
			continue // it is so old that it is no longer kept
		}
		if err != nil {
			return "", err
		}
		ok, err := l.match(summary.GetOperation())
		if err != nil {
			return "", err
		}
		if !ok {
			continue
		}
		op, err := s.Describe(ctx, summary)
		if err != nil {
			return "", err
		}
		l.out.Operations = append(l.out.Operations, op)
	}
	return "", nil
}
