// Package quota keeps what tenants take of the quotas that they have with this installation, and sees to it that no two
// requests together take more than a tenant may have.
//
// # What is kept
//
// All that takes something of a tenant's quotas belongs to an owner: a stack, or a resource that stands by itself. Each
// owner has one draw, which says what stands (used) and what an operation under way may add to it (held). Below
// /weft/quota/<tenant>/:
//
//	d/<owner>   the owner's draw; there is none of an owner that takes nothing
//	turn        is written by every write that makes a draw of a tenant with limits larger
//
// What a tenant takes is the sum of its draws. Nothing else counts it, so there is no counter that could drift.
//
// # Who may write
//
// A draw is written in the transaction that writes its owner, by who may write that, and in no other: so the draw is as
// true as the record of its owner, and whatever crashes, it is freed once, when its owner goes.
//
//	a saga begins        used = what stands, held = what it may add at most while both old and new stand
//	a saga has ended     used = what stands, held = nothing; the draw goes when nothing is left
//	a saga needs a hand  the draw stays: it may still go either way
//	a resource by itself is asked for: used = what its spec asks for; it goes with its record
//	a resource by itself is changed: used = the larger of before and after, and when the object is found to be as its spec
//	asks, what that asks for: a provider may refuse to make it smaller
//
// # Why two requests cannot both pass a limit
//
// Who makes a draw larger reads all draws of the tenant with the turn, as of one revision, and is refused if the limit does
// not allow it. Its transaction compares the turn and writes it, so of two that read the same only one is written; the
// other reads again, and then sees the first's draw. Who makes a draw smaller needs no turn: what was read was more than
// there is. The transaction also compares the record with the limits as it was read, so that of a tenant without a limit
// the draws need neither be read nor take turns: one that was written without a look was written before there was a limit.
package quota

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/store"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// The quotas. Their names are those of the fields of weft.orchestrator.v1.TenantQuotas in JSON.
const (
	Servers       = "servers"
	VCPUs         = "vcpus"
	RAMMiB        = "ramMiB"
	Volumes       = "volumes"
	VolumeGiB     = "volumeGiB"
	Snapshots     = "snapshots"
	Shares        = "shares"
	ShareGiB      = "shareGiB"
	FloatingIPs   = "floatingIPs"
	LoadBalancers = "loadBalancers"
	Networks      = "networks"
	Routers       = "routers"
	Workloads     = "workloads"
)

// Quota is one quota and the service whose kinds draw on it.
type Quota struct{ Name, Service string }

// All lists the quotas by service, in the order in which they are shown.
func All() []Quota {
	return []Quota{
		{Servers, "compute"},
		{VCPUs, "compute"},
		{RAMMiB, "compute"},
		{Volumes, "storage"},
		{VolumeGiB, "storage"},
		{Snapshots, "storage"},
		{Shares, "storage"},
		{ShareGiB, "storage"},
		{FloatingIPs, "network"},
		{LoadBalancers, "network"},
		{Networks, "network"},
		{Routers, "network"},
		{Workloads, "container"},
	}
}

// Amounts is how much of each quota, by name. What is absent is nothing, or in limits no limit.
type Amounts map[string]int64

// Plus gives the sum.
func (a Amounts) Plus(b Amounts) Amounts {
	out := maps.Clone(a)
	if out == nil {
		out = Amounts{}
	}
	for name, n := range b {
		out[name] += n
	}
	return out
}

// Over gives by how much a is more than b, where it is.
func (a Amounts) Over(b Amounts) Amounts {
	out := Amounts{}
	for name, n := range a {
		if n > b[name] {
			out[name] = n - b[name]
		}
	}
	return out
}

// Max gives of each quota what is more.
func (a Amounts) Max(b Amounts) Amounts { return b.Plus(a.Over(b)) }

// Draw is how the resources of a kind draw on one quota.
type Draw struct {
	// Quota is the quota's name.
	Quota string
	// Amount gives how much a spec takes; nil means 1. A field whose value is not known is empty.
	Amount func(spec proto.Message) int64
	// Field is the field of the spec that tells how much; empty if none does.
	Field string
	// Sized says that the provider tells how much, see driver.Sized.
	Sized bool
}

// Of gives what a spec takes of the quotas that it tells by itself.
func Of(draws []Draw, spec proto.Message) Amounts {
	out := Amounts{}
	for _, d := range draws {
		switch {
		case d.Sized:
		case d.Amount == nil:
			out[d.Quota]++
		default:
			out[d.Quota] += d.Amount(spec)
		}
	}
	return out
}

// GiB reads a size as people write it, e.g. 20Gi or 1Ti, in GiB; 0 if it is none.
func GiB(text string) int64 {
	unit := int64(1)
	number, tera := strings.CutSuffix(text, "Ti")
	if tera {
		unit = 1 << 10
	} else {
		number = strings.TrimSuffix(text, "Gi")
	}
	n, err := strconv.ParseInt(number, 10, 32)
	if err != nil {
		return 0
	}
	return n * unit
}

// Limits reads the limits of a message whose optional whole numbers are called as the quotas are.
func Limits(m protoreflect.Message) Amounts {
	out := Amounts{}
	if !m.IsValid() {
		return out
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Kind() == protoreflect.Int64Kind && !f.IsList() {
			out[f.JSONName()] = v.Int()
		}
		return true
	})
	return out
}

// Account is what all tenants take. All methods are safe for concurrent use.
type Account struct {
	// Store is where it is kept.
	Store store.Store
	// Limits gives what a tenant may have, and what must stand in the store for that to be true, or nil. A tenant that
	// does not exist has no limits.
	Limits func(ctx context.Context, tenant string) (Amounts, *store.Compare, error)
}

func prefix(tenant string) string               { return "/weft/quota/" + tenant + "/" }
func turnKey(tenant string) string              { return prefix(tenant) + "turn" }
func drawKey(tenant, owner string) string       { return prefix(tenant) + "d/" + owner }
func total(d *participantv1.TenantDraw) Amounts { return Amounts(d.GetUsed()).Plus(d.GetHeld()) }

// State is what a tenant takes at one moment.
type State struct {
	// Used is what stands, Held what operations under way may add to it.
	Used, Held Amounts

	owners map[string]*participantv1.TenantDraw
	turn   int64 // the revision of the turn; 0 if there is none
}

// Read reads what a tenant takes.
func (a *Account) Read(ctx context.Context, tenant string) (*State, error) {
	page, err := a.Store.List(ctx, prefix(tenant), store.ListOptions{})
	if err != nil {
		return nil, fault.Wrap(err, "read what tenants/%s takes of its quotas", tenant)
	}
	out := &State{Used: Amounts{}, Held: Amounts{}, owners: map[string]*participantv1.TenantDraw{}}
	for _, e := range page.Entries {
		owner, isDraw := strings.CutPrefix(e.Key, prefix(tenant)+"d/")
		if !isDraw {
			out.turn = e.ModRevision
			continue
		}
		d := &participantv1.TenantDraw{}
		if err := proto.Unmarshal(e.Value, d); err != nil {
			return nil, fault.As(fault.Internal, fault.Wrap(err, "decode %s", e.Key))
		}
		out.owners[owner] = d
		out.Used, out.Held = out.Used.Plus(d.GetUsed()), out.Held.Plus(d.GetHeld())
	}
	return out, nil
}

// Of gives what one owner takes, with what it holds.
func (s *State) Of(owner string) Amounts { return total(s.owners[owner]) }

// Use tells how one quota stands against what is needed besides.
func (s *State) Use(tenant string, q Quota, need int64, limits Amounts) *participantv1.QuotaUse {
	limit, limited := limits[q.Name]
	if !limited {
		limit = -1
	}
	return &participantv1.QuotaUse{
		Cloud: resource.Name{Collection: "tenants", ID: tenant}.String(), Service: q.Service, Quota: q.Name,
		Need: need, Used: s.Used[q.Name] + s.Held[q.Name], Held: s.Held[q.Name], Limit: limit,
	}
}

// Passes tells whether what is needed goes beyond the limit.
func Passes(q *participantv1.QuotaUse) bool {
	return q.GetLimit() >= 0 && q.GetNeed() > 0 && q.GetUsed()+q.GetNeed() > q.GetLimit()
}

// Fault says that a quota does not suffice.
func Fault(q *participantv1.QuotaUse) error {
	held := ""
	if q.GetHeld() > 0 {
		held = " (" + strconv.FormatInt(q.GetHeld(), 10) + " of it held by operations under way)"
	}
	return fault.New(fault.Quota, "%s: the %s quota of %s does not suffice: need %d, used %d%s, limit %d; free some or have the quota raised",
		q.GetCloud(), q.GetService(), q.GetQuota(), q.GetNeed(), q.GetUsed(), held, q.GetLimit())
}

// Hold is what the transaction that writes an owner must carry so that it takes what it asks for.
type Hold struct {
	Compares []store.Compare
	Ops      []store.Op
}

// Draw gives what makes an owner's draw the one that is given. The error is Quota if that is larger than the one before and
// passes a limit. It is to be asked again if a transaction with it is refused, see Overtaken.
func (a *Account) Draw(ctx context.Context, tenant, owner string, next *participantv1.TenantDraw) (*Hold, error) {
	op, err := Set(tenant, owner, next)
	if err != nil {
		return nil, err
	}
	out := &Hold{Ops: []store.Op{op}}
	wanted := total(next)
	limits, stands, err := a.Limits(ctx, tenant)
	if err != nil {
		return nil, fault.Wrap(err, "look what tenants/%s may have", tenant)
	}
	if stands != nil {
		out.Compares = append(out.Compares, *stands)
	}
	if !slices.ContainsFunc(All(), func(q Quota) bool { _, limited := limits[q.Name]; return limited && wanted[q.Name] > 0 }) {
		return out, nil
	}
	state, err := a.Read(ctx, tenant)
	if err != nil {
		return nil, err
	}
	more := wanted.Over(state.Of(owner))
	if len(more) == 0 {
		return out, nil
	}
	for _, q := range All() {
		if use := state.Use(tenant, q, more[q.Name], limits); Passes(use) {
			return nil, Fault(use)
		}
	}
	out.Compares = append(out.Compares, store.Compare{Key: turnKey(tenant), ModRevision: state.turn})
	out.Ops = append(out.Ops, store.Op{Key: turnKey(tenant), Value: []byte(owner)})
	return out, nil
}

// Set gives the write of a draw that is not larger than the one before.
func Set(tenant, owner string, next *participantv1.TenantDraw) (store.Op, error) {
	if len(next.GetUsed())+len(next.GetHeld()) == 0 {
		return store.Op{Key: drawKey(tenant, owner), Delete: true}, nil
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(next)
	if err != nil {
		return store.Op{}, fault.As(fault.Internal, fault.Wrap(err, "encode what %s of tenants/%s takes", owner, tenant))
	}
	return store.Op{Key: drawKey(tenant, owner), Value: value}, nil
}

// Overtaken tells whether what a hold was made from has changed since, which a transaction with it was then refused for.
func (a *Account) Overtaken(ctx context.Context, h *Hold) (bool, error) {
	if h == nil {
		return false, nil
	}
	for _, c := range h.Compares {
		e, err := a.Store.Get(ctx, c.Key)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return false, fault.Wrap(err, "look whether %s has changed", c.Key)
		}
		if e.ModRevision != c.ModRevision {
			return true, nil
		}
	}
	return false, nil
}

// Tries is how often a write that takes something is tried while others of the same tenant come first.
const Tries = 64
