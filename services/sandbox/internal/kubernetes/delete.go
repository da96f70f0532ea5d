package kubernetes

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// deleteOptionsOf reads DeleteOptions from the body and the query, the body first, as a real server does.
func (s *Server) deleteOptionsOf(q *request) (*metav1.DeleteOptions, error) {
	raw, err := readBody(q)
	if err != nil {
		return nil, err
	}
	opts := &metav1.DeleteOptions{}
	if len(raw) > 0 {
		gvk := metav1.SchemeGroupVersion.WithKind("DeleteOptions")
		gvk.Group = ""
		if gvk, err = s.decodeDeleteOptions(q, raw, opts); err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("decode %s: %v", gvk.Kind, err))
		}
	}
	query := q.http.URL.Query()
	if policy := query.Get("propagationPolicy"); policy != "" {
		p := metav1.DeletionPropagation(policy)
		opts.PropagationPolicy = &p
	}
	if text := query.Get("gracePeriodSeconds"); text != "" {
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("gracePeriodSeconds %q is not a number", text))
		}
		opts.GracePeriodSeconds = &seconds
	}
	if values := query["dryRun"]; len(values) > 0 {
		opts.DryRun = values
	}
	return opts, checkDeleteOptions(opts)
}

func checkDeleteOptions(opts *metav1.DeleteOptions) error {
	for _, v := range opts.DryRun {
		if v != "All" {
			return invalidDelete(field.NotSupported(field.NewPath("dryRun"), opts.DryRun, []string{"All"}))
		}
	}
	if opts.PropagationPolicy != nil && opts.OrphanDependents != nil {
		return invalidDelete(field.Invalid(field.NewPath("propagationPolicy"), *opts.PropagationPolicy, "orphanDependents and deletionPropagation cannot be both set"))
	}
	if opts.PropagationPolicy == nil {
		return nil
	}
	switch *opts.PropagationPolicy {
	case metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan:
		return nil
	}
	return invalidDelete(field.NotSupported(field.NewPath("propagationPolicy"), *opts.PropagationPolicy, []string{"Foreground", "Background", "Orphan", "nil"}))
}

func invalidDelete(err *field.Error) error {
	return apierrors.NewInvalid(schema.GroupKind{Group: "meta.k8s.io", Kind: "DeleteOptions"}, "", field.ErrorList{err})
}

func (s *Server) serveDelete(q *request) error {
	opts, err := s.deleteOptionsOf(q)
	if err != nil {
		return err
	}
	s.store.mu.Lock()
	old, err := s.find(q)
	if err != nil {
		s.store.mu.Unlock()
		return err
	}
	left, gone, err := s.delete(old, opts)
	s.store.mu.Unlock()
	if err != nil {
		return err
	}
	if !gone || returnsDeleted(q.res) {
		return s.writeEntry(q, http.StatusOK, left)
	}
	writeJSON(q.w, http.StatusOK, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess,
		Details: &metav1.StatusDetails{Name: q.name, Group: q.res.gvk.Group, Kind: q.res.plural, UID: old.uid},
	})
	return nil
}

// returnsDeleted names the resources whose deletion answers with the object instead of a Status.
func returnsDeleted(r *resource) bool {
	switch r.storageKey() {
	case "pods", "services", "serviceaccounts", "persistentvolumeclaims", "persistentvolumes", "resourcequotas", "podtemplates":
		return true
	}
	return false
}

func (s *Server) serveDeleteCollection(q *request) error {
	opts, err := s.deleteOptionsOf(q)
	if err != nil {
		return err
	}
	l, err := s.listingOf(q)
	if err != nil {
		return err
	}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	var deleted []*entry
	for _, e := range s.store.list(q.res.storageKey(), q.namespace) {
		if !l.matches(e) {
			continue
		}
		left, _, err := s.delete(e, opts)
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		shown, err := s.as(left, q.res)
		if err != nil {
			return err
		}
		deleted = append(deleted, shown)
	}
	return s.writeList(q, deleted, metav1.ListMeta{ResourceVersion: strconv.FormatUint(s.store.rv, 10)})
}

// delete begins or finishes the deletion of an object: it goes at once when nothing holds it, else it stays with a
// deletionTimestamp until its finalizers are empty and its grace period is over. The caller holds the lock.
func (s *Server) delete(e *entry, opts *metav1.DeleteOptions) (left *entry, gone bool, err error) {
	if err := checkPreconditions(e, opts.Preconditions); err != nil {
		return nil, false, err
	}
	obj, err := s.decode(e)
	if err != nil {
		return nil, false, err
	}
	acc, err := meta.Accessor(obj)
	if err != nil {
		return nil, false, err
	}
	if err := s.refuseDeletion(e); err != nil {
		return nil, false, err
	}
	before := obj.DeepCopyObject()
	acc.SetFinalizers(deletionFinalizers(e.res, acc, opts))
	grace := gracePeriod(obj, opts)
	s.beginDeletion(obj, acc, grace)
	dry := len(opts.DryRun) > 0
	if deletable(obj) {
		if dry {
			left, err := s.unstored(e.res, obj)
			return left, true, err
		}
		last, err := s.store.remove(e, obj)
		return last, true, err
	}
	left, err = s.commit(e.res, e, before, obj, options{dryRun: dry})
	return left, false, err
}

func checkPreconditions(e *entry, p *metav1.Preconditions) error {
	if p == nil {
		return nil
	}
	byKind := schema.GroupResource{Group: e.res.gvk.Group, Resource: e.res.gvk.Kind} // the kind, as a real server has it here
	if p.UID != nil && *p.UID != e.uid {
		return apierrors.NewConflict(byKind, e.name, fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, e.uid))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != strconv.FormatUint(e.rv, 10) {
		return apierrors.NewConflict(byKind, e.name, fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%d). The object might have been modified", *p.ResourceVersion, e.rv))
	}
	return nil
}

// refuseDeletion keeps the namespaces that a cluster cannot be without.
func (s *Server) refuseDeletion(e *entry) error {
	if e.res.storageKey() != "namespaces" {
		return nil
	}
	switch e.name {
	case "default", "kube-system", "kube-public":
		return apierrors.NewForbidden(e.res.groupResource(), e.name, errors.New("this namespace may not be deleted"))
	}
	return nil
}

// deletionFinalizers yields the finalizers of an object that is being deleted, by propagation policy.
func deletionFinalizers(r *resource, acc metav1.Object, opts *metav1.DeleteOptions) []string {
	finalizers := slices.Clone(acc.GetFinalizers())
	policy := metav1.DeletePropagationBackground
	asked := true
	switch {
	case opts.PropagationPolicy != nil:
		policy = *opts.PropagationPolicy
	case opts.OrphanDependents != nil && *opts.OrphanDependents:
		policy = metav1.DeletePropagationOrphan
	case opts.OrphanDependents != nil:
	default:
		asked = false
		if r.storageKey() == "jobs.batch" || r.storageKey() == "replicationcontrollers" {
			policy = metav1.DeletePropagationOrphan // the default of old, kept for these two
		}
		if slices.Contains(finalizers, metav1.FinalizerOrphanDependents) || slices.Contains(finalizers, metav1.FinalizerDeleteDependents) {
			return finalizers
		}
	}
	if asked {
		finalizers = slices.DeleteFunc(finalizers, func(f string) bool {
			return f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents
		})
	}
	switch policy {
	case metav1.DeletePropagationOrphan:
		finalizers = append(finalizers, metav1.FinalizerOrphanDependents)
	case metav1.DeletePropagationForeground:
		finalizers = append(finalizers, metav1.FinalizerDeleteDependents)
	}
	return finalizers
}

// gracePeriod is how long a pod may take to stop; other kinds have none.
func gracePeriod(obj runtime.Object, opts *metav1.DeleteOptions) int64 {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return 0
	}
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return 0
	}
	grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		grace = *pod.Spec.TerminationGracePeriodSeconds
	}
	if opts.GracePeriodSeconds != nil {
		grace = *opts.GracePeriodSeconds
	}
	if pod.DeletionGracePeriodSeconds != nil {
		grace = min(grace, *pod.DeletionGracePeriodSeconds) // a second deletion may only shorten it
	}
	return max(grace, 0)
}

func (s *Server) beginDeletion(obj runtime.Object, acc metav1.Object, grace int64) {
	if ns, ok := obj.(*corev1.Namespace); ok {
		ns.Status.Phase = corev1.NamespaceTerminating
	}
	if acc.GetDeletionTimestamp() != nil {
		if current := acc.GetDeletionGracePeriodSeconds(); current == nil || grace < *current {
			acc.SetDeletionGracePeriodSeconds(&grace)
		}
		return
	}
	at := metav1.NewTime(s.config.Now().UTC().Truncate(time.Second).Add(time.Duration(grace) * time.Second))
	acc.SetDeletionTimestamp(&at)
	acc.SetDeletionGracePeriodSeconds(&grace)
	if acc.GetGeneration() > 0 {
		acc.SetGeneration(acc.GetGeneration() + 1)
	}
}

// deletable says that an object which is being deleted has nothing left that holds it.
func deletable(obj runtime.Object) bool {
	acc, err := meta.Accessor(obj)
	if err != nil || acc.GetDeletionTimestamp() == nil || len(acc.GetFinalizers()) > 0 {
		return false
	}
	if ns, ok := obj.(*corev1.Namespace); ok {
		return len(ns.Spec.Finalizers) == 0
	}
	grace := acc.GetDeletionGracePeriodSeconds()
	return grace == nil || *grace == 0
}

// uidOf is a precondition on the object that was seen.
func uidOf(uid types.UID) *metav1.Preconditions { return &metav1.Preconditions{UID: &uid} }
