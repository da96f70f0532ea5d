package kubernetes

import (
	"context"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	cloud "github.com/weftcloud/weft/pkg/cloud/kubernetes"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// manifests makes a Manifest of whatever objects its YAML names, and of an inventory: a ConfigMap that lists them.
//
// The inventory bears the manifest's mark and is what Create makes. It is written before the objects that it lists are
// made, and taken away after the last of them is gone: an object of ours that no inventory lists cannot come to be.
//
//	Create   write the inventory
//	Update   write into the inventory what is wanted and what no longer is; apply the former by tiers, delete the latter
//	Observe  Outdated while an object is missing whose kind is served, so that Update goes on after a definition is served
//	Delete   delete by tiers from the last to the first, each once the one before is gone; then the inventory
//
// Who is asked to delete a namespace that holds objects of others refuses and names them.
type manifests struct {
	session *cloud.Session
	now     func() time.Time
}

type (
	manifestRequest = driver.Request[*containerv1.ManifestSpec]
	manifestSeen    = driver.Observation[*containerv1.ManifestObserved]
)

// NeedsUpdate tells that Create makes only the inventory.
func (m *manifests) NeedsUpdate() bool { return true }

// Find finds the manifest by its inventory, in whichever namespace that is.
func (m *manifests) Find(ctx context.Context, r manifestRequest) ([]string, error) {
	found, err := list(ctx, client(m.session, configMaps, metav1.NamespaceAll), selectKey(partInventory, r.Key))
	if err != nil {
		return nil, fault.Wrap(err, "find manifest %s", r.Name)
	}
	ids := []string{}
	for _, o := range found {
		ids = append(ids, identity{o.GetNamespace(), o.GetName(), r.Key}.String())
	}
	return ids, nil
}

// wantedObject is one object that a manifest wants.
type wantedObject struct {
	document
	entry entry
	// mapping is its REST resource; nil as long as the cluster does not serve its kind, which the manifest defines.
	mapping *meta.RESTMapping
}

// want gives the objects that a manifest wants, in the order to make them, each marked and with its namespace.
func (m *manifests) want(r manifestRequest) ([]wantedObject, error) {
	docs, problems := parseManifest(r.Spec.GetYaml())
	if len(problems) > 0 {
		return nil, problems[0]
	}
	defined := definitions(docs)
	out := make([]wantedObject, 0, len(docs))
	for _, d := range docs {
		w, err := m.resolve(d, r.Spec.GetNamespace(), defined)
		if err != nil {
			return nil, err
		}
		adorn(w.object, r)
		out = append(out, w)
	}
	slices.SortStableFunc(out, func(a, b wantedObject) int { return a.entry.tier() - b.entry.tier() })
	return out, nil
}

// resolve finds the kind of a document's object and gives the object its namespace. The error is Invalid if neither the
// cluster nor the manifest knows the kind.
func (m *manifests) resolve(d document, namespace string, defined map[schema.GroupKind]definition) (wantedObject, error) {
	gvk := d.object.GroupVersionKind()
	w := wantedObject{document: d}
	mapping, err := m.session.Kinds.Resource(gvk)
	own, isOwn := defined[gvk.GroupKind()]
	if fault.Is(err, fault.Unsupported) && !isOwn {
		return w, d.invalid("%v; check apiVersion and kind, or put its definition into this manifest", err)
	}
	if err != nil && !fault.Is(err, fault.Unsupported) {
		return w, err
	}
	namespaced := own.namespaced
	if err == nil {
		w.mapping, namespaced = mapping, mapping.Scope.Name() == meta.RESTScopeNameNamespace
	}
	if !namespaced && d.object.GetNamespace() != "" {
		return w, d.invalid("a %s has no namespace; leave metadata.namespace out", gvk.Kind)
	}
	if namespaced && d.object.GetNamespace() == "" {
		d.object.SetNamespace(namespaceOf(namespace))
	}
	w.entry = entry{APIVersion: d.object.GetAPIVersion(), Kind: gvk.Kind, Namespace: d.object.GetNamespace(), Name: d.object.GetName()}
	return w, nil
}

// adorn marks an object.
func adorn(o *unstructured.Unstructured, r manifestRequest) {
	labels, annotations := o.GetLabels(), o.GetAnnotations()
	if labels == nil {
		labels = map[string]string{}
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	for k, v := range mark(partObject, r.Key) {
		if _, authors := labels[k]; !authors {
			labels[k] = v
		}
	}
	annotations[annotationName] = r.Name
	o.SetLabels(labels)
	o.SetAnnotations(annotations)
}

func entriesOf(wanted []wantedObject) []entry {
	out := make([]entry, 0, len(wanted))
	for _, w := range wanted {
		out = append(out, w.entry)
	}
	return out
}

// Create writes the inventory: in the manifest's namespace, or in default if the manifest makes that one itself.
func (m *manifests) Create(ctx context.Context, r manifestRequest) (string, error) {
	wanted, err := m.want(r)
	if err != nil {
		return "", fault.Wrap(err, "create manifest %s", r.Name)
	}
	at := identity{namespaceOf(r.Spec.GetNamespace()), inventoryName(r.Name), r.Key}
	if slices.ContainsFunc(wanted, func(w wantedObject) bool {
		return isNamespace(w.entry.gvk().GroupKind()) && w.entry.Name == at.namespace
	}) {
		at.namespace = metav1.NamespaceDefault
	}
	inventory, err := buildInventory(r, at, entriesOf(wanted))
	if err != nil {
		return "", fault.Wrap(err, "create manifest %s", r.Name)
	}
	err = m.writer(r.Key).put(ctx, configMaps, inventory, nil)
	if fault.Is(err, fault.NotFound) {
		err = &fault.Error{Kind: fault.Precondition, Field: "spec.namespace", Message: "the namespace " + at.namespace + " does not exist; make it first, e.g. in this manifest", Cause: err}
	}
	if err != nil {
		return "", fault.Wrap(err, "create manifest %s", r.Name)
	}
	return at.String(), nil
}

// writer does not take fields from others: a manifest's author may not know who else has a say there.
func (m *manifests) writer(key string) writer { return writer{session: m.session, key: key} }

// Update writes the inventory, makes and changes what differs, and deletes what is no longer wanted. Objects whose kind
// is not served yet are left for the next Update.
func (m *manifests) Update(ctx context.Context, id string, r manifestRequest) error {
	at, err := parseID(id)
	if err != nil {
		return err
	}
	inventory, standing, err := m.inventory(ctx, at)
	if err != nil {
		return fault.Wrap(err, "update manifest %s", r.Name)
	}
	wanted, err := m.want(r)
	if err != nil {
		return fault.Wrap(err, "update manifest %s", r.Name)
	}
	entries := merge(entriesOf(wanted), standing)
	next, err := buildInventory(r, at, entries)
	if err != nil {
		return fault.Wrap(err, "update manifest %s", r.Name)
	}
	owner := m.writer(at.key)
	owner.force = true // nobody but us has a say in the inventory
	if err := owner.put(ctx, configMaps, next, inventory); err != nil {
		return fault.Wrap(err, "update manifest %s", r.Name)
	}
	live, err := m.live(ctx, entries, selectKey(partObject, at.key))
	if err != nil {
		return fault.Wrap(err, "update manifest %s", r.Name)
	}
	for _, w := range wanted {
		if w.mapping == nil {
			continue
		}
		if err := m.writer(at.key).put(ctx, w.mapping, w.object, live[w.entry.object()]); err != nil {
			return fault.Wrap(inYAML(err), "update manifest %s: %s", r.Name, w.place())
		}
	}
	return fault.Wrap(m.prune(ctx, at, entries, live), "update manifest %s", r.Name)
}

// inYAML names the field of a refused object, if nothing else is named.
func inYAML(err error) error {
	if !fault.Is(err, fault.Invalid) || fault.Field(err) != "" {
		return err
	}
	return &fault.Error{Kind: fault.Invalid, Field: fieldYAML, Cause: err}
}

// prune deletes what is no longer wanted, the last first.
func (m *manifests) prune(ctx context.Context, at identity, entries []entry, live map[objectID]*unstructured.Unstructured) error {
	var surplus []entry
	for _, e := range entries {
		if e.Surplus && live[e.object()] != nil {
			surplus = append(surplus, e)
		}
	}
	if len(surplus) == 0 {
		return nil
	}
	_, err := m.deleteTiers(ctx, at, surplus)
	return err
}

// inventory reads an inventory; NotFound if it is gone.
func (m *manifests) inventory(ctx context.Context, at identity) (*unstructured.Unstructured, []entry, error) {
	o, err := client(m.session, configMaps, at.namespace).Get(ctx, at.name, metav1.GetOptions{})
	if err != nil {
		return nil, nil, cloud.Fault(err)
	}
	if o.GetLabels()[labelKey] != at.key {
		return nil, nil, fault.New(fault.NotFound, "%s is gone; one of that name belongs to %s", at, ownerOf(o))
	}
	entries, err := readInventory(o)
	return o, entries, err
}

// live lists the objects of ours that stand among entries: one list call for each kind. What the cluster does not serve
// does not exist.
func (m *manifests) live(ctx context.Context, entries []entry, selector string) (map[objectID]*unstructured.Unstructured, error) {
	namespaces := map[schema.GroupVersionKind]string{}
	for _, e := range entries {
		in, seen := namespaces[e.gvk()]
		if !seen {
			in = e.Namespace
		}
		if in != e.Namespace {
			in = metav1.NamespaceAll
		}
		namespaces[e.gvk()] = in
	}
	out := map[objectID]*unstructured.Unstructured{}
	for gvk, namespace := range namespaces {
		mapping, err := m.session.Kinds.Resource(gvk)
		if fault.Is(err, fault.Unsupported) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found, err := list(ctx, client(m.session, mapping, namespace), selector)
		if fault.Is(err, fault.NotFound) {
			m.session.Kinds.Forget() // the kind was served and is no longer: its definition is gone
			continue
		}
		if err != nil {
			return nil, fault.Wrap(err, "list %s", mapping.Resource.Resource)
		}
		for _, o := range found {
			out[idOf(o)] = o
		}
	}
	return out, nil
}

// Delete deletes the objects, the last tier first, each tier once the one after it is gone, and the inventory at the end.
// It is to be called until Observe finds nothing.
func (m *manifests) Delete(ctx context.Context, id string) error {
	at, err := parseID(id)
	if err != nil {
		return err
	}
	inventory, entries, err := m.inventory(ctx, at)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return fault.Wrap(err, "delete manifest %s", id)
	}
	gone, err := m.deleteTiers(ctx, at, entries)
	if err != nil || !gone {
		return fault.Wrap(err, "delete manifest %s", id)
	}
	return fault.Wrap(remove(ctx, client(m.session, configMaps, at.namespace), inventory), "delete manifest %s: delete its inventory", id)
}

// deleteTiers deletes one tier after the other and stops at the first of which something still stands; it tells whether
// all are gone.
func (m *manifests) deleteTiers(ctx context.Context, at identity, entries []entry) (bool, error) {
	for tier := tiers - 1; tier >= 0; tier-- {
		var of []entry
		for _, e := range slices.Backward(entries) {
			if e.tier() == tier {
				of = append(of, e)
			}
		}
		if len(of) == 0 {
			continue
		}
		gone, err := m.deleteTier(ctx, at, of)
		if err != nil || !gone {
			return false, err
		}
	}
	return true, nil
}

func (m *manifests) deleteTier(ctx context.Context, at identity, entries []entry) (bool, error) {
	selector := selectKey(partObject, at.key)
	live, err := m.live(ctx, entries, selector)
	if err != nil {
		return false, err
	}
	if len(live) == 0 {
		return true, nil
	}
	for _, e := range entries {
		o := live[e.object()]
		if o == nil || o.GetDeletionTimestamp() != nil {
			continue
		}
		if err := m.deleteObject(ctx, at, e, o); err != nil {
			return false, fault.Wrap(err, "delete %s", e)
		}
	}
	if live, err = m.live(ctx, entries, selector); err != nil {
		return false, err
	}
	left := standingOf(entries, live)
	held, err := holding(ctx, m.session, left, m.now())
	if err != nil {
		return false, err
	}
	return len(left) == 0, driver.Blocked(held)
}

// standingOf gives those of the entries that stand.
func standingOf(entries []entry, live map[objectID]*unstructured.Unstructured) []*unstructured.Unstructured {
	var out []*unstructured.Unstructured
	for _, e := range entries {
		if o := live[e.object()]; o != nil {
			out = append(out, o)
		}
	}
	return out
}

func (m *manifests) deleteObject(ctx context.Context, at identity, e entry, o *unstructured.Unstructured) error {
	if isNamespace(e.gvk().GroupKind()) {
		others, err := foreigners(ctx, m.session, e.Name, at.key)
		if err != nil {
			return err
		}
		if err := driver.Blocked(others); err != nil {
			return err
		}
	}
	mapping, err := m.session.Kinds.Resource(e.gvk())
	if err != nil {
		return err
	}
	if err := remove(ctx, client(m.session, mapping, e.Namespace), o); err != nil {
		return err
	}
	if isDefinition(e.gvk().GroupKind()) {
		m.session.Kinds.Forget()
	}
	return nil
}

// Blockers lists what keeps a manifest's objects from going: finalizers that nobody serves, and the objects of others in
// a namespace that is to go.
func (m *manifests) Blockers(ctx context.Context, id string) ([]*kindv1.Blocker, error) {
	at, err := parseID(id)
	if err != nil {
		return nil, err
	}
	_, entries, err := m.inventory(ctx, at)
	if fault.Is(err, fault.NotFound) {
		return []*kindv1.Blocker{}, nil
	}
	if err != nil {
		return nil, fault.Wrap(err, "look what blocks the deletion of manifest %s", id)
	}
	live, err := m.live(ctx, entries, selectKey(partObject, at.key))
	if err != nil {
		return nil, fault.Wrap(err, "look what blocks the deletion of manifest %s", id)
	}
	standing := standingOf(entries, live)
	out, err := holding(ctx, m.session, standing, m.now())
	if err != nil {
		return nil, fault.Wrap(err, "look what blocks the deletion of manifest %s", id)
	}
	for _, o := range standing {
		if !isNamespace(o.GroupVersionKind().GroupKind()) || o.GetDeletionTimestamp() != nil {
			continue // what is in a namespace that goes already goes with it
		}
		others, err := foreigners(ctx, m.session, o.GetName(), at.key)
		if err != nil {
			return nil, fault.Wrap(err, "look what blocks the deletion of manifest %s", id)
		}
		out = append(out, others...)
	}
	return out, nil
}

// ListMarked lists the manifests by their inventories.
func (m *manifests) ListMarked(ctx context.Context) ([]driver.Marked, error) {
	found, err := list(ctx, client(m.session, configMaps, metav1.NamespaceAll), selectPart(partInventory))
	if err != nil {
		return nil, fault.Wrap(err, "list manifests")
	}
	seen := map[string]driver.Marked{}
	for _, o := range found {
		key := o.GetLabels()[labelKey]
		id := identity{o.GetNamespace(), o.GetName(), key}.String()
		seen[id] = driver.Marked{ID: id, Key: key, Name: o.GetAnnotations()[annotationName]}
	}
	return sortedMarks(seen), nil
}
