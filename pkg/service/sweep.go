package service

import (
	"context"
	"slices"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/installation"
	"github.com/weftcloud/weft/pkg/reconcile"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// Sweep deletes orphans. Nothing is taken from the request but which objects are meant: that each bears our mark and has no
// record is found out anew, right before its deletion. A record stands before its object is made, so that what has none now
// cannot be about to get one.
func (p *participantServer) Sweep(ctx context.Context, r *participantv1.SweepRequest) (*participantv1.SweepResponse, error) {
	out := &participantv1.SweepResponse{}
	listed := map[listing][]driver.Marked{}
	for _, o := range r.GetOrphans() {
		swept := &participantv1.Swept{Orphan: o}
		if err := p.sweep(ctx, o, listed); err != nil {
			swept.Fault = fault.Proto(fault.Wrap(err, "sweep %s", o.GetProviderId()), p.s.deps.Now())
		}
		out.Swept = append(out.Swept, swept)
	}
	return out, nil
}

// listing is what is listed once for all orphans of a request.
type listing struct {
	account *reconcile.Account
	typ     string
}

func (p *participantServer) sweep(ctx context.Context, o *participantv1.Orphan, listed map[listing][]driver.Marked) error {
	account, elsewhere, err := p.accountAt(ctx, o.GetCloud(), resource.TenantOf(o.GetName()))
	if err != nil {
		return err
	}
	d, ok := account.Session.Drivers[o.GetType()]
	if !ok {
		return fault.New(fault.Unsupported, "%s has no driver for %s", account.Name, o.GetType())
	}
	lister, ok := d.Lister()
	if !ok {
		return fault.New(fault.Unsupported, "objects of type %s bear no mark that could be listed", o.GetType())
	}
	at := listing{account, o.GetType()}
	if _, seen := listed[at]; !seen {
		if listed[at], err = lister.ListMarked(ctx); err != nil {
			return fault.Wrap(err, "list what bears our mark")
		}
	}
	i := slices.IndexFunc(listed[at], func(m driver.Marked) bool { return m.ID == o.GetProviderId() })
	if i < 0 && elsewhere != nil {
		return fault.New(fault.Unavailable, "it is not in the project of %s's own credentials, and a project of its tenant cannot be looked into: %s", account.Name, elsewhere)
	}
	if i < 0 {
		return nil // it is gone
	}
	m := listed[at][i]
	if m.Key != o.GetKey() || !installation.Owns(p.s.deps.Installation, m.Key) {
		return fault.New(fault.Denied, "it bears the key %s, which is not the orphan's, or another installation's", m.Key)
	}
	if known, err := p.known(ctx, m); known || err != nil {
		return err
	}
	return account.Erase(ctx, d, m.ID, resource.TenantOf(m.Name))
}

// known refuses an object that has a record.
func (p *participantServer) known(ctx context.Context, m driver.Marked) (bool, error) {
	e, err := p.recordOf(ctx, m)
	if err != nil || e == nil {
		return false, err
	}
	return true, fault.New(fault.Precondition, "it is no orphan: it is the object of %s", e.Name)
}

// recordOf gives the record of an object by its mark; nil if there is none. A mark may lack the name, if that was too long
// for it.
func (p *participantServer) recordOf(ctx context.Context, m driver.Marked) (*record.Entry, error) {
	if m.Name != "" {
		e, err := p.s.book.Get(ctx, record.ID{Name: m.Name, Key: m.Key})
		if fault.Is(err, fault.NotFound) {
			return nil, nil
		}
		return e, err
	}
	entries, _, err := p.s.book.List(ctx, "", record.ID{}, 0)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(entries, func(e *record.Entry) bool { return e.Key == m.Key }); i >= 0 {
		return entries[i], nil
	}
	return nil, nil
}

// accountAt opens the account of a cluster by its secret, or the one that a tenant's work at a cloud is done in. What is
// left of a tenant that there is no more, or that may no longer use the cloud, is looked for in the cloud's own project;
// elsewhere says why it may stand in another one.
func (p *participantServer) accountAt(ctx context.Context, at, tenant string) (account *reconcile.Account, elsewhere, err error) {
	if owner := resource.TenantOf(at); owner != "" {
		account, err = p.s.accounts.cluster(ctx, at, owner)
		return account, nil, err
	}
	account, err = p.s.accounts.cloud(ctx, at, tenant)
	if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Denied) {
		elsewhere = err
		account, err = p.s.accounts.cloud(ctx, at, "")
	}
	return account, elsewhere, err
}
