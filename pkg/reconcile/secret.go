package reconcile

import (
	"context"
	"errors"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
)

// A secret output is never part of a record, a command, a plan or an event. What stands there in its place is a handle (see
// package resource), which says of which resource it is. The loop of the service that hands a spec to a provider puts the
// value in at the last moment, where the contract says that a field takes secrets, in a copy of the spec that it forgets
// after the call. The value is asked of the service whose resource it is, which reads it from the cloud. A handle of another
// tenant's resource is refused.

// handles puts the handles of a record's secret outputs in the place of what the driver observed.
func handles(id record.ID, observed proto.Message) {
	if observed == nil {
		return
	}
	m := observed.ProtoReflect()
	for i := range m.Descriptor().Fields().Len() {
		if f := m.Descriptor().Fields().Get(i); resource.FieldOptionsOf(f).GetSecret() && m.Has(f) {
			m.Set(f, resource.SecretHandle(id.Name, id.Key, string(f.Name())))
		}
	}
}

// opened gives the request of an entry with its secrets put in, and the values that were, none of which may be told.
func (l *Loop) opened(ctx context.Context, e *record.Entry, refs driver.Refs) (driver.Request[proto.Message], []string, error) {
	r := request(e, refs)
	found := resource.SecretsIn(r.Spec)
	if len(found) == 0 {
		return r, nil, nil
	}
	values := map[string]string{}
	var all []string
	for _, s := range found {
		if resource.TenantOf(s.Name) != resource.TenantOf(e.Name) {
			return r, nil, fault.New(fault.Denied, "%s uses a secret of another tenant", e.Name)
		}
		if l.Secrets == nil {
			return r, nil, fault.New(fault.Unsupported, "%s uses a secret, and this service cannot ask for it", e.Name)
		}
		value, err := l.Secrets.Secret(ctx, s.Name, s.Key, s.Field)
		if fault.Is(err, fault.NotFound) {
			return r, nil, &fault.Error{Kind: fault.Precondition, Message: s.Field + " of " + s.Name + " does not exist"}
		}
		if err != nil {
			return r, nil, fault.Wrap(err, "open %s of %s", s.Field, s.Name)
		}
		values[s.Text] = value
		if value != "" && !slices.Contains(all, value) {
			all = append(all, value)
		}
	}
	r.Spec = proto.Clone(r.Spec)
	resource.PutSecrets(r.Spec, values)
	return r, all, nil
}

// discreet takes secrets out of what a provider said.
func discreet(err error, secrets []string) error {
	if err == nil || len(secrets) == 0 {
		return err
	}
	text := err.Error()
	hidden := text
	for _, s := range secrets {
		hidden = strings.ReplaceAll(hidden, s, "•••")
	}
	if hidden == text {
		return err
	}
	out := &fault.Error{Kind: fault.KindOf(err), Field: fault.Field(err), Message: hidden, RetryAfter: fault.RetryAfter(err)}
	if inner, ok := errors.AsType[*fault.Error](err); ok {
		out.RequestID = inner.RequestID
	}
	return out
}
