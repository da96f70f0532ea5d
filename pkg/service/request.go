package service

import (
	"context"
	"maps"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/participant"
	"github.com/weftcloud/weft/pkg/resource"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// Request gives a resource what a custom method asks for beside the spec, whoever the resource belongs to, and answers with
// the operation that waits for it. admit may refuse it by what stands; nil admits all.
func (s *Service) Request(ctx context.Context, name string, requests map[string]string, admit func(resource.Object) error) (*longrunningpb.Operation, error) {
	e, err := s.book.Current(ctx, name)
	if err != nil {
		return nil, err
	}
	if e.Record.GetRelease() {
		return nil, fault.New(fault.Precondition, "%s is being deleted", name)
	}
	if admit != nil {
		if err := admit(e.Object); err != nil {
			return nil, err
		}
	}
	all := maps.Clone(e.Record.GetRequests())
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, requests)
	e.Record.Requests = all
	participant.Change(e, e.Object.Spec(), e.Object.Metadata().GetLabels(), e.Record.GetReferences(), s.deps.Now())
	if err := s.book.Save(ctx, e, participant.NoticeOf(e)); err != nil {
		return nil, err
	}
	return s.operation(e, false)
}

// Standing gives a resource and the driver of its kind in its account, for a custom method that looks at the object.
func (s *Service) Standing(ctx context.Context, name string) (resource.Object, driver.Any, error) {
	e, err := s.book.Current(ctx, name)
	if err != nil {
		return resource.Object{}, nil, err
	}
	if id := e.Object.Status().GetProviderId(); id == "" || e.Object.Status().GetPhase() == kindv1.Phase_PHASE_RELEASING {
		return resource.Object{}, nil, fault.New(fault.Precondition, "%s has no object at its cloud now", name)
	}
	account, err := s.accounts.Account(ctx, e, nil)
	if err != nil {
		return resource.Object{}, nil, err
	}
	d, ok := account.Session.Drivers[e.Kind.Type]
	if !ok {
		return resource.Object{}, nil, fault.New(fault.Unsupported, "%s has no driver for %s", account.Name, e.Kind.Name)
	}
	return e.Object, d, nil
}
