package kubernetes

import (
	"container/heap"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// Controllers.
//
// Every write marks the objects that a controller must look at again: the object itself, its owners, and the services
// that select a pod. Step takes the marks one by one; a controller reads the stored objects and the time, writes what
// is to be written, and may ask to be called again at a later time. Nothing else is remembered: after a restart every
// object is marked, and waits are computed again from the timestamps in the objects.
//
// What a controller waits for begins with the object's own timestamp, which has seconds. The finer time at which this
// process saw the object first is kept beside, so that a delay of a second is a second.

// work is what is to be looked at: now, and later.
type work struct {
	mu     sync.Mutex
	marked map[objectKey]bool
	pods   []objectKey // to be looked at first, so that their owners see many changes at once
	order  []objectKey
	timers timers
	seen   map[types.UID]time.Time // when a pod, job or claim was first looked at
	wake   chan struct{}
}

func newWork() *work {
	return &work{marked: map[objectKey]bool{}, seen: map[types.UID]time.Time{}, wake: make(chan struct{}, 1)}
}

func (w *work) clear() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.marked, w.pods, w.order, w.timers, w.seen = map[objectKey]bool{}, nil, nil, nil, map[types.UID]time.Time{}
}

// mark asks for an object to be looked at now.
func (w *work) mark(k objectKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.enqueue(k)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// at asks for an object to be looked at later.
func (w *work) at(when time.Time, k objectKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	heap.Push(&w.timers, timer{when, k})
}

func (w *work) enqueue(k objectKey) {
	if w.marked[k] {
		return
	}
	w.marked[k] = true
	if k.resource == "pods" {
		w.pods = append(w.pods, k)
		return
	}
	w.order = append(w.order, k)
}

// take yields the next object to look at.
func (w *work) take() (objectKey, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	from := &w.pods
	if len(*from) == 0 {
		from = &w.order
	}
	if len(*from) == 0 {
		return objectKey{}, false
	}
	k := (*from)[0]
	*from = (*from)[1:]
	delete(w.marked, k)
	return k, true
}

// due marks what the time has come for, and yields how long until the next.
func (w *work) due(now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.timers) > 0 && !w.timers[0].when.After(now) {
		t := heap.Pop(&w.timers).(timer)
		w.enqueue(t.key)
	}
	if len(w.timers) == 0 {
		return time.Minute
	}
	return w.timers[0].when.Sub(now)
}

// since yields when an object was first seen, at the latest now.
func (w *work) since(uid types.UID, created, now time.Time) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if first, ok := w.seen[uid]; ok {
		return first
	}
	first := now
	if now.Sub(created) > time.Second {
		first = created // from before this process
	}
	w.seen[uid] = first
	return first
}

func (w *work) forget(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.seen, uid)
}

type timer struct {
	when time.Time
	key  objectKey
}

type timers []timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].when.Before(t[j].when) }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }

// Push is for container/heap.
func (t *timers) Push(x any) { *t = append(*t, x.(timer)) }

// Pop is for container/heap.
func (t *timers) Pop() any {
	old := *t
	last := old[len(old)-1]
	*t = old[:len(old)-1]
	return last
}

// Step lets the controllers do all that is to be done by now, and yields how long until there is more to do unless
// something is written before.
func (s *Server) Step() (time.Duration, error) {
	for {
		wait := s.work.due(s.config.Now())
		k, ok := s.work.take()
		if !ok {
			return wait, nil
		}
		if err := s.reconcile(k); err != nil {
			return 0, fmt.Errorf("reconcile %s: %w", k, err)
		}
	}
}

func (s *Server) reconcile(k objectKey) error {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	e := s.store.get(k)
	if e == nil {
		return nil
	}
	if done, err := s.collect(e); done || err != nil {
		return tolerate(err)
	}
	obj, err := s.decode(e)
	if err != nil {
		return err
	}
	return tolerate(s.control(e, obj))
}

// tolerate passes over what the API refused: the object is looked at again when something changes. Only a journal that
// cannot be written ends the controllers.
func tolerate(err error) error {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return nil
	}
	return err
}

// observe is called after every write, under the store's lock: it marks what the change concerns.
func (s *Server) observe(c change) {
	e := c.entry
	if !c.removed {
		s.work.mark(e.key())
	}
	s.observeAddresses(c)
	s.observeDefinition(c)
	for _, side := range []*entry{c.entry, c.previous} {
		if side == nil {
			continue
		}
		for _, o := range side.owners {
			if owner := s.store.byUID[o.UID]; owner != nil {
				s.work.mark(owner.key())
			}
		}
	}
	if e.pod != nil && podMatters(c) {
		s.markPodRelatives(c)
	}
	if !c.removed {
		return
	}
	s.work.forget(e.uid)
	if e.res.storageKey() == "persistentvolumeclaims" {
		s.work.mark(objectKey{"persistentvolumes", "", volumeName(e.uid)})
	}
	for _, dependent := range s.store.owned(e.uid) {
		s.work.mark(dependent.key())
	}
	if e.namespace != "" {
		if ns := s.store.get(objectKey{"namespaces", "", e.namespace}); ns != nil && ns.deleting {
			s.work.mark(ns.key())
		}
	}
	if e.res.custom != nil {
		s.work.mark(objectKey{"customresourcedefinitions.apiextensions.k8s.io", "", e.res.custom.crd})
	}
}

// podMatters says that a change of a pod is one that services and budgets look at.
func podMatters(c change) bool {
	if c.previous == nil || c.removed {
		return true
	}
	a, b := c.previous, c.entry
	return a.pod.ready != b.pod.ready || a.pod.ip != b.pod.ip || a.deleting != b.deleting || !labels.Equals(a.labels, b.labels)
}

// markPodRelatives marks the services, budgets and claims of a pod's namespace that have to do with it.
func (s *Server) markPodRelatives(c change) {
	for _, kind := range []string{"services", "poddisruptionbudgets.policy", "resourcequotas"} {
		for name := range s.store.objects[kind][c.entry.namespace] {
			s.work.mark(objectKey{kind, c.entry.namespace, name})
		}
	}
	for _, claim := range c.entry.pod.claims {
		s.work.mark(objectKey{"persistentvolumeclaims", c.entry.namespace, claim})
	}
}

func (s *Server) observeAddresses(c change) {
	if c.entry.res.storageKey() != "services" {
		return
	}
	var before, after *corev1.Service
	if c.previous != nil {
		if obj, err := s.decode(c.previous); err == nil {
			before = obj.(*corev1.Service)
		}
	}
	if !c.removed {
		if obj, err := s.decode(c.entry); err == nil {
			after = obj.(*corev1.Service)
		}
	}
	s.addresses.book(before, after)
}

// collect is the garbage collector's view of one object. It is done when the object is gone or is not to be looked at
// by its controller any more.
func (s *Server) collect(e *entry) (done bool, err error) {
	if !e.deleting && len(e.owners) > 0 {
		if done, err := s.collectOrphan(e); done || err != nil {
			return done, err
		}
	}
	if !e.deleting {
		return false, nil
	}
	obj, err := s.decode(e)
	if err != nil {
		return false, err
	}
	acc, err := meta.Accessor(obj)
	if err != nil {
		return false, err
	}
	switch {
	case slices.Contains(acc.GetFinalizers(), metav1.FinalizerOrphanDependents):
		return true, s.orphanDependents(e, obj, acc)
	case slices.Contains(acc.GetFinalizers(), metav1.FinalizerDeleteDependents):
		return true, s.deleteDependents(e, obj, acc)
	}
	return false, nil
}

// collectOrphan deletes an object none of whose owners exists, and drops those owners that do not.
func (s *Server) collectOrphan(e *entry) (bool, error) {
	var kept []metav1.OwnerReference
	for _, o := range e.owners {
		owner := s.store.byUID[o.UID]
		if owner == nil || owner.namespace != "" && owner.namespace != e.namespace {
			continue
		}
		kept = append(kept, o)
	}
	if len(kept) == len(e.owners) {
		return false, nil
	}
	if len(kept) == 0 {
		background := metav1.DeletePropagationBackground
		_, _, err := s.delete(e, &metav1.DeleteOptions{PropagationPolicy: &background})
		return true, err
	}
	_, err := s.edit(e, func(obj runtime.Object, acc metav1.Object) { acc.SetOwnerReferences(kept) })
	return true, err
}

func (s *Server) orphanDependents(e *entry, _ runtime.Object, _ metav1.Object) error {
	for _, dependent := range s.store.owned(e.uid) {
		_, err := s.edit(dependent, func(_ runtime.Object, acc metav1.Object) {
			acc.SetOwnerReferences(slices.DeleteFunc(acc.GetOwnerReferences(), func(o metav1.OwnerReference) bool { return o.UID == e.uid }))
		})
		if err != nil {
			return err
		}
	}
	return s.dropFinalizer(e, metav1.FinalizerOrphanDependents)
}

func (s *Server) deleteDependents(e *entry, _ runtime.Object, _ metav1.Object) error {
	foreground := metav1.DeletePropagationForeground
	blocked := false
	for _, dependent := range s.store.owned(e.uid) {
		for _, o := range dependent.owners {
			blocked = blocked || o.UID == e.uid && o.BlockOwnerDeletion != nil && *o.BlockOwnerDeletion
		}
		if dependent.deleting {
			continue
		}
		opts := &metav1.DeleteOptions{}
		if len(s.store.byOwner[dependent.uid]) > 0 {
			opts.PropagationPolicy = &foreground
		}
		if _, _, err := s.delete(dependent, opts); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	if blocked && len(s.store.byOwner[e.uid]) > 0 {
		return nil // looked at again when a dependent goes
	}
	return s.dropFinalizer(e, metav1.FinalizerDeleteDependents)
}

func (s *Server) dropFinalizer(e *entry, finalizer string) error {
	current := s.store.get(e.key())
	if current == nil || current.uid != e.uid {
		return nil
	}
	_, err := s.edit(current, func(_ runtime.Object, acc metav1.Object) {
		acc.SetFinalizers(dropFinalizer(acc.GetFinalizers(), finalizer))
	})
	return err
}

// edit changes an object as a controller does: without a request, and without managing fields.
func (s *Server) edit(e *entry, change func(runtime.Object, metav1.Object)) (*entry, error) {
	obj, err := s.decode(e)
	if err != nil {
		return nil, err
	}
	live := obj.DeepCopyObject()
	acc, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	change(obj, acc)
	return s.commit(e.res, e, live, obj, options{})
}

// write stores obj, a changed copy of what e holds, unless nothing differs.
func (s *Server) write(e *entry, obj runtime.Object) (*entry, error) {
	live, err := s.decode(e)
	if err != nil {
		return nil, err
	}
	return s.commit(e.res, e, live, obj, options{})
}

// make creates an object as a controller does.
func (s *Server) make(storage, namespace string, obj runtime.Object) (*entry, error) {
	r := s.storageResource(storage)
	if r == nil {
		return nil, fmt.Errorf("create %s: no such resource", storage)
	}
	return s.create(r, namespace, obj, options{})
}

// remove deletes an object as a controller does, with its dependents in the background.
func (s *Server) removeEntry(e *entry) error {
	background := metav1.DeletePropagationBackground
	_, _, err := s.delete(e, &metav1.DeleteOptions{PropagationPolicy: &background, Preconditions: uidOf(e.uid)})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// later asks for an object to be looked at again.
func (s *Server) later(e *entry, when time.Time) { s.work.at(when, e.key()) }

func (s *Server) now() metav1.Time { return metav1.NewTime(s.config.Now().UTC().Truncate(time.Second)) }

// event notes something that happened to an object, as kubectl describe shows it. A repeated event counts up.
func (s *Server) event(e *entry, kind, reason, message, component string) error {
	if ns := s.store.get(objectKey{"namespaces", "", e.namespace}); ns == nil || ns.deleting {
		return nil
	}
	name := fmt.Sprintf("%s.%s", e.name, eventHash(e, reason, message))
	now := s.now()
	if known := s.store.get(objectKey{"events", e.namespace, name}); known != nil {
		_, err := s.edit(known, func(obj runtime.Object, _ metav1.Object) {
			event := obj.(*corev1.Event)
			event.Count++
			event.LastTimestamp = now
		})
		return err
	}
	event := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: e.namespace},
		InvolvedObject: corev1.ObjectReference{
			Kind: e.res.gvk.Kind, APIVersion: e.res.gvk.GroupVersion().String(), Namespace: e.namespace,
			Name: e.name, UID: e.uid, ResourceVersion: fmt.Sprint(e.rv),
		},
		Reason: reason, Message: message, Type: kind, Count: 1, FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: component}, ReportingController: component,
	}
	_, err := s.make("events", e.namespace, event)
	return err
}

// control calls the controller of a kind.
func (s *Server) control(e *entry, obj runtime.Object) error {
	if strings.HasPrefix(e.res.storageKey(), "events") {
		return s.expireEvent(e)
	}
	return s.controlKind(e, obj)
}

// eventLife is how long events stay: the default of kube-apiserver.
const eventLife = time.Hour

func (s *Server) expireEvent(e *entry) error {
	ends := e.created.Add(eventLife)
	if s.config.Now().Before(ends) {
		s.later(e, ends)
		return nil
	}
	return s.removeEntry(e)
}
