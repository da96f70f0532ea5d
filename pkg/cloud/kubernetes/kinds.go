package kubernetes

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/weftcloud/weft/pkg/fault"
)

// refreshInterval bounds how often a kind that the cluster does not have makes us ask again what it has.
const refreshInterval = time.Second

// Kinds finds the REST resources of kinds. What the cluster serves is asked once, and again when a kind is unknown,
// since definitions come while a cluster lives.
type Kinds struct {
	mapper meta.ResettableRESTMapper
	now    func() time.Time

	mu        sync.Mutex
	refreshed time.Time
}

// Resource finds the REST resource of a kind, and whether it is namespaced. The error is Unsupported if the cluster does
// not serve the kind.
func (k *Kinds) Resource(kind schema.GroupVersionKind) (*meta.RESTMapping, error) {
	m, err := k.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) && k.refresh() {
		m, err = k.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	}
	if meta.IsNoMatchError(err) {
		return nil, &fault.Error{Kind: fault.Unsupported, Message: "the cluster does not serve the kind " + kind.Kind + " of " + kind.GroupVersion().String(), Cause: nil}
	}
	if err != nil {
		return nil, fault.Wrap(Fault(err), "look up kind %s of %s", kind.Kind, kind.GroupVersion())
	}
	return m, nil
}

// refresh forgets what is known, unless that was done a moment ago, and tells whether it did.
func (k *Kinds) refresh() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := k.now(); now.Sub(k.refreshed) >= refreshInterval {
		k.refreshed = now
		k.mapper.Reset()
		return true
	}
	return false
}

// Forget makes the next question ask the cluster again; call it after a definition was made or deleted.
func (k *Kinds) Forget() { k.mapper.Reset() }
