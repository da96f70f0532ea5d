package service

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/reconcile"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// preflight looks at the clouds whether resources can be made as asked. It reports all that is wrong, and what it could
// not look at, as findings; it changes nothing.
func (s *Service) preflight(ctx context.Context, items []wanted) (*participantv1.PreflightResponse, error) {
	ctx = driver.Remembering(ctx)
	p := &flight{s: s, ctx: ctx, planned: planned(items), groups: map[*reconcile.Account]map[string][]driver.Item[proto.Message]{}, quotas: map[quotaKey]*participantv1.QuotaUse{}, parts: map[partKey]string{}, claimed: map[record.Want]string{}}
	for _, w := range items {
		p.whole(w)
	}
	for account, kinds := range p.groups {
		for _, typ := range slices.Sorted(maps.Keys(kinds)) {
			if err := p.check(account, typ, kinds[typ]); err != nil {
				return nil, err
			}
		}
	}
	quotas := p.total()
	draws := p.draws(items)
	slices.SortStableFunc(p.findings, func(a, b *participantv1.Finding) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return &participantv1.PreflightResponse{Findings: p.findings, Quotas: quotas, Draws: draws}, ctx.Err()
}

type quotaKey struct{ cloud, service, quota string }

// flight is one preflight under way.
type flight struct {
	s        *Service
	ctx      context.Context // of the one call that it serves
	planned  driver.Refs
	groups   map[*reconcile.Account]map[string][]driver.Item[proto.Message]
	claimed  map[record.Want]string // by which item it is asked for first
	findings []*participantv1.Finding
	quotas   map[quotaKey]*participantv1.QuotaUse
	parts    map[partKey]string // the field that a part is made from
}

// partKey is a part by the name of the whole and by its own type.
type partKey struct{ name, typ string }

// whole finds the accounts of an item, or of what it is made of.
func (p *flight) whole(w wanted) {
	k := p.s.kinds[w.kind.Type]
	if k.Parts == nil {
		p.place(w)
		return
	}
	if w.spec == nil {
		return // nothing is made
	}
	for _, part := range k.Parts(w.spec, w.former) {
		kind, ok := p.s.own.ByType(part.Type)
		if !ok {
			p.found(w.name, part.Field, fault.New(fault.Internal, "%s is made of %s, which this service does not have", w.kind.Name, part.Type))
			return
		}
		inner := wanted{name: w.name, kind: kind, cloud: w.cloud, spec: part.Spec, former: part.Former, change: part.Change}
		for _, u := range w.unknown {
			if rest, below := strings.CutPrefix(strings.TrimPrefix(u, "spec."), part.Field+"."); below {
				inner.unknown = append(inner.unknown, rest)
			}
		}
		p.parts[partKey{w.name, part.Type}] = part.Field
		p.place(inner)
	}
}

// fieldOf gives the field of an item as the person wrote it.
func (p *flight) fieldOf(name, typ, field string) string {
	at, isPart := p.parts[partKey{name, typ}]
	rest, inSpec := strings.CutPrefix(field, "spec.")
	if !isPart || !inSpec {
		return field
	}
	return "spec." + at + "." + rest
}

// found keeps what is wrong, once: of many parts all have the same faults.
func (p *flight) found(name, field string, err error) {
	next := &participantv1.Finding{Name: name, Field: field, Fault: fault.Proto(err, p.s.deps.Now())}
	for _, f := range p.findings {
		if f.GetName() == name && f.GetField() == field && f.GetFault().GetMessage() == next.GetFault().GetMessage() {
			return
		}
	}
	p.findings = append(p.findings, next)
}

// place finds the account of an item.
func (p *flight) place(w wanted) {
	refs := p.refs(w)
	p.claims(w, refs)
	account, err := p.account(w, refs)
	if err != nil {
		p.found(w.name, placeField(w), err)
		return
	}
	if p.groups[account] == nil {
		p.groups[account] = map[string][]driver.Item[proto.Message]{}
	}
	p.groups[account][w.kind.Type] = append(p.groups[account][w.kind.Type], w.item(refs, p.planned))
}

// claims looks whether what an item asks for of shared spaces is free, also of the items before it.
func (p *flight) claims(w wanted, refs driver.Refs) {
	ask := p.s.kinds[w.kind.Type].Claims
	if ask == nil || w.spec == nil {
		return
	}
	keys := map[string]string{}
	for name, m := range refs {
		keys[name] = resource.Wrap(m).Metadata().GetKey()
	}
	for _, want := range ask(w.spec, keys) {
		if slices.Contains(w.unknown, want.Field) {
			continue
		}
		owner, err := p.s.book.Holder(p.ctx, want, w.name)
		if err != nil {
			p.found(w.name, "spec."+want.Field, err)
			continue
		}
		if other, twice := p.claimed[want]; owner == "" && twice && want.Low == want.High {
			owner = other
		}
		if p.claimed[want] == "" {
			p.claimed[want] = w.name
		}
		if owner != "" {
			p.found(w.name, "spec."+want.Field, want.Taken(w.name, owner))
		}
	}
}

// placeField is the field that names where a resource is placed.
func placeField(w wanted) string {
	if w.kind.Options.GetPlacement() == kindv1.Placement_PLACEMENT_CLOUD {
		return "cloud"
	}
	if w.kind.Spec.Fields().ByName("credentials") != nil {
		return "spec.credentials"
	}
	return "spec.cluster"
}

// refs gives the resources that stand among those that an item refers to.
func (p *flight) refs(w wanted) driver.Refs {
	refs := driver.Refs{}
	for _, spec := range []proto.Message{w.spec, w.former} {
		if spec == nil {
			continue
		}
		for _, r := range resource.References(proto.Clone(spec)) {
			if target, ok := p.s.linked.Target(r); !ok || target.Service == "orchestrator" {
				continue // a secret, looked up when the account is opened
			}
			m, err := p.s.Resolve(p.ctx, r.Value, "")
			switch {
			case err == nil:
				refs[r.Value] = m
			case !fault.Is(err, fault.NotFound): // what does not exist yet is made by the plan
				p.found(w.name, "spec."+r.Path, fault.Wrap(err, "look up %s", r.Value))
			}
		}
	}
	return refs
}

// account gives the account of an item; a cluster may be made by the same plan.
func (p *flight) account(w wanted, refs driver.Refs) (*reconcile.Account, error) {
	tenant := resource.TenantOf(w.name)
	if w.kind.Options.GetPlacement() == kindv1.Placement_PLACEMENT_CLOUD {
		return p.s.accounts.cloud(p.ctx, w.cloud, tenant)
	}
	spec := w.spec
	if spec == nil {
		spec = w.former
	}
	if spec == nil {
		return nil, fault.New(fault.Invalid, "%s has no spec", w.name)
	}
	with := maps.Clone(refs)
	maps.Copy(with, p.planned)
	secret, err := clusterSecret(spec.ProtoReflect(), with)
	if err != nil {
		return nil, err
	}
	return p.s.accounts.cluster(p.ctx, secret, tenant)
}

// planned gives the resources that the same plan makes or changes, with the specs that they will have.
func planned(all []wanted) driver.Refs {
	out := driver.Refs{}
	for _, w := range all {
		if w.spec == nil {
			continue
		}
		m := resource.Wrap(w.kind.New())
		m.SetName(w.name)
		m.SetSpec(w.spec)
		out[w.name] = m.Message()
	}
	return out
}

// check lets one kind's driver look.
func (p *flight) check(account *reconcile.Account, typ string, items []driver.Item[proto.Message]) error {
	d, ok := account.Session.Drivers[typ]
	if !ok {
		p.found(items[0].Name, "kind", fault.New(fault.Unsupported, "%s has no driver for it", account.Name))
		return nil
	}
	checker, ok := d.Checker()
	if !ok {
		return nil
	}
	findings, quotas, err := checker.Check(p.ctx, items)
	if err != nil {
		p.found(items[0].Name, "", fault.Wrap(err, "look at %s", account.Name))
		return nil
	}
	for _, f := range findings {
		p.found(f.Name, p.fieldOf(f.Name, typ, f.Field), f.Fault)
	}
	for _, q := range quotas {
		key := quotaKey{account.Name, q.Service, q.Quota}
		use := p.quotas[key]
		if use == nil {
			use = &participantv1.QuotaUse{Cloud: account.Name, Service: q.Service, Quota: q.Quota}
			p.quotas[key] = use
		}
		use.Need, use.Used, use.Limit = use.GetNeed()+q.Need, q.Used, q.Limit
	}
	return nil
}

// total gives the quotas, and reports those that do not suffice.
func (p *flight) total() []*participantv1.QuotaUse {
	out := slices.SortedFunc(maps.Values(p.quotas), func(a, b *participantv1.QuotaUse) int {
		return cmp.Or(cmp.Compare(a.GetCloud(), b.GetCloud()), cmp.Compare(a.GetService(), b.GetService()), cmp.Compare(a.GetQuota(), b.GetQuota()))
	})
	for _, q := range out {
		if quota.Passes(q) {
			p.found("", "", quota.Fault(q))
		}
	}
	return out
}

// draws tells what the items take of their tenants' quotas, or why that cannot be told; those that go away, or take nothing,
// are left out.
func (p *flight) draws(items []wanted) []*participantv1.Draw {
	var out []*participantv1.Draw
	for _, w := range items {
		if w.spec == nil {
			continue
		}
		d, err := p.s.drawsOf(p.ctx, w, p.account)
		if err != nil {
			p.undrawn(w, err)
			out = append(out, &participantv1.Draw{Name: w.name, Fault: fault.Proto(err, p.s.deps.Now())})
			continue
		}
		if len(d.GetAmounts())+len(d.GetUnknown()) > 0 {
			out = append(out, d)
		}
	}
	return out
}

// undrawn reports that it cannot be told what an item takes, unless its field was found wrong already.
func (p *flight) undrawn(w wanted, err error) {
	field := cmp.Or(fault.Field(err), placeField(w))
	if !slices.ContainsFunc(p.findings, func(f *participantv1.Finding) bool { return f.GetName() == w.name && f.GetField() == field }) {
		p.found(w.name, field, err)
	}
}
