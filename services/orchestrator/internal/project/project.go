package project

// Who makes, rotates and takes away the projects of tenants.
//
// Background. A project is a record of the orchestrator's own, tenants/{tenant}/projects/{cloud}; the ordinary loop and the
// driver make it real. Nobody writes its spec but this file: the numbers of the credential that is to be in use and of the
// oldest that is to stand (see the driver).
//
// When. A record is added when a service first asks for the credentials of a multi-tenant tenant at a cloud, and the
// answer waits until a credential is in use. A new credential is begun when half of the lifetime of the one in use is over,
// or when an operator asks; those before it go when it has been in use for as long as a service may hold on to what it was
// given (Grace). What was given up is tried again at each look, until it can be done. A record is released when its tenant is: when the tenant is deleted, or is no longer to have projects.
//
// Who may write. Any replica adds, on demand; the owner of the first shard looks after all. Each write compares what was
// read, so that two replicas which look at the same time do one thing.
//
// What happens on a crash. The next look at the records finds what is due: nothing is kept but the records.

import (
	"context"
	"log/slog"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/installation"
	"github.com/weftcloud/weft/pkg/participant"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/service"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	driveropenstack "github.com/weftcloud/weft/services/orchestrator/internal/driver/openstack"
)

// The times of credentials where nothing else is said.
const (
	// DefaultLifetime is how long a credential is valid.
	DefaultLifetime = 7 * 24 * time.Hour
	// DefaultGrace is how long one works on when another is in use. Services ask for credentials every half minute.
	DefaultGrace = time.Hour
)

// Type is the type of the kind.
const Type = driveropenstack.ProjectType

// Keeper looks after the projects.
type Keeper struct {
	// Book gives the orchestrator's records.
	Book func() *record.Book
	// Operation gives the operation of a record's last change.
	Operation func(*record.Entry) (*longrunningpb.Operation, error)
	Vault     *Vault
	// Installation is the name of the installation, which new keys end with.
	Installation string
	// Unused tells what still stands in a tenant's project at a cloud; nil if nothing does.
	Unused func(ctx context.Context, tenant, cloud string) error
	// Lifetime and Grace are the times of credentials.
	Lifetime, Grace time.Duration
	Logger          *slog.Logger
	Now             service.Clock
}

// Kind is the entry of the catalog.
func (k *Keeper) Kind() service.Kind {
	return service.Kind{
		Message: &orchestratorv1.Project{},
		Unused: func(ctx context.Context, object resource.Object) error {
			return k.Unused(ctx, resource.TenantOf(object.Name()), object.Cloud())
		},
		Methods: []grpc.MethodDesc{service.Method("weft.orchestrator.v1.ProjectService", "RotateProject", k.Rotate)},
	}
}

// Name gives the name of the project of a tenant, tenants/{tenant}, at a cloud, clouds/{cloud}.
func Name(tenant, cloud string) string {
	return tenant + "/projects/" + cloud[len("clouds/"):]
}

// IsMulti tells whether a tenant is to have projects of its own.
func IsMulti(t *orchestratorv1.TenantSpec) bool {
	return t.GetIsolation() == orchestratorv1.Isolation_ISOLATION_MULTI_TENANT
}

// patience is how long a call waits for a project that is being made. A cloud needs a second or two.
const patience = 20 * time.Second

// lookEvery is the time between two looks at a record that is waited for.
const lookEvery = 50 * time.Millisecond

// Credentials gives what to log in with for the work of a tenant at a cloud. It has the project made, if there is none, and
// waits until it can be used.
func (k *Keeper) Credentials(ctx context.Context, tenant, cloud string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	name := Name(tenant, cloud)
	for first := true; ; first = false {
		e, err := k.stand(ctx, name, cloud, first)
		if err != nil {
			return nil, err
		}
		if e != nil {
			kept, err := k.Vault.Load(ctx, e.Key)
			if err != nil {
				return nil, err
			}
			if login := driveropenstack.Login(e.Key, kept); login != nil {
				return login, nil
			}
			if e.Record.GetRelease() {
				return nil, fault.New(fault.Precondition, "%s is being deleted", name)
			}
			if err := failure(e, ctx.Err() != nil); err != nil {
				return nil, fault.Wrap(err, "make %s", name)
			}
		}
		if !pause(ctx, lookEvery) {
			return nil, fault.New(fault.Unavailable, "%s is being made", name)
		}
	}
}

// failure gives why a project does not become ready: at once if it was given up, else when the time is over.
func failure(e *record.Entry, over bool) error {
	status := e.Object.Status()
	if status.GetFault() == nil || status.GetPhase() != kindv1.Phase_PHASE_FAILED && !over {
		return nil
	}
	return fault.FromProto(status.GetFault())
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// stand gives the record of a project, and adds it if there is none. One that was given up is tried again, if that is asked
// for: what was missing may have been granted since. It gives nil if another wrote at the same time.
func (k *Keeper) stand(ctx context.Context, name, cloud string, again bool) (*record.Entry, error) {
	e, err := k.Book().Current(ctx, name)
	switch {
	case fault.Is(err, fault.NotFound):
		err := k.add(ctx, name, cloud)
		if fault.Is(err, fault.Exists) || record.IsConflict(err) {
			err = nil
		}
		return nil, err
	case err != nil:
		return nil, err
	case e.Record.GetRelease():
		return e, nil // while its secrets are kept, what is in its way can be deleted with them
	case again && e.Object.Status().GetPhase() == kindv1.Phase_PHASE_FAILED && e.Record.GetAppliedGeneration() == 0:
		participant.Reopen(e, k.Now())
		if err := k.Book().Save(ctx, e, participant.NoticeOf(e)); err != nil && !record.IsConflict(err) {
			return nil, err
		}
		return nil, nil
	}
	return e, nil
}

func (k *Keeper) add(ctx context.Context, name, cloud string) error {
	kind, ok := k.Book().Kind(Type)
	if !ok {
		return fault.New(fault.Internal, "make %s: there is no kind %s", name, Type)
	}
	object := resource.Wrap(kind.New())
	object.SetName(name)
	object.SetCloud(cloud)
	object.SetSpec(&orchestratorv1.ProjectSpec{Credential: 1})
	object.Metadata().Key = installation.NewKey(k.Installation)
	e := participant.NewEntry(k.Book(), kind, object, k.Now())
	return k.Book().Add(ctx, e, participant.NoticeOf(e))
}

// Rotate has a new credential made.
func (k *Keeper) Rotate(ctx context.Context, r *orchestratorv1.RotateProjectRequest) (*longrunningpb.Operation, error) {
	e, err := k.Book().Current(ctx, r.GetName())
	if err != nil {
		return nil, err
	}
	if e.Record.GetRelease() {
		return nil, fault.New(fault.Precondition, "%s is being deleted", r.GetName())
	}
	spec, err := specOf(e)
	if err != nil {
		return nil, err
	}
	next := proto.CloneOf(spec)
	next.Credential++
	if err := k.change(ctx, e, next); err != nil {
		return nil, err
	}
	return k.Operation(e)
}

func specOf(e *record.Entry) (*orchestratorv1.ProjectSpec, error) {
	spec, ok := e.Object.Spec().(*orchestratorv1.ProjectSpec)
	if !ok {
		return nil, fault.New(fault.Internal, "%s is kept as something else than a project", e.Name)
	}
	return spec, nil
}

func (k *Keeper) change(ctx context.Context, e *record.Entry, next *orchestratorv1.ProjectSpec) error {
	participant.Change(e, next, e.Object.Metadata().GetLabels(), e.Record.GetReferences(), k.Now())
	return k.Book().Save(ctx, e, participant.NoticeOf(e))
}

// Interval is the time between two looks at all projects.
func (k *Keeper) Interval() time.Duration {
	return min(max(min(k.Lifetime/20, k.Grace/4), time.Second), time.Minute)
}

// Look does what is due for all projects, once. What one fails with does not keep the others from being looked at.
func (k *Keeper) Look(ctx context.Context) error {
	multi := map[string]bool{} // the tenants that are to have projects
	var found []*record.Entry
	for after, more := (record.ID{}), true; more; {
		entries, rest, err := k.Book().List(ctx, "tenants/", after, 500)
		if err != nil {
			return err
		}
		more = rest
		for _, e := range entries {
			after = e.ID
			if spec, ok := e.Object.Spec().(*orchestratorv1.TenantSpec); ok {
				multi[e.Name] = IsMulti(spec)
			}
			if e.Kind.Type == Type && (!e.Record.GetRelease() || e.Object.Status().GetPhase() == kindv1.Phase_PHASE_FAILED) {
				found = append(found, e)
			}
		}
	}
	for _, e := range found {
		err := k.care(ctx, e, multi["tenants/"+resource.TenantOf(e.Name)])
		if err != nil && !record.IsConflict(err) {
			k.Logger.Warn("look after a project", "name", e.Name, "error", err)
		}
	}
	return nil
}

// care does what is due for one project. One that was given up is tried again with each look: what it failed for may have
// been mended, and nobody else asks for it again before its credentials end.
func (k *Keeper) care(ctx context.Context, e *record.Entry, wanted bool) error {
	if !wanted || e.Record.GetRelease() { // or its deletion has failed
		return k.release(ctx, e)
	}
	spec, err := specOf(e)
	if err != nil {
		return err
	}
	kept, err := k.Vault.Load(ctx, e.Key)
	if err != nil {
		return err
	}
	next := Next(spec, kept, k.Now(), k.Lifetime, k.Grace)
	if !proto.Equal(spec, next) {
		return k.change(ctx, e, next)
	}
	if e.Object.Status().GetPhase() != kindv1.Phase_PHASE_FAILED {
		return nil
	}
	participant.Reopen(e, k.Now())
	return k.Book().Save(ctx, e, participant.NoticeOf(e))
}

// Next gives what is to be wanted of a project's credentials at a time: another number when half of the life of the one in
// use is over, and none before it when it has been in use for the grace.
func Next(spec *orchestratorv1.ProjectSpec, kept *orchestratorv1.ProjectKeys, now time.Time, lifetime, grace time.Duration) *orchestratorv1.ProjectSpec {
	next := proto.CloneOf(spec)
	used := driveropenstack.InUse(kept).GetCredential()
	if used == nil || used.GetNumber() != spec.GetCredential() {
		return next // it is being made
	}
	life := min(lifetime, used.GetExpireTime().AsTime().Sub(used.GetUseTime().AsTime()))
	if now.Sub(used.GetUseTime().AsTime()) >= life/2 {
		next.Credential++
	}
	if len(kept.GetKeys()) > 1 && now.Sub(used.GetUseTime().AsTime()) >= grace {
		next.Oldest = used.GetNumber()
	}
	return next
}

// release has a project taken away in which nothing stands.
func (k *Keeper) release(ctx context.Context, e *record.Entry) error {
	if err := k.Unused(ctx, resource.TenantOf(e.Name), e.Object.Cloud()); err != nil {
		return err
	}
	participant.MarkReleased(e, k.Now())
	return k.Book().Save(ctx, e, participant.NoticeOf(e))
}

// List gives the projects of a tenant, tenants/{tenant}.
func (k *Keeper) List(ctx context.Context, tenant string) ([]*record.Entry, error) {
	entries, _, err := k.Book().List(ctx, tenant+"/projects/", record.ID{}, 0)
	return entries, err
}

// ReleaseAll has all projects of a tenant taken away, and waits until they are. The error says what is in the way, after a
// while; what was begun goes on.
func (k *Keeper) ReleaseAll(ctx context.Context, tenant string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for first := true; ; first = false {
		entries, err := k.List(ctx, tenant)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return nil
		}
		for _, e := range entries {
			failed := e.Object.Status().GetPhase() == kindv1.Phase_PHASE_FAILED
			if e.Record.GetRelease() && failed && !first {
				return waiting(e)
			}
			if e.Record.GetRelease() && !failed {
				continue
			}
			if err := k.release(ctx, e); err != nil && !record.IsConflict(err) {
				return err
			}
		}
		if !pause(ctx, lookEvery) {
			return waiting(entries[0])
		}
	}
}

// waiting says what a deletion waits for.
func waiting(e *record.Entry) error {
	f := e.Object.Status().GetFault()
	if f == nil {
		return fault.New(fault.Unavailable, "%s is being deleted; try again in a while", e.Name)
	}
	return &fault.Error{Kind: fault.Precondition, Message: e.Name + " must go first; delete it again when that can be", Cause: fault.FromProto(f)}
}

// Run looks after the projects until ctx ends, while mine says so.
func (k *Keeper) Run(ctx context.Context, mine func() bool) error {
	for pause(ctx, k.Interval()) {
		if !mine() {
			continue
		}
		if err := k.Look(ctx); err != nil && ctx.Err() == nil {
			k.Logger.Warn("look after the projects", "error", err)
		}
	}
	return nil
}
