// Package kubernetes simulates a Kubernetes 1.37 cluster behind the real HTTP API: the API server's storage,
// discovery, server-side apply, watches and validation, and the controllers, scheduler and kubelets that make
// workloads run. client-go and kubectl work on it unchanged.
//
// A request passes Handler in this order: the sandbox's control (call log, faults, latency), the journal (no answer
// before its changes are kept), authentication, authorization, then the handler of the path. Writes and controllers
// change objects only under the store's lock. Controllers are functions of the stored objects and of the time, see
// controllers.go, so a killed process goes on where it was.
package kubernetes

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"

	"github.com/weftcloud/weft/services/sandbox/internal/control"
	"github.com/weftcloud/weft/services/sandbox/internal/world"
)

// Service is the name under which calls, faults, latencies and inventory of the simulated cluster stand.
const Service = "kubernetes"

// Config is what a Server needs. The zero value is a cluster that is kept in memory, with three nodes.
type Config struct {
	Journal *world.Journal   // where objects survive; nil keeps them in memory
	Control *control.Control // call log, faults and latencies; nil for none
	Now     world.Clock      // nil is time.Now
	Logger  *slog.Logger     // nil discards
	Nodes   int              // how many nodes stand at first, 3 when 0

	// Latency says how long a state takes: keys kubernetes.pod.ready, kubernetes.pod.deleted, kubernetes.job.complete,
	// kubernetes.claim.bound. Nil asks Control.StateLatency; without Control pods take a second.
	Latency func(key string) time.Duration
}

// Server is one simulated cluster.
type Server struct {
	config    Config
	scheme    *runtime.Scheme
	codecs    serializer.CodecFactory
	typed     managedfields.TypeConverter
	store     *store
	catalog   *catalog
	keys      *credentials
	work      *work
	openapi   *schemas
	logger    *slog.Logger
	addresses *addresses
}

// New opens the cluster that the journal holds, or makes a fresh one.
func New(cfg Config) (*Server, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	s := &Server{
		config: cfg, scheme: scheme, codecs: serializer.NewCodecFactory(scheme), logger: cfg.Logger,
		typed: applyconfigurations.NewTypeConverter(scheme), store: newStore(cfg.Journal), catalog: newCatalog(),
		work: newWork(), addresses: newAddresses(),
	}
	s.openapi = newSchemas(s)
	s.store.committed = s.observe
	if s.keys, err = loadCredentials(cfg.Journal, cfg.Now()); err != nil {
		return nil, err
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	if err := s.seed(); err != nil {
		return nil, err
	}
	if cfg.Control != nil {
		cfg.Control.AddInventory(s)
		cfg.Control.AddReset(s.Reset)
	}
	return s, nil
}

func (cfg *Config) complete() error {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Nodes == 0 {
		cfg.Nodes = 3
	}
	if cfg.Journal == nil {
		memory, err := world.OpenJournal("")
		if err != nil {
			return fmt.Errorf("open memory journal: %w", err)
		}
		cfg.Journal = memory
	}
	if cfg.Latency == nil && cfg.Control != nil {
		cfg.Latency = cfg.Control.StateLatency
	}
	if cfg.Latency == nil {
		cfg.Latency = defaultLatency
	}
	return nil
}

func defaultLatency(key string) time.Duration {
	if key == "kubernetes.pod.ready" || key == "kubernetes.job.complete" {
		return time.Second
	}
	return 200 * time.Millisecond
}

// load reads the journal: custom resource definitions first, since they say what other objects are.
func (s *Server) load() error {
	type stored struct {
		id    string
		value []byte
	}
	var definitions, others []stored
	err := s.config.Journal.Load(bucketObjects, func(id string, value []byte) error {
		if strings.HasPrefix(id, "customresourcedefinitions.") {
			definitions = append(definitions, stored{id, value})
			return nil
		}
		others = append(others, stored{id, value})
		return nil
	})
	if err != nil {
		return fmt.Errorf("load cluster: %w", err)
	}
	err = s.config.Journal.Load(bucketServer, func(id string, value []byte) error {
		if id != "resourceVersion" {
			return nil
		}
		rv, err := strconv.ParseUint(string(value), 10, 64)
		s.store.rv = max(s.store.rv, rv)
		return err
	})
	if err != nil {
		return fmt.Errorf("load cluster: %w", err)
	}
	for _, o := range append(definitions, others...) {
		if err := s.restore(o.id, o.value); err != nil {
			return err
		}
	}
	s.store.oldest = s.store.rv
	return nil
}

func (s *Server) restore(id string, raw []byte) error {
	storage, _, found := strings.Cut(id, "/")
	r := s.storageResource(storage)
	if !found || r == nil {
		return fmt.Errorf("load cluster: object %q is of no known resource", id)
	}
	obj, err := s.decodeRaw(r, raw)
	if err != nil {
		return fmt.Errorf("load %s: %w", id, err)
	}
	e, err := newEntry(r, obj)
	if err != nil {
		return fmt.Errorf("load %s: %w", id, err)
	}
	s.store.index(e, nil)
	s.store.rv = max(s.store.rv, e.rv)
	s.observe(change{rv: e.rv, entry: e})
	return nil
}

// storageResource finds the resource whose objects stand under a storage key.
func (s *Server) storageResource(key string) *resource {
	var found *resource
	for _, r := range s.catalog.byGVR {
		if r.storageKey() == key && (found == nil || r.gvk.Version < found.gvk.Version) {
			found = r
		}
	}
	return found
}

// Reset takes every object away and seeds the cluster again. Credentials stay.
func (s *Server) Reset() error {
	s.store.mu.Lock()
	for _, spaces := range s.store.objects {
		for _, names := range spaces {
			for _, e := range names {
				if err := s.config.Journal.Delete(bucketObjects, e.key().String()); err != nil {
					s.store.mu.Unlock()
					return fmt.Errorf("reset cluster: %w", err)
				}
			}
		}
	}
	fresh := newStore(s.config.Journal)
	s.store.objects, s.store.byUID, s.store.byOwner, s.store.load = fresh.objects, fresh.byUID, fresh.byOwner, fresh.load
	s.store.rv++
	s.store.history, s.store.oldest = nil, s.store.rv // watches that lag are told to list again
	close(s.store.changed)
	s.store.changed = make(chan struct{})
	s.catalog = newCatalog()
	s.work.clear()
	s.addresses = newAddresses()
	s.openapi.forget()
	s.store.mu.Unlock()
	return s.seed()
}

// Handler serves the API. It expects the client's certificate in the request's TLS state, see TLSConfig.
func (s *Server) Handler() http.Handler {
	h := http.Handler(http.HandlerFunc(s.serve))
	h = s.config.Journal.Middleware(h)
	if s.config.Control != nil {
		h = s.config.Control.Middleware(Service, h)
	}
	return h
}

// Run plays the controllers until ctx ends. It returns nil then, or the error of a journal that cannot be written.
func (s *Server) Run(ctx context.Context) error {
	for {
		wait, err := s.Step()
		if err != nil {
			return fmt.Errorf("run controllers: %w", err)
		}
		if wait <= 0 {
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil
			}
			return ctx.Err()
		case <-s.work.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// Inventory lists every object of the cluster; what the cluster made for itself is marked as seeded.
func (s *Server) Inventory() []control.InventoryItem {
	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	var items []control.InventoryItem
	for _, r := range s.catalog.sorted() {
		for _, e := range s.store.list(r.storageKey(), "") {
			if e.res != r {
				continue
			}
			items = append(items, inventoryItem(e))
		}
	}
	return items
}

func inventoryItem(e *entry) control.InventoryItem {
	name := e.name
	if e.namespace != "" {
		name = e.namespace + "/" + e.name
	}
	item := control.InventoryItem{
		Service: Service, Kind: e.res.gvk.Kind, ID: string(e.uid), Name: name, Project: e.namespace,
		Labels: e.labels, CreatedAt: e.created, Seeded: seeded(e), State: "Active",
	}
	if e.pod != nil {
		item.State = string(e.pod.phase)
	}
	if digest := digestOf(e.raw); digest != "" {
		item.Settings = map[string]string{"digest": digest}
	}
	if e.deleting {
		item.State = "Terminating"
	}
	return item
}

// digestOf sums up what an object is set to, without what the cluster itself writes; empty if it says nothing.
func digestOf(raw []byte) string {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil {
		return ""
	}
	for _, key := range []string{"metadata", "status", "apiVersion", "kind"} {
		delete(object, key)
	}
	if len(object) == 0 {
		return ""
	}
	text, err := json.Marshal(object) // its keys are sorted
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:6])
}

// Counts is the number of objects by "kubernetes.Kind", without seeded ones.
func (s *Server) Counts() map[string]int {
	counts := map[string]int{}
	for _, item := range s.Inventory() {
		if !item.Seeded {
			counts[Service+"."+item.Kind]++
		}
	}
	return counts
}
