package kubernetes

import (
	"bytes"
	"fmt"
	"sort"
	"strconv"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/weftcloud/weft/services/sandbox/internal/world"
)

// The store.
//
// Every object is kept once, as the JSON that clients read, with an index of the few facts that lists, selectors
// and controllers ask for. An entry is never changed: a write puts a new entry in its place under the one lock, so a
// reader may keep entries after it let the lock go. Each write takes the next resourceVersion, goes to the journal
// before it can be seen, and is remembered in a ring of recent changes, from which watches are served; a watch that
// asks for something older than the ring is told 410 Gone. After a restart the ring is empty and starts at the last
// version the journal knows.

const (
	bucketObjects = "kubernetes.objects"
	bucketServer  = "kubernetes.server"
	historyLimit  = 8192 // changes kept for watches
)

// entry is one stored object at one resourceVersion.
type entry struct {
	res        *resource
	namespace  string
	name       string
	uid        types.UID
	rv         uint64
	labels     map[string]string
	owners     []metav1.OwnerReference
	controller types.UID // uid of the owner that is the controller
	deleting   bool
	created    time.Time
	fields     map[string]string
	pod        *podFacts
	address    string // of a node
	raw        []byte
}

// podFacts is what controllers ask of a pod, so that they need not decode thousands of them.
type podFacts struct {
	phase    corev1.PodPhase
	ready    bool
	readyAt  time.Time
	node     string
	ip       string
	hash     string // pod-template-hash or controller-revision-hash
	restarts int
	claims   []string // names of the persistent volume claims that it uses
}

func (e *entry) key() objectKey { return objectKey{e.res.storageKey(), e.namespace, e.name} }

// objectKey names one object in the store.
type objectKey struct{ resource, namespace, name string }

func (k objectKey) String() string { return k.resource + "/" + k.namespace + "/" + k.name }

// change is one entry of the watch history.
type change struct {
	rv       uint64
	removed  bool
	entry    *entry // as it is now; for a removal its last state with the version of the removal
	previous *entry // nil for a creation
}

type store struct {
	mu        sync.RWMutex
	rv        uint64
	oldest    uint64 // the history holds every change after this version
	history   []change
	objects   map[string]map[string]map[string]*entry // resource, namespace, name
	byUID     map[types.UID]*entry
	byOwner   map[types.UID]map[types.UID]*entry
	load      map[string]int // pods that are not finished, by node
	changed   chan struct{}  // closed and replaced on each write, wakes watches
	journal   *world.Journal
	committed func(change) // called under the lock after every write
}

func newStore(j *world.Journal) *store {
	return &store{
		rv: 1, oldest: 1, journal: j, changed: make(chan struct{}),
		objects: map[string]map[string]map[string]*entry{},
		byUID:   map[types.UID]*entry{},
		byOwner: map[types.UID]map[types.UID]*entry{},
		load:    map[string]int{},
	}
}

func (st *store) get(k objectKey) *entry {
	return st.objects[k.resource][k.namespace][k.name]
}

// list yields the entries of a resource ordered by namespace and name; an empty namespace means all.
func (st *store) list(resource, namespace string) []*entry {
	spaces := st.objects[resource]
	var out []*entry
	for ns, names := range spaces {
		if namespace != "" && ns != namespace {
			continue
		}
		for _, e := range names {
			out = append(out, e)
		}
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].namespace != out[j].namespace {
			return out[i].namespace < out[j].namespace
		}
		return out[i].name < out[j].name
	})
	return out
}

// owned yields the entries that name uid as an owner, in order of name.
func (st *store) owned(uid types.UID) []*entry {
	out := make([]*entry, 0, len(st.byOwner[uid]))
	for _, e := range st.byOwner[uid] {
		out = append(out, e)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].name < out[j].name })
	return out
}

// put stores obj under the next resourceVersion, which it also writes into obj.
func (st *store) put(r *resource, obj runtime.Object) (*entry, error) {
	acc, err := meta.Accessor(obj)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", r.plural, err)
	}
	next := st.rv + 1
	acc.SetResourceVersion(strconv.FormatUint(next, 10))
	e, err := newEntry(r, obj)
	if err != nil {
		return nil, err
	}
	if err := st.journal.Put(bucketObjects, e.key().String(), e.raw); err != nil {
		return nil, fmt.Errorf("store %s %q: %w", r.plural, acc.GetName(), err)
	}
	st.rv = next
	previous := st.get(e.key())
	st.index(e, previous)
	st.record(change{rv: next, entry: e, previous: previous})
	return e, nil
}

// remove takes an entry out and returns its last state, which bears the version of the removal.
func (st *store) remove(e *entry, obj runtime.Object) (*entry, error) {
	next := st.rv + 1
	acc, err := meta.Accessor(obj)
	if err != nil {
		return nil, fmt.Errorf("remove %s: %w", e.key(), err)
	}
	acc.SetResourceVersion(strconv.FormatUint(next, 10))
	last, err := newEntry(e.res, obj)
	if err != nil {
		return nil, err
	}
	if err := st.journal.Put(bucketServer, "resourceVersion", []byte(strconv.FormatUint(next, 10))); err != nil {
		return nil, fmt.Errorf("remove %s: %w", e.key(), err)
	}
	if err := st.journal.Delete(bucketObjects, e.key().String()); err != nil {
		return nil, fmt.Errorf("remove %s: %w", e.key(), err)
	}
	st.rv = next
	st.unindex(e)
	st.record(change{rv: next, removed: true, entry: last, previous: e})
	return last, nil
}

func (st *store) index(e, previous *entry) {
	if previous != nil {
		st.unindex(previous)
	}
	spaces := st.objects[e.res.storageKey()]
	if spaces == nil {
		spaces = map[string]map[string]*entry{}
		st.objects[e.res.storageKey()] = spaces
	}
	if spaces[e.namespace] == nil {
		spaces[e.namespace] = map[string]*entry{}
	}
	spaces[e.namespace][e.name] = e
	if e.pod != nil && !e.pod.finished() {
		st.load[e.pod.node]++
	}
	st.byUID[e.uid] = e
	for _, o := range e.owners {
		if st.byOwner[o.UID] == nil {
			st.byOwner[o.UID] = map[types.UID]*entry{}
		}
		st.byOwner[o.UID][e.uid] = e
	}
}

func (st *store) unindex(e *entry) {
	names := st.objects[e.res.storageKey()][e.namespace]
	delete(names, e.name)
	if len(names) == 0 {
		delete(st.objects[e.res.storageKey()], e.namespace)
	}
	delete(st.byUID, e.uid)
	if e.pod != nil && !e.pod.finished() {
		st.load[e.pod.node]--
	}
	for _, o := range e.owners {
		delete(st.byOwner[o.UID], e.uid)
		if len(st.byOwner[o.UID]) == 0 {
			delete(st.byOwner, o.UID)
		}
	}
}

func (st *store) record(c change) {
	st.history = append(st.history, c)
	if len(st.history) >= 2*historyLimit {
		kept := append([]change(nil), st.history[historyLimit:]...)
		st.oldest = st.history[historyLimit-1].rv
		st.history = kept
	}
	close(st.changed)
	st.changed = make(chan struct{})
	if st.committed != nil {
		st.committed(c)
	}
}

// since yields the changes after rv; ok is false when the history no longer reaches back that far.
func (st *store) since(rv uint64) (changes []change, ok bool) {
	if rv < st.oldest {
		return nil, false
	}
	i := sort.Search(len(st.history), func(i int) bool { return st.history[i].rv > rv })
	return st.history[i:len(st.history):len(st.history)], true
}

func newEntry(r *resource, obj runtime.Object) (*entry, error) {
	acc, err := meta.Accessor(obj)
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", r.plural, err)
	}
	obj.GetObjectKind().SetGroupVersionKind(r.gvk)
	raw, err := encodeObject(obj)
	if err != nil {
		return nil, fmt.Errorf("encode %s %q: %w", r.plural, acc.GetName(), err)
	}
	rv, err := strconv.ParseUint(acc.GetResourceVersion(), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("index %s %q: resourceVersion: %w", r.plural, acc.GetName(), err)
	}
	e := &entry{
		res: r, namespace: acc.GetNamespace(), name: acc.GetName(), uid: acc.GetUID(), rv: rv,
		labels: acc.GetLabels(), owners: acc.GetOwnerReferences(), deleting: acc.GetDeletionTimestamp() != nil,
		created: acc.GetCreationTimestamp().Time, raw: raw,
	}
	if c := metav1.GetControllerOfNoCopy(acc); c != nil {
		e.controller = c.UID
	}
	e.fields = selectableFields(r, obj)
	switch o := obj.(type) {
	case *corev1.Pod:
		e.pod = factsOf(o)
	case *corev1.Node:
		for _, a := range o.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				e.address = a.Address
			}
		}
	}
	return e, nil
}

func (f *podFacts) finished() bool {
	return f.phase == corev1.PodSucceeded || f.phase == corev1.PodFailed
}

func factsOf(pod *corev1.Pod) *podFacts {
	f := &podFacts{phase: pod.Status.Phase, node: pod.Spec.NodeName, ip: pod.Status.PodIP}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			f.ready, f.readyAt = true, c.LastTransitionTime.Time
		}
	}
	f.hash = pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
	if h := pod.Labels[appsv1.ControllerRevisionHashLabelKey]; h != "" {
		f.hash = h
	}
	for _, c := range pod.Status.ContainerStatuses {
		f.restarts += int(c.RestartCount)
	}
	for _, v := range pod.Spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			f.claims = append(f.claims, v.PersistentVolumeClaim.ClaimName)
		}
	}
	return f
}

// encodeObject yields the JSON of an object, its kind and apiVersion first.
func encodeObject(obj runtime.Object) ([]byte, error) {
	raw, err := utiljson.Marshal(obj)
	if err != nil {
		return nil, err
	}
	return bytes.TrimRight(raw, "\n"), nil
}

// decode makes a fresh object of the entry that the caller may change.
func (s *Server) decode(e *entry) (runtime.Object, error) {
	return s.decodeRaw(e.res, e.raw)
}

func (s *Server) decodeRaw(r *resource, raw []byte) (runtime.Object, error) {
	obj := s.newObject(r)
	if u, ok := obj.(*unstructured.Unstructured); ok {
		u.Object = map[string]any{}
		if err := utiljson.Unmarshal(raw, &u.Object); err != nil {
			return nil, fmt.Errorf("decode %s: %w", r.plural, err)
		}
		return u, nil
	}
	if err := utiljson.Unmarshal(raw, obj); err != nil {
		return nil, fmt.Errorf("decode %s: %w", r.plural, err)
	}
	obj.GetObjectKind().SetGroupVersionKind(r.gvk)
	return obj, nil
}

// selectableFields picks the values that field selectors of the resource may ask for.
func selectableFields(r *resource, obj runtime.Object) map[string]string {
	fields := map[string]string{}
	switch o := obj.(type) {
	case *corev1.Pod:
		fields["spec.nodeName"] = o.Spec.NodeName
		fields["spec.restartPolicy"] = string(o.Spec.RestartPolicy)
		fields["spec.schedulerName"] = o.Spec.SchedulerName
		fields["spec.serviceAccountName"] = o.Spec.ServiceAccountName
		fields["spec.hostNetwork"] = strconv.FormatBool(o.Spec.HostNetwork)
		fields["status.phase"] = string(o.Status.Phase)
		fields["status.podIP"] = o.Status.PodIP
		fields["status.nominatedNodeName"] = o.Status.NominatedNodeName
	case *corev1.Node:
		fields["spec.unschedulable"] = strconv.FormatBool(o.Spec.Unschedulable)
	case *corev1.Namespace:
		fields["status.phase"] = string(o.Status.Phase)
	case *corev1.Service:
		fields["spec.clusterIP"] = o.Spec.ClusterIP
		fields["spec.type"] = string(o.Spec.Type)
	case *corev1.Secret:
		fields["type"] = string(o.Type)
	case *corev1.Event:
		eventSelectors(o, fields)
	case *appsv1.ReplicaSet:
		fields["status.replicas"] = strconv.Itoa(int(o.Status.Replicas))
	case *unstructured.Unstructured:
		for _, path := range r.fields {
			if v, found, err := unstructured.NestedFieldNoCopy(o.Object, splitPath(path)...); err == nil && found {
				fields[path] = fmt.Sprint(v)
			}
		}
	}
	return fields
}

func eventSelectors(o *corev1.Event, fields map[string]string) {
	fields["involvedObject.kind"] = o.InvolvedObject.Kind
	fields["involvedObject.namespace"] = o.InvolvedObject.Namespace
	fields["involvedObject.name"] = o.InvolvedObject.Name
	fields["involvedObject.uid"] = string(o.InvolvedObject.UID)
	fields["involvedObject.apiVersion"] = o.InvolvedObject.APIVersion
	fields["involvedObject.resourceVersion"] = o.InvolvedObject.ResourceVersion
	fields["involvedObject.fieldPath"] = o.InvolvedObject.FieldPath
	fields["reason"] = o.Reason
	fields["reportingComponent"] = o.ReportingController
	fields["source"] = o.Source.Component
	fields["type"] = o.Type
}
