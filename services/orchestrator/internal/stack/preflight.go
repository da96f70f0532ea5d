package stack

import (
	"context"
	"maps"
	"slices"
	"sort"

	"golang.org/x/sync/errgroup"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/quota"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/plan"
)

// preflight asks every service that a plan touches to look at the clouds, all at once. Services tell what they need of a
// quota; whether it suffices is decided here, since several may draw on one, each little enough by itself.
func (s *Server) preflight(ctx context.Context, c *compiled, result *plan.Result) error {
	answers, err := s.ask(ctx, c.source.parent, result.Items)
	if err != nil {
		return err
	}
	for _, a := range answers {
		for _, f := range a.GetFindings() {
			if f.GetName() == "" && fault.Kind(f.GetFault().GetKind()) == fault.Quota {
				continue // what one service makes of the sums
			}
			c.problems = append(c.problems, result.Problem(f))
		}
	}
	quotas := drawn(answers)
	if c.result != nil {
		c.quotas = quotas
	}
	if err := s.tenantQuotas(ctx, c, result, answers); err != nil {
		return err
	}
	if !result.QuotasKnown() {
		return nil
	}
	return s.short(ctx, c, result, quotas)
}

// ask asks services about items, by service, and gives the answers in the order of the services' names.
func (s *Server) ask(ctx context.Context, tenant string, items map[string][]*participantv1.Item) ([]*participantv1.PreflightResponse, error) {
	services := slices.Sorted(maps.Keys(items))
	answers := make([]*participantv1.PreflightResponse, len(services))
	g, ctx := errgroup.WithContext(ctx)
	for i, name := range services {
		g.Go(func() error {
			client, err := s.participant(name)
			if err != nil {
				return err
			}
			answers[i], err = client.Preflight(ctx, &participantv1.PreflightRequest{Tenant: tenant, Items: items[name]})
			return fault.Wrap(fault.FromStatus(err), "preflight of the %s service", name)
		})
	}
	return answers, g.Wait()
}

// drawn adds up what the services need of each quota.
func drawn(answers []*participantv1.PreflightResponse) []*participantv1.QuotaUse {
	var out []*participantv1.QuotaUse
	for _, a := range answers {
		for _, q := range a.GetQuotas() {
			if i := slices.IndexFunc(out, func(o *participantv1.QuotaUse) bool { return sameQuota(o, q) }); i >= 0 {
				out[i].Need += q.GetNeed()
				continue
			}
			out = append(out, q)
		}
	}
	return out
}

func sameQuota(a, b *participantv1.QuotaUse) bool {
	return a.GetCloud() == b.GetCloud() && a.GetService() == b.GetService() && a.GetQuota() == b.GetQuota()
}

// short reports the quotas that do not suffice, each at the first resource, in the document's order, that passes the
// limit. Services tell sums only, so what the first resources need is found by asking about them alone; that is done
// only if a quota does not suffice, and halves what is in question each time.
func (s *Server) short(ctx context.Context, c *compiled, result *plan.Result, quotas []*participantv1.QuotaUse) error {
	m := &measure{s: s, ctx: ctx, tenant: c.source.parent, known: map[int][]*participantv1.QuotaUse{}}
	for _, q := range quotas {
		if !quota.Passes(q) {
			continue
		}
		if m.items == nil {
			m.sort(result)
		}
		f, err := m.first(q)
		if err != nil {
			return err
		}
		f.Fault = fault.Proto(quota.Fault(q), s.Now())
		c.problems = append(c.problems, result.Problem(f))
	}
	return nil
}

// measure finds what the first resources of a plan need.
type measure struct {
	s      *Server
	ctx    context.Context // of the one call that it serves
	tenant string
	items  []measured // in the document's order
	known  map[int][]*participantv1.QuotaUse
}

type measured struct {
	service string
	item    *participantv1.Item
}

func (m *measure) sort(result *plan.Result) {
	for _, name := range slices.Sorted(maps.Keys(result.Items)) {
		for _, i := range result.Items[name] {
			m.items = append(m.items, measured{name, i})
		}
	}
	slices.SortStableFunc(m.items, func(a, b measured) int { return result.Compare(a.item, b.item) })
}

// first names the first item with which a quota does not suffice any more.
func (m *measure) first(q *participantv1.QuotaUse) (*participantv1.Finding, error) {
	var failed error
	n := sort.Search(len(m.items)-1, func(i int) bool {
		uses, err := m.upTo(i + 1)
		if err != nil && failed == nil {
			failed = err
		}
		return slices.ContainsFunc(uses, func(u *participantv1.QuotaUse) bool { return sameQuota(u, q) && quota.Passes(u) })
	})
	if failed != nil {
		return nil, failed
	}
	return &participantv1.Finding{Name: m.items[n].item.GetName()}, nil
}

// upTo gives what the first n items need.
func (m *measure) upTo(n int) ([]*participantv1.QuotaUse, error) {
	if uses, ok := m.known[n]; ok {
		return uses, nil
	}
	items := map[string][]*participantv1.Item{}
	for _, i := range m.items[:n] {
		items[i.service] = append(items[i.service], i.item)
	}
	answers, err := m.s.ask(m.ctx, m.tenant, items)
	if err != nil {
		return nil, err
	}
	m.known[n] = drawn(answers)
	return m.known[n], nil
}
