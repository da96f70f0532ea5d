package service

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/reconcile"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/store"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// Quotas gives the account of what tenants take. What they may have is read where the orchestrator keeps it.
func Quotas(s store.Store) *quota.Account {
	return &quota.Account{Store: s, Limits: func(ctx context.Context, tenant string) (quota.Amounts, *store.Compare, error) {
		m, stands, err := record.Peek(ctx, s, "orchestrator", "tenants/"+tenant)
		if fault.Is(err, fault.NotFound) {
			return nil, nil, nil
		}
		if err != nil {
			return nil, nil, err
		}
		t, ok := m.(*orchestratorv1.Tenant)
		if !ok {
			return nil, nil, fault.New(fault.Internal, "tenants/%s is kept as something else than a tenant", tenant)
		}
		return quota.Limits(t.GetSpec().GetQuotas().ProtoReflect()), stands, nil
	}}
}

// opener gives the account at which a resource is made.
type opener func(wanted, driver.Refs) (*reconcile.Account, error)

// drawsOf tells what a resource takes of its tenant's quotas once it is as wanted. The provider is asked only about kinds of
// which it knows more than the spec tells. The error is Invalid, in the field, if the spec asks for what it does not have.
func (s *Service) drawsOf(ctx context.Context, w wanted, open opener) (*participantv1.Draw, error) {
	kind, spec, path, count := s.kinds[w.kind.Type], w.spec, "", int64(1)
	by := kind.MostBy // if how many there are is not known, nothing is known of what they take
	counted := slices.IndexFunc(by, func(field string) bool { return unknownField(w, field) })
	if kind.Most != nil {
		typ, field, part, most := kind.Most(spec)
		kind, spec, path, count = s.kinds[typ], part, field+".", most
		w.kind, _ = s.own.ByType(typ)
	}
	out := &participantv1.Draw{Name: w.name, Amounts: map[string]int64{}, Unknown: map[string]string{}}
	for _, d := range kind.Draws {
		switch field := path + d.Field; {
		case counted >= 0:
			out.Unknown[d.Quota] = by[counted]
		case d.Field != "" && unknownField(w, field):
			out.Unknown[d.Quota] = field
		}
	}
	each := quota.Of(kind.Draws, spec)
	if slices.ContainsFunc(kind.Draws, func(d quota.Draw) bool { return d.Sized && !unknownField(w, path+d.Field) }) {
		sizes, err := s.sizes(ctx, w, spec, open)
		if rest, inSpec := strings.CutPrefix(fault.Field(err), "spec."); inSpec && path != "" {
			return nil, &fault.Error{Kind: fault.KindOf(err), Field: "spec." + path + rest, Cause: err}
		}
		if err != nil {
			return nil, err
		}
		each = each.Plus(sizes)
	}
	for name, n := range each {
		if n > 0 {
			out.Amounts[name] = n * count
		}
	}
	return out, nil
}

// unknownField tells whether a field's value, or that of one that it is in, is known only later.
func unknownField(w wanted, field string) bool {
	return slices.ContainsFunc(w.unknown, func(u string) bool {
		return strings.HasPrefix(field+".", strings.TrimPrefix(u, "spec.")+".")
	})
}

// sizes asks the provider how much a spec takes. One that has no such kind tells nothing.
func (s *Service) sizes(ctx context.Context, w wanted, spec proto.Message, open opener) (quota.Amounts, error) {
	account, err := open(w, nil)
	if err != nil {
		return nil, err
	}
	d, ok := account.Session.Drivers[w.kind.Type]
	if !ok {
		return nil, nil
	}
	sized, ok := d.Sized()
	if !ok {
		return nil, nil
	}
	sizes, err := sized.Sizes(ctx, []proto.Message{spec})
	if err != nil {
		return nil, err
	}
	return sizes[0], nil
}
