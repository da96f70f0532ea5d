package budget

// How processes share an account.
//
// # Background
//
// The rate is the account's, and whoever calls on it divides it: all services of one process by one Budget, and several
// processes by keys in the store.
//
//	/weft/budgets/<account>/<process>   a presence: what the process wants of the account, and how long it is to rest
//
// # Who writes
//
// Each process writes its own keys only, under its lease, and watches those of all. It writes when it begins to call,
// when what it wants has changed by a quarter, at once when somebody better than usual waits or when the provider asked
// it to rest; it deletes the key when it has made no call for some seconds. Among n processes with a key each gets
//
//	rate × (1/4n + 3/4 × weight / sum of weights)
//
// so that the parts add up to the rate, and none waits for long to be heard. Nobody else has a key: all is one's own.
//
// A rest is written as what is left of it and counts from when it is read, so that clocks need not agree. It is numbered:
// a process rests once for each, however often the key is written.
//
// # What happens on a crash
//
// The key goes with the lease, and its part falls to the others. Without the store each process goes on with the part that
// it had; when its lease has ended the others use that part too, until it is back: then the provider's own refusals are
// what holds the rate.

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/lease"
	"github.com/weftcloud/weft/pkg/store"
)

// Prefix is the prefix of all keys that registries write.
const Prefix = "/weft/budgets/"

const (
	// sampleEvery is how often a process looks at what it uses.
	sampleEvery = time.Second
	// shortestGap is the least time between two writes.
	shortestGap = 100 * time.Millisecond
	// urgent is how much more who waits in a better class weighs.
	urgent = 8
)

// RegistryConfig is what a Registry is made of.
type RegistryConfig struct {
	// Store is where processes see each other; nil means that there is one process only.
	Store store.Store
	// Process names the process, for people; what makes it unique is added.
	Process string
	// Logger gets what goes wrong; nil means none.
	Logger *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Registry keeps the budgets of a process, one for each account. All methods are safe for concurrent use.
type Registry struct {
	config  RegistryConfig
	process string
	kicked  chan struct{}

	mu       sync.Mutex
	accounts map[string]*account
	peers    map[string]map[string]peer // by account and process
}

// account is one budget with what was told of it.
type account struct {
	budget *Budget
	weight float64 // what this process wants
	used   uint64  // at the last sample
	usage  float64 // calls a second, smoothed
	sent   *presence
	rested time.Time // the end of the rest that was numbered last
	rest   uint64
}

// presence is the value of a key.
type presence struct {
	// Weight is what the process wants: about how many calls a second, those of better classes counted several times.
	Weight float64 `json:"weight"`
	// Rest numbers the times that the provider asked the process to rest; RestMillis is what was left of the last.
	Rest       uint64 `json:"rest,omitempty"`
	RestMillis int64  `json:"restMillis,omitempty"`
}

// peer is what another process told.
type peer struct {
	presence
	until time.Time // of its rest
}

// NewRegistry makes a registry without budgets. Until Run works the process takes itself for the only one.
func NewRegistry(c RegistryConfig) *Registry {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Process = cmp.Or(c.Process, "weft")
	return &Registry{
		config: c, process: c.Process + "-" + rand.Text()[:10], kicked: make(chan struct{}, 1),
		accounts: map[string]*account{}, peers: map[string]map[string]peer{},
	}
}

// AccountKey names an account at a cloud by the cloud's name and by all that tells accounts there apart, e.g. the endpoint,
// the user and the project, in a fixed order. It shows none of these, and is the same in every process.
func AccountKey(name string, identity ...string) string {
	h := sha256.New()
	for _, part := range identity {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return strings.ReplaceAll(name, "/", ".") + "-" + hex.EncodeToString(h.Sum(nil)[:6])
}

// Budget gives the budget of an account, see AccountKey, which may be called perSecond times a second by all processes
// together. The rate that was given last counts.
func (r *Registry) Budget(key string, perSecond float64) *Budget {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.accounts[key]; a != nil {
		a.budget.SetRate(perSecond)
		return a.budget
	}
	a := &account{budget: New(Config{Rate: perSecond, Now: r.config.Now})}
	a.budget.kick = r.kick
	r.accounts[key] = a
	r.divide(key, a)
	now := r.config.Now()
	for _, p := range r.peers[key] {
		if rest := p.until.Sub(now); rest > 0 {
			a.budget.obey(rest)
		}
	}
	return a.budget
}

// kick has the loop look soon. It does not block: it is called with a budget locked.
func (r *Registry) kick() {
	select {
	case r.kicked <- struct{}{}:
	default:
	}
}

// Run tells the other processes and listens to them until ctx ends.
func (r *Registry) Run(ctx context.Context) error {
	if r.config.Store == nil {
		<-ctx.Done()
		return nil
	}
	for ctx.Err() == nil {
		err := r.session(ctx)
		if ctx.Err() != nil {
			break
		}
		r.config.Logger.Warn("share the budgets of cloud accounts; it is tried again", "error", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	return nil
}

// session shares for as long as the lease and the watch last.
func (r *Registry) session(ctx context.Context) error {
	held, err := lease.Hold(ctx, r.config.Store, lease.Options{Logger: r.config.Logger})
	if err != nil {
		return err
	}
	defer func() {
		giving, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if err := held.Release(giving); err != nil {
			r.config.Logger.Debug("give back the lease of the budgets", "error", err) // it ends by itself
		}
	}()
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	page, err := r.config.Store.List(ctx, Prefix, store.ListOptions{})
	if err != nil {
		return fault.Wrap(err, "list who uses cloud accounts")
	}
	r.replace(page.Entries)
	watch := r.config.Store.Watch(watching, Prefix, page.Revision+1)
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-held.Lost():
			return fault.New(fault.Unavailable, "the lease has ended")
		case events, ok := <-watch.Events():
			if !ok {
				return fault.Wrap(watch.Err(), "watch who uses cloud accounts")
			}
			r.hear(events)
			continue
		case <-ticker.C:
			r.sample()
		case <-r.kicked:
		}
		if err := r.tell(ctx, held.ID()); err != nil {
			return err
		}
		if err := pass(ctx, shortestGap); err != nil {
			return err
		}
	}
}

func pass(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
	return ctx.Err()
}

// split gives the account and the process of a key.
func split(key string) (account, process string, ok bool) {
	return strings.Cut(strings.TrimPrefix(key, Prefix), "/")
}

// replace begins anew with all keys as they stand; nothing of ours is under the new lease yet.
func (r *Registry) replace(entries []store.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	former := r.peers
	r.peers = map[string]map[string]peer{}
	for _, e := range entries {
		r.note(e, former)
	}
	for key, a := range r.accounts {
		a.sent = nil
		r.divide(key, a)
	}
	r.kick()
}

// hear takes what other processes wrote.
func (r *Registry) hear(events []store.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range events {
		key, process, ok := split(e.Entry.Key)
		if !ok || process == r.process {
			continue
		}
		if e.Deleted {
			delete(r.peers[key], process)
		} else {
			r.note(e.Entry, r.peers)
		}
		if a := r.accounts[key]; a != nil {
			r.divide(key, a)
		}
	}
}

// note takes one presence; a rest that was not known in former is obeyed.
func (r *Registry) note(e store.Entry, former map[string]map[string]peer) {
	key, process, ok := split(e.Key)
	if !ok || process == r.process {
		return
	}
	told := presence{}
	if err := json.Unmarshal(e.Value, &told); err != nil {
		r.config.Logger.Warn("read who uses a cloud account", "key", e.Key, "error", err)
		return
	}
	known := former[key][process]
	p := peer{presence: told, until: known.until}
	if told.Rest != known.Rest && told.RestMillis > 0 {
		rest := time.Duration(told.RestMillis) * time.Millisecond
		p.until = r.config.Now().Add(rest)
		if a := r.accounts[key]; a != nil {
			a.budget.obey(rest)
		}
	}
	if r.peers[key] == nil {
		r.peers[key] = map[string]peer{}
	}
	r.peers[key][process] = p
}

// divide sets this process's part of an account.
func (r *Registry) divide(key string, a *account) {
	peers := r.peers[key]
	if len(peers) == 0 {
		a.budget.setShare(1)
		return
	}
	own := max(a.weight, 1)
	sum := own
	for _, p := range peers {
		sum += max(p.Weight, 1)
	}
	a.budget.setShare(1/float64(4*(1+len(peers))) + 3*own/(4*sum))
}

// sample looks at how much was used since the last sample.
func (r *Registry) sample() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.accounts {
		used := a.budget.Stats().Used
		a.usage = (a.usage + max(float64(used)-float64(a.used), 0)/sampleEvery.Seconds()) / 2
		if a.usage < 0.05 {
			a.usage = 0
		}
		a.used = used
	}
}

// tell writes what has changed.
func (r *Registry) tell(ctx context.Context, id store.LeaseID) error {
	ops, written := r.news(id)
	for chunk := range slices.Chunk(ops, store.MaxTxnOps) {
		if _, err := r.config.Store.Txn(ctx, nil, chunk); err != nil {
			return fault.Wrap(err, "say who uses cloud accounts")
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, p := range written {
		r.accounts[key].sent = p
	}
	return nil
}

// news gives what the others should know, by account; nil for an account that is not used any more.
func (r *Registry) news(id store.LeaseID) ([]store.Op, map[string]*presence) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ops []store.Op
	written := map[string]*presence{}
	for _, key := range slices.Sorted(maps.Keys(r.accounts)) {
		a := r.accounts[key]
		next := r.presence(a)
		r.divide(key, a)
		op := store.Op{Key: Prefix + key + "/" + r.process, Lease: id}
		switch {
		case next == nil && a.sent != nil:
			op.Delete, op.Lease = true, 0
		case next == nil, a.sent != nil && !differs(*a.sent, *next):
			continue
		default:
			value, err := json.Marshal(next)
			if err != nil {
				r.config.Logger.Error("encode who uses a cloud account", "error", err) // numbers always encode
				continue
			}
			op.Value = value
		}
		ops, written[key] = append(ops, op), next
	}
	return ops, written
}

// presence gives what an account's key should hold; nil if it is not used.
func (r *Registry) presence(a *account) *presence {
	b := a.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	limit := 2 * b.full
	better := float64(b.lines[Interactive].waiting + b.lines[Undo].waiting)
	a.weight = min(a.usage+float64(b.lines[Normal].waiting), limit) + urgent*min(better, limit)
	rest := b.own.Sub(r.config.Now())
	if rest > 0 && b.own.After(a.rested) {
		a.rest++
		a.rested = b.own
	}
	if a.weight == 0 && rest <= 0 {
		return nil
	}
	return &presence{Weight: a.weight, Rest: a.rest, RestMillis: max(rest.Milliseconds(), 0)}
}

// differs tells whether others should know: of another rest, or if what is wanted has changed by a quarter.
func differs(a, b presence) bool {
	return a.Rest != b.Rest || a.RestMillis > 0 && b.RestMillis == 0 || b.Weight > a.Weight*1.25 || b.Weight < a.Weight*0.8
}
