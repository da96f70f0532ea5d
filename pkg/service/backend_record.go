package service

import (
	"context"
	"maps"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/participant"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/reconcile"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// recordBackend serves a kind from the service's records.
type recordBackend struct {
	service *Service
	kind    *resource.Kind
	local   *Local
}

// public gives a resource as clients may see it.
func public(object resource.Object) proto.Message {
	m := proto.Clone(object.Message())
	record.Redact(m)
	return m
}

func (b *recordBackend) get(ctx context.Context, name string) (proto.Message, error) {
	e, err := b.service.book.Current(ctx, name)
	if err != nil {
		return nil, err
	}
	out := public(e.Object)
	if !b.shown(ctx, out) {
		return nil, fault.New(fault.NotFound, "%s does not exist", name)
	}
	return out, nil
}

// shown tells whether the caller may see a resource, and strips it of what is not for the caller.
func (b *recordBackend) shown(ctx context.Context, m proto.Message) bool {
	return b.local == nil || b.local.Show == nil || b.local.Show(ctx, resource.Wrap(m))
}

func (b *recordBackend) list(ctx context.Context, tenant, after string, limit int) ([]proto.Message, string, error) {
	prefix := resource.Name{Tenant: tenant, Collection: b.kind.Collection}.String()
	last := record.ID{}
	if after != "" {
		last = record.ID{Name: after, Key: "~"} // after every key of this name
	}
	entries, more, err := b.service.book.List(ctx, prefix, last, limit)
	if err != nil {
		return nil, "", err
	}
	next := ""
	if more {
		next = entries[len(entries)-1].Name
	}
	var out []proto.Message
	for _, e := range newest(entries) {
		if e.Kind.Type != b.kind.Type {
			continue // what is a tenant's has a name that begins with the tenant's own
		}
		if m := public(e.Object); b.shown(ctx, m) {
			out = append(out, m)
		}
	}
	return out, next, nil
}

func (b *recordBackend) create(ctx context.Context, object resource.Object, validateOnly bool) (proto.Message, error) {
	references, err := b.references(ctx, object)
	if err != nil {
		return nil, err
	}
	if b.local != nil {
		return b.createLocal(ctx, object, validateOnly)
	}
	draws, err := b.check(ctx, object)
	if err != nil {
		return nil, err
	}
	e := participant.NewEntry(b.service.book, b.kind, object, b.service.deps.Now())
	e.Record.References, e.Record.Draws = references, draws
	if validateOnly {
		return b.service.operation(e, false)
	}
	if err := b.service.book.Add(ctx, e, participant.NoticeOf(e)); err != nil {
		return nil, err
	}
	return b.service.operation(e, false)
}

// references makes every reference of a spec a full name, and gives the keys of those that stand.
func (b *recordBackend) references(ctx context.Context, object resource.Object) (map[string]string, error) {
	out := map[string]string{}
	for _, r := range resource.References(object.Spec()) {
		target, full, err := b.service.linked.Qualify(resource.TenantOf(object.Name()), r)
		if fault.Is(err, fault.Internal) {
			return nil, err
		}
		if err != nil {
			return nil, &fault.Error{Kind: fault.Invalid, Field: "spec." + r.Path, Message: err.Error()}
		}
		r.Set(full)
		if target.Service == "orchestrator" {
			continue // looked up when its credentials are needed
		}
		m, err := b.service.Resolve(ctx, full, "")
		if fault.Is(err, fault.NotFound) {
			return nil, &fault.Error{Kind: fault.Invalid, Field: "spec." + r.Path, Message: full + " does not exist"}
		}
		if err != nil {
			return nil, err
		}
		out[full] = resource.Wrap(m).Metadata().GetKey()
	}
	return out, nil
}

// check looks at the cloud whether the resource can be made as asked, and gives what it will draw of its tenant's quotas.
func (b *recordBackend) check(ctx context.Context, object resource.Object) (quota.Amounts, error) {
	answer, err := b.service.preflight(ctx, []wanted{{
		name: object.Name(), kind: b.kind, cloud: object.Cloud(), spec: object.Spec(), change: kindv1.Change_CHANGE_CREATE,
	}})
	if err != nil {
		return nil, err
	}
	if len(answer.GetFindings()) > 0 {
		found := answer.GetFindings()[0]
		f := found.GetFault()
		return nil, &fault.Error{Kind: fault.Kind(f.GetKind()), Field: found.GetField(), Message: f.GetMessage(), RequestID: f.GetRequestId()}
	}
	if len(answer.GetDraws()) == 0 {
		return nil, nil
	}
	return answer.GetDraws()[0].GetAmounts(), nil
}

// redraw has a changed resource draw what is more of what it draws and what its spec will ask for, until the object is as the
// spec asks: what is asked to be smaller may stay as it is. The error is Invalid if it asks for a size that there is not.
func (b *recordBackend) redraw(ctx context.Context, e *record.Entry, next resource.Object) error {
	wanted, err := b.wantedDraws(ctx, next)
	if err != nil {
		return err
	}
	before := quota.Amounts(e.Record.GetDraws())
	e.Record.Draws, e.Record.NextDraws = before.Max(wanted), nil
	if !maps.Equal(e.Record.GetDraws(), wanted) {
		e.Record.NextDraws = wanted
	}
	return nil
}

// wantedDraws gives what a changed resource will draw of its tenant's quotas.
func (b *recordBackend) wantedDraws(ctx context.Context, next resource.Object) (quota.Amounts, error) {
	w := wanted{name: next.Name(), kind: b.kind, cloud: next.Cloud(), spec: next.Spec()}
	draw, err := b.service.drawsOf(ctx, w, func(w wanted, _ driver.Refs) (*reconcile.Account, error) {
		return b.service.accounts.cloud(ctx, w.cloud, resource.TenantOf(w.name))
	})
	return draw.GetAmounts(), fault.Wrap(err, "look how much %s takes", next.Name())
}

func (b *recordBackend) createLocal(ctx context.Context, object resource.Object, validateOnly bool) (proto.Message, error) {
	if err := b.admit(ctx, object, nil); err != nil {
		return nil, err
	}
	e := participant.NewEntry(b.service.book, b.kind, object, b.service.deps.Now())
	b.settle(e)
	if validateOnly {
		return b.service.operation(e, false)
	}
	if err := b.service.book.Add(ctx, e, participant.NoticeOf(e)); err != nil {
		return nil, err
	}
	return b.service.operation(e, false)
}

func (b *recordBackend) admit(ctx context.Context, next resource.Object, former *resource.Object) error {
	if b.local.Admit == nil {
		return nil
	}
	return b.local.Admit(ctx, next, former)
}

// settle makes a local resource ready: its record is all there is.
func (b *recordBackend) settle(e *record.Entry) {
	now := b.service.deps.Now()
	participant.SetPhase(e, kindv1.Phase_PHASE_READY, now)
	status := e.Object.Status()
	status.ObservedGeneration, status.ObserveTime = e.Object.Metadata().GetGeneration(), timestamppb.New(now)
}

func (b *recordBackend) update(ctx context.Context, object resource.Object, mask *fieldmaskpb.FieldMask) (proto.Message, error) {
	e, err := b.open(ctx, object.Name(), object.Metadata().GetEtag())
	if err != nil {
		return nil, err
	}
	if e.Record.GetRelease() {
		return nil, fault.New(fault.Precondition, "the deletion of %s has failed; delete it again", object.Name())
	}
	next, err := merge(e.Object, object, mask)
	if err != nil {
		return nil, err
	}
	references, err := b.references(ctx, next)
	if err != nil {
		return nil, err
	}
	if f := immutable(e.Object.Spec(), next.Spec()); f != "" {
		return nil, fault.InField("spec."+f, "it cannot be changed in place; create another %s, or change it in a stack, which replaces it", b.kind.Name)
	}
	if b.local != nil {
		former := resource.Wrap(proto.Clone(e.Object.Message()))
		if err := b.admit(ctx, next, &former); err != nil {
			return nil, err
		}
	}
	if participant.Same(e, next.Spec(), next.Metadata().GetLabels(), references) {
		return b.again(ctx, e)
	}
	if b.local == nil {
		if err := b.redraw(ctx, e, next); err != nil {
			return nil, err
		}
	}
	participant.Change(e, next.Spec(), next.Metadata().GetLabels(), references, b.service.deps.Now())
	if b.local != nil {
		e.Object.SetObserved(next.Observed())
		b.settle(e)
	}
	if err := b.service.book.Save(ctx, e, participant.NoticeOf(e)); err != nil {
		return nil, err
	}
	return b.service.operation(e, false)
}

// again answers a change to what is wanted already. What has failed is tried again.
func (b *recordBackend) again(ctx context.Context, e *record.Entry) (proto.Message, error) {
	if e.Object.Status().GetPhase() == kindv1.Phase_PHASE_FAILED {
		participant.Reopen(e, b.service.deps.Now())
		if err := b.service.book.Save(ctx, e, participant.NoticeOf(e)); err != nil {
			return nil, err
		}
	}
	return b.service.operation(e, false)
}

// open reads a resource that a client wants to change itself.
func (b *recordBackend) open(ctx context.Context, name, etag string) (*record.Entry, error) {
	e, err := b.service.book.Current(ctx, name)
	if err != nil {
		return nil, err
	}
	if etag != "" && etag != e.Object.Metadata().GetEtag() {
		return nil, fault.New(fault.Conflict, "%s was changed since it was read; read it again", name)
	}
	if stack := e.Object.Metadata().GetStack(); stack != "" {
		return nil, fault.New(fault.Precondition, "%s belongs to %s; change the stack's document and apply it", name, stack)
	}
	if owner := e.Object.Metadata().GetOwner(); owner != "" {
		return nil, fault.New(fault.Precondition, "%s was made by %s and is its own; change that", name, owner)
	}
	if e.Record.GetRelease() && e.Object.Status().GetPhase() != kindv1.Phase_PHASE_FAILED {
		return nil, fault.New(fault.Precondition, "%s is being deleted", name)
	}
	e.Record.Origin = nil
	return e, nil
}

func (b *recordBackend) remove(ctx context.Context, name, etag string) (proto.Message, error) {
	e, err := b.open(ctx, name, etag)
	if err != nil {
		return nil, err
	}
	if b.local != nil {
		return b.removeLocal(ctx, e)
	}
	if err := b.service.unused(ctx, e); err != nil {
		return nil, err
	}
	if unused := b.service.kinds[b.kind.Type].Unused; unused != nil {
		if err := unused(ctx, e.Object); err != nil {
			return nil, err
		}
	}
	participant.MarkReleased(e, b.service.deps.Now())
	if err := b.service.book.Save(ctx, e, participant.NoticeOf(e)); err != nil {
		return nil, err
	}
	return b.service.operation(e, false)
}

func (b *recordBackend) removeLocal(ctx context.Context, e *record.Entry) (proto.Message, error) {
	if b.local.Release != nil {
		if err := b.local.Release(ctx, e.Object); err != nil {
			return nil, err
		}
	}
	participant.MarkReleased(e, b.service.deps.Now())
	if err := b.service.book.Remove(ctx, e, record.Notice{Verb: "released"}); err != nil {
		return nil, err
	}
	return b.service.operation(e, true)
}

// unused refuses to delete what another resource of the service still refers to: some clouds would take that one away
// with it. What other services' resources use, their clouds refuse to delete.
func (s *Service) unused(ctx context.Context, e *record.Entry) error {
	entries, _, err := s.book.List(ctx, "tenants/"+resource.TenantOf(e.Name)+"/", record.ID{}, 0)
	if err != nil {
		return err
	}
	for _, other := range entries {
		if other.Record.GetReferences()[e.Name] == e.Key {
			return fault.New(fault.Precondition, "%s is used by %s; delete that first", e.Name, other.Name)
		}
	}
	return nil
}
