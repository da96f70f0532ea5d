package quota_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/memstore"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
)

// limitsKey is where the tests keep what acme may have.
const limitsKey = "/limits"

// accountOn gives an account whose limits are kept in the store, as they are of a tenant.
func accountOn(s store.Store) *quota.Account {
	return &quota.Account{Store: s, Limits: func(ctx context.Context, _ string) (quota.Amounts, *store.Compare, error) {
		e, err := s.Get(ctx, limitsKey)
		if err != nil {
			return nil, nil, err
		}
		t := &orchestratorv1.TenantQuotas{}
		if err := proto.Unmarshal(e.Value, t); err != nil {
			return nil, nil, err
		}
		return quota.Limits(t.ProtoReflect()), &store.Compare{Key: limitsKey, ModRevision: e.ModRevision}, nil
	}}
}

func limit(t testing.TB, s store.Store, servers *int64) {
	t.Helper()
	value, err := proto.Marshal(&orchestratorv1.TenantQuotas{Servers: servers})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Txn(context.Background(), nil, []store.Op{{Key: limitsKey, Value: value}}); err != nil {
		t.Fatal(err)
	}
}

// owner is what draws: its record, which the tests write in the transaction that draws, says how much it has.
func ownerKey(name string) string { return "/owner/" + name }

// begin holds for an owner and writes its record, as a saga or a resource does, until it is written or refused.
func begin(ctx context.Context, a *quota.Account, s store.Store, owner string, used, held quota.Amounts) error {
	for range quota.Tries {
		h, err := a.Draw(ctx, "acme", owner, &participantv1.TenantDraw{Used: used, Held: held})
		if err != nil {
			return err
		}
		_, err = s.Txn(ctx, h.Compares, append(h.Ops, store.Op{Key: ownerKey(owner), Value: []byte(fmt.Sprint(used["servers"] + held["servers"]))}))
		if !fault.Is(err, fault.Conflict) {
			return err
		}
		if again, lookErr := a.Overtaken(ctx, h); lookErr != nil || !again {
			return fmt.Errorf("refused though nobody came first: %w %w", err, lookErr)
		}
	}
	return fault.New(fault.Conflict, "%s never got its turn", owner)
}

// end leaves what stands of an owner, or nothing.
func end(ctx context.Context, s store.Store, owner string, used quota.Amounts) error {
	op, err := quota.Set("acme", owner, &participantv1.TenantDraw{Used: used})
	if err != nil {
		return err
	}
	record := store.Op{Key: ownerKey(owner), Value: []byte(fmt.Sprint(used["servers"]))}
	if len(used) == 0 {
		record = store.Op{Key: ownerKey(owner), Delete: true}
	}
	_, err = s.Txn(ctx, nil, []store.Op{op, record})
	return err
}

// owners gives what the records of the owners say that they draw.
func owners(ctx context.Context, t interface{ Fatal(...any) }, s store.Store) (out map[string]int64, sum int64) {
	page, err := s.List(ctx, "/owner/", store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out = map[string]int64{}
	for _, e := range page.Entries {
		var n int64
		if _, err := fmt.Sscan(string(e.Value), &n); err != nil {
			t.Fatal(err)
		}
		out[strings.TrimPrefix(e.Key, "/owner/")] = n
		sum += n
	}
	return out, sum
}

// cutting is a store whose transactions may be cut off, before they are written or after, as by a crash.
type cutting struct {
	store.Store
	cut func() (before, after bool)
}

func (c cutting) Txn(ctx context.Context, compares []store.Compare, ops []store.Op) (int64, error) {
	before, after := c.cut()
	if before {
		return 0, fault.New(fault.Unavailable, "cut off")
	}
	revision, err := c.Store.Txn(ctx, compares, ops)
	if err == nil && after {
		return 0, fault.New(fault.Unavailable, "cut off")
	}
	return revision, err
}

// TestHoldsAreTrue begins, changes and ends what draws at random, with crashes at each transaction and limits that change: what is
// drawn is always what the owners say, never passes the limit by something new, and is nothing when nothing is left.
func TestHoldsAreTrue(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		mem := memstore.New()
		limitNow := int64(rapid.IntRange(0, 12).Draw(t, "limit"))
		setLimit := func(n int64) {
			value, err := proto.Marshal(&orchestratorv1.TenantQuotas{Servers: &n})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := mem.Txn(ctx, nil, []store.Op{{Key: limitsKey, Value: value}}); err != nil {
				t.Fatal(err)
			}
		}
		setLimit(limitNow)
		s := cutting{mem, func() (bool, bool) {
			fate := rapid.IntRange(0, 9).Draw(t, "fate")
			return fate == 0, fate == 1
		}}
		a := accountOn(s)
		for range rapid.IntRange(1, 40).Draw(t, "acts") {
			owner := rapid.SampledFrom([]string{"stacks/a", "stacks/b", "servers/c+1", "servers/d+2"}).Draw(t, "owner")
			before, sum := owners(ctx, t, mem)
			used, held := int64(rapid.IntRange(0, 5).Draw(t, "used")), int64(rapid.IntRange(0, 5).Draw(t, "held"))
			var err error
			switch act := rapid.IntRange(0, 5).Draw(t, "act"); {
			case act == 0:
				limitNow = int64(rapid.IntRange(0, 12).Draw(t, "limit"))
				setLimit(limitNow)
			case act < 4:
				err = begin(ctx, a, s, owner, amounts(used), amounts(held))
				more := used+held > before[owner]
				switch refused := fault.Is(err, fault.Quota); {
				case refused && !more:
					t.Fatalf("%s was refused although it takes no more: %v", owner, err)
				case refused != (more && sum-before[owner]+used+held > limitNow):
					if err == nil || fault.Is(err, fault.Quota) {
						t.Fatalf("%s asked for %d, had %d of %d in use, limit %d: %v", owner, used+held, before[owner], sum, limitNow, err)
					}
				}
			default:
				err = end(ctx, s, owner, amounts(min(used, before[owner])))
			}
			if err != nil && !fault.Is(err, fault.Quota) && !fault.Is(err, fault.Unavailable) {
				t.Fatal(err)
			}
			hold(ctx, t, mem)
		}
		for owner := range must(owners(ctx, t, mem)) {
			if err := end(ctx, mem, owner, nil); err != nil {
				t.Fatal(err)
			}
		}
		if page, err := mem.List(ctx, "/weft/quota/acme/d/", store.ListOptions{}); err != nil || len(page.Entries) > 0 {
			t.Fatalf("left behind: %v %v", page.Entries, err)
		}
	})
}

func must(out map[string]int64, _ int64) map[string]int64 { return out }

func amounts(n int64) quota.Amounts {
	if n == 0 {
		return nil
	}
	return quota.Amounts{quota.Servers: n}
}

// hold wants what is drawn to be what the owners say.
func hold(ctx context.Context, t interface {
	Fatal(...any)
	Fatalf(string, ...any)
}, s store.Store,
) {
	said, _ := owners(ctx, t, s)
	state, err := accountOn(s).Read(ctx, "acme")
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, n := range said {
		sum += n
	}
	if got := state.Used[quota.Servers] + state.Held[quota.Servers]; got != sum {
		t.Fatalf("%d are drawn, the owners %v say %d", got, said, sum)
	}
}

// TestHoldsTogether has many begin at once: as many as the limit allows do, the others are refused, and none is left waiting.
func TestHoldsTogether(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	mem := memstore.New()
	a := accountOn(mem)
	most := int64(10)
	limit(t, mem, &most)
	var wg sync.WaitGroup
	results := make([]error, 40)
	for i := range results {
		wg.Go(func() {
			results[i] = begin(ctx, a, mem, fmt.Sprintf("stacks/s%d", i), nil, quota.Amounts{quota.Servers: 3})
		})
	}
	wg.Wait()
	began := 0
	for _, err := range results {
		switch {
		case err == nil:
			began++
		case !fault.Is(err, fault.Quota):
			t.Errorf("want begun or refused: %v", err)
		}
	}
	if began != 3 {
		t.Errorf("%d of 40 that need 3 each began within a limit of 10, want 3", began)
	}
	hold(ctx, t, mem)
}

// TestTurns has two look at the same time: only one of what they then write is written, and the other is refused when it looks
// again, unless both fit.
func TestTurns(t *testing.T) {
	t.Parallel()
	for most, fits := range map[int64]bool{3: false, 4: true} {
		ctx := context.Background()
		mem := memstore.New()
		a := accountOn(mem)
		limit(t, mem, &most)
		two := &participantv1.TenantDraw{Held: quota.Amounts{quota.Servers: 2}}
		first, err := a.Draw(ctx, "acme", "stacks/a", two)
		if err != nil {
			t.Fatal(err)
		}
		second, err := a.Draw(ctx, "acme", "stacks/b", two)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := mem.Txn(ctx, first.Compares, first.Ops); err != nil {
			t.Fatal(err)
		}
		if _, err := mem.Txn(ctx, second.Compares, second.Ops); !fault.Is(err, fault.Conflict) {
			t.Errorf("limit %d: the second was written without a look at the first: %v", most, err)
		}
		if again, err := a.Overtaken(ctx, second); err != nil || !again {
			t.Errorf("limit %d: the second is not seen to be overtaken: %v", most, err)
		}
		second, err = a.Draw(ctx, "acme", "stacks/b", two)
		if fits != (err == nil) || !fits && !fault.Is(err, fault.Quota) {
			t.Errorf("limit %d: the second look gives %v", most, err)
		}
		if !fits {
			continue
		}
		if _, err := mem.Txn(ctx, second.Compares, second.Ops); err != nil {
			t.Error(err)
		}
	}
}

// TestLimitComesMeanwhile has a limit set between the look of one that had none and its transaction: that must look again.
func TestLimitComesMeanwhile(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	mem := memstore.New()
	a := accountOn(mem)
	limit(t, mem, nil)
	h, err := a.Draw(ctx, "acme", "stacks/a", &participantv1.TenantDraw{Held: quota.Amounts{quota.Servers: 2}})
	if err != nil {
		t.Fatal(err)
	}
	one := int64(1)
	limit(t, mem, &one)
	if _, err := mem.Txn(ctx, h.Compares, h.Ops); !fault.Is(err, fault.Conflict) {
		t.Fatalf("written although there is a limit by now: %v", err)
	}
	if again, err := a.Overtaken(ctx, h); err != nil || !again {
		t.Fatalf("is not seen to be overtaken: %v", err)
	}
	_, err = a.Draw(ctx, "acme", "stacks/a", &participantv1.TenantDraw{Held: quota.Amounts{quota.Servers: 2}})
	want := "tenants/acme: the compute quota of servers does not suffice: need 2, used 0, limit 1; free some or have the quota raised"
	if !fault.Is(err, fault.Quota) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestFaultTellsWhatIsHeld shows what is said when others hold a part.
func TestFaultTellsWhatIsHeld(t *testing.T) {
	t.Parallel()
	s := &quota.State{Used: quota.Amounts{quota.Volumes: 5}, Held: quota.Amounts{quota.Volumes: 2}}
	use := s.Use("acme", quota.Quota{Name: quota.Volumes, Service: "storage"}, 4, quota.Amounts{quota.Volumes: 10})
	if !quota.Passes(use) {
		t.Error("5 used, 2 held and 4 needed pass no limit of 10")
	}
	want := "tenants/acme: the storage quota of volumes does not suffice: need 4, used 7 (2 of it held by operations under way), limit 10; free some or have the quota raised"
	if got := quota.Fault(use).Error(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestQuotasAreTheContracts holds the list of quotas to the contract.
func TestQuotasAreTheContracts(t *testing.T) {
	t.Parallel()
	var contract, listed []string
	fields := (&orchestratorv1.TenantQuotas{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		contract = append(contract, fields.Get(i).JSONName())
	}
	for _, q := range quota.All() {
		listed = append(listed, q.Name)
	}
	slices.Sort(contract)
	slices.Sort(listed)
	if d := cmp.Diff(contract, listed); d != "" {
		t.Errorf("the quotas differ from the fields of TenantQuotas (-contract +listed):\n%s", d)
	}
}

// TestOf shows what specs take.
func TestOf(t *testing.T) {
	t.Parallel()
	size := func(spec proto.Message) int64 { return quota.GiB(spec.(*storagev1.VolumeSpec).GetSize()) }
	draws := []quota.Draw{{Quota: quota.Volumes}, {Quota: quota.VolumeGiB, Amount: size, Field: "size"}, {Quota: quota.VCPUs, Sized: true}}
	for text, want := range map[string]int64{"20Gi": 20, "2Ti": 2048, "": 0, "many": 0} {
		got := quota.Of(draws, &storagev1.VolumeSpec{Size: text})
		if !maps.Equal(got, quota.Amounts{quota.Volumes: 1, quota.VolumeGiB: want}) {
			t.Errorf("a volume of %q takes %v, want 1 and %d GiB", text, got, want)
		}
	}
}
