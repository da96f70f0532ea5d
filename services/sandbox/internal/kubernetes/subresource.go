package kubernetes

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
)

// serveSubresource serves what is neither status nor scale.
func (s *Server) serveSubresource(q *request) error {
	switch q.res.storageKey() + "/" + q.subresource + " " + q.verb {
	case "pods/log get":
		return s.serveLog(q)
	case "pods/eviction create":
		return s.serveEviction(q)
	case "pods/binding create":
		return s.serveBinding(q)
	case "serviceaccounts/token create":
		return s.serveToken(q)
	case "namespaces/finalize update":
		return s.serveUpdate(q)
	case "pods/exec create", "pods/exec get", "pods/attach create", "pods/attach get", "pods/portforward create", "pods/portforward get":
		return apierrors.NewGenericServerResponse(http.StatusNotImplemented, q.verb, q.res.groupResource(), q.name,
			"the simulated cluster runs no containers: "+q.subresource+" is not available", 0, false)
	}
	return errNoPath()
}

// serveLog answers with a line that says what would run; a simulated container prints nothing.
func (s *Server) serveLog(q *request) error {
	s.store.mu.RLock()
	e, err := s.find(q)
	s.store.mu.RUnlock()
	if err != nil {
		return err
	}
	obj, err := s.decode(e)
	if err != nil {
		return err
	}
	pod := obj.(*corev1.Pod)
	wanted := q.http.URL.Query().Get("container")
	if wanted == "" && len(pod.Spec.Containers) > 1 {
		var names []string
		for _, c := range pod.Spec.Containers {
			names = append(names, c.Name)
		}
		return apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %v", pod.Name, names))
	}
	for i, c := range pod.Spec.Containers {
		if wanted != "" && c.Name != wanted {
			continue
		}
		if i >= len(pod.Status.ContainerStatuses) || pod.Status.ContainerStatuses[i].State.Waiting != nil {
			return apierrors.NewBadRequest(fmt.Sprintf("container %q in pod %q is waiting to start: ContainerCreating", c.Name, pod.Name))
		}
		q.w.Header().Set("Content-Type", "text/plain")
		q.w.WriteHeader(http.StatusOK)
		write(q.w, fmt.Appendf(nil, "sandbox: %s is simulated and prints nothing (image %s)\n", c.Name, c.Image))
		return nil
	}
	return apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", wanted, pod.Name))
}

// serveEviction deletes a pod unless a disruption budget forbids it.
func (s *Server) serveEviction(q *request) error {
	o, err := s.optionsOf(q)
	if err != nil {
		return err
	}
	raw, err := readBody(q)
	if err != nil {
		return err
	}
	obj, err := s.decodeBody(q, raw, policyv1.SchemeGroupVersion.WithKind("Eviction"), &policyv1.Eviction{}, o)
	if err != nil {
		return err
	}
	opts := obj.(*policyv1.Eviction).DeleteOptions
	if opts == nil {
		opts = &metav1.DeleteOptions{}
	}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	e, err := s.find(q)
	if err != nil {
		return err
	}
	for _, candidate := range s.store.list("poddisruptionbudgets.policy", e.namespace) {
		decoded, err := s.decode(candidate)
		if err != nil {
			return err
		}
		budget := decoded.(*policyv1.PodDisruptionBudget)
		selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
		if err != nil || !selector.Matches(labels.Set(e.labels)) || !e.pod.ready || budget.Status.DisruptionsAllowed > 0 {
			continue
		}
		refusal := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 10)
		refusal.ErrStatus.Details.Causes = append(refusal.ErrStatus.Details.Causes, metav1.StatusCause{
			Type:    policyv1.DisruptionBudgetCause,
			Message: fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", budget.Name, budget.Status.DesiredHealthy, budget.Status.CurrentHealthy),
		})
		return refusal
	}
	if o.dryRun {
		opts.DryRun = []string{metav1.DryRunAll}
	}
	if _, _, err := s.delete(e, opts); err != nil {
		return err
	}
	writeJSON(q.w, http.StatusCreated, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess, Code: http.StatusCreated})
	return nil
}

func (s *Server) serveBinding(q *request) error {
	raw, err := readBody(q)
	if err != nil {
		return err
	}
	obj, err := s.decodeBody(q, raw, corev1.SchemeGroupVersion.WithKind("Binding"), &corev1.Binding{}, options{validation: "Warn"})
	if err != nil {
		return err
	}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	e, err := s.find(q)
	if err != nil {
		return err
	}
	if e.pod.node != "" {
		return apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, e.name, fmt.Errorf("pod %s is already assigned to node %q", e.name, e.pod.node))
	}
	_, err = s.edit(e, func(pod runtime.Object, _ metav1.Object) {
		pod.(*corev1.Pod).Spec.NodeName = obj.(*corev1.Binding).Target.Name
	})
	if err != nil {
		return err
	}
	writeJSON(q.w, http.StatusCreated, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess, Code: http.StatusCreated})
	return nil
}

func (s *Server) serveToken(q *request) error {
	raw, err := readBody(q)
	if err != nil {
		return err
	}
	obj, err := s.decodeBody(q, raw, authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"), &authenticationv1.TokenRequest{}, options{validation: "Warn"})
	if err != nil {
		return err
	}
	ask := obj.(*authenticationv1.TokenRequest)
	life := time.Hour
	if ask.Spec.ExpirationSeconds != nil {
		life = time.Duration(*ask.Spec.ExpirationSeconds) * time.Second
	}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	e, err := s.find(q)
	if err != nil {
		return err
	}
	expires := s.config.Now().Add(life)
	token, err := s.keys.issue(account{Namespace: e.namespace, Name: e.name, UID: string(e.uid), Expires: expires})
	if err != nil {
		return err
	}
	ask.Name, ask.Namespace = e.name, e.namespace
	ask.CreationTimestamp = s.now()
	ask.Status = authenticationv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(expires.UTC())}
	return s.writeObject(q, http.StatusCreated, ask)
}

// Scale.

// replicasOf reaches the replica count, observed replicas and selector of a scalable object.
func (s *Server) scaleOf(e *entry) (*autoscalingv1.Scale, error) {
	obj, err := s.decode(e)
	if err != nil {
		return nil, err
	}
	scale := &autoscalingv1.Scale{TypeMeta: metav1.TypeMeta{Kind: "Scale", APIVersion: "autoscaling/v1"}}
	scale.Name, scale.Namespace, scale.UID, scale.ResourceVersion = e.name, e.namespace, e.uid, fmt.Sprint(e.rv)
	scale.CreationTimestamp = metav1.NewTime(e.created)
	var selector *metav1.LabelSelector
	switch o := obj.(type) {
	case *appsv1.Deployment:
		scale.Spec.Replicas, scale.Status.Replicas, selector = *o.Spec.Replicas, o.Status.Replicas, o.Spec.Selector
	case *appsv1.ReplicaSet:
		scale.Spec.Replicas, scale.Status.Replicas, selector = *o.Spec.Replicas, o.Status.Replicas, o.Spec.Selector
	case *appsv1.StatefulSet:
		scale.Spec.Replicas, scale.Status.Replicas, selector = *o.Spec.Replicas, o.Status.Replicas, o.Spec.Selector
	case *corev1.ReplicationController:
		if o.Spec.Replicas != nil {
			scale.Spec.Replicas = *o.Spec.Replicas
		}
		scale.Status.Replicas, selector = o.Status.Replicas, &metav1.LabelSelector{MatchLabels: o.Spec.Selector}
	case *unstructured.Unstructured:
		return scale, customScale(e.res, o, scale)
	}
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return nil, err
	}
	scale.Status.Selector = parsed.String()
	return scale, nil
}

func customScale(r *resource, o *unstructured.Unstructured, scale *autoscalingv1.Scale) error {
	paths := r.custom.version.Subresources.Scale
	spec, _, err := unstructured.NestedInt64(o.Object, splitPath(paths.SpecReplicasPath)...)
	if err != nil {
		return err
	}
	status, _, err := unstructured.NestedInt64(o.Object, splitPath(paths.StatusReplicasPath)...)
	if err != nil {
		return err
	}
	scale.Spec.Replicas, scale.Status.Replicas = int32(spec), int32(status)
	if paths.LabelSelectorPath == nil {
		return nil
	}
	scale.Status.Selector, _, err = unstructured.NestedString(o.Object, splitPath(*paths.LabelSelectorPath)...)
	return err
}

func setReplicas(r *resource, obj runtime.Object, n int32) error {
	switch o := obj.(type) {
	case *appsv1.Deployment:
		o.Spec.Replicas = &n
	case *appsv1.ReplicaSet:
		o.Spec.Replicas = &n
	case *appsv1.StatefulSet:
		o.Spec.Replicas = &n
	case *corev1.ReplicationController:
		o.Spec.Replicas = &n
	case *unstructured.Unstructured:
		return unstructured.SetNestedField(o.Object, int64(n), splitPath(r.custom.version.Subresources.Scale.SpecReplicasPath)...)
	}
	return nil
}

func (s *Server) updateScale(q *request, raw []byte, o options) error {
	obj, err := s.decodeScale(q, raw)
	if err != nil {
		return err
	}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	e, err := s.find(q)
	if err != nil {
		return err
	}
	return s.rescale(q, e, obj, o)
}

// decodeScale reads a Scale whatever the type of the resource that is scaled.
func (s *Server) decodeScale(q *request, raw []byte) (*autoscalingv1.Scale, error) {
	gvk := autoscalingv1.SchemeGroupVersion.WithKind("Scale")
	media, err := mediaType(q)
	if err != nil {
		return nil, err
	}
	scale := &autoscalingv1.Scale{}
	if media == "application/vnd.kubernetes.protobuf" {
		if _, _, err := protobuf.NewSerializer(s.scheme, s.scheme).Decode(raw, &gvk, scale); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return scale, nil
	}
	_, _, err = kjson.NewSerializerWithOptions(kjson.DefaultMetaFactory, s.scheme, s.scheme, kjson.SerializerOptions{}).Decode(raw, &gvk, scale)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return scale, nil
}

func (s *Server) patchScale(q *request, kind types.PatchType, patch []byte, o options) error {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	e, err := s.find(q)
	if err != nil {
		return err
	}
	current, err := s.scaleOf(e)
	if err != nil {
		return err
	}
	raw, err := encodeObject(current)
	if err != nil {
		return err
	}
	if kind == types.ApplyYAMLPatchType {
		return unsupportedMedia(string(kind), "application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json")
	}
	patched, err := applyPatch(kind, raw, patch, &autoscalingv1.Scale{})
	if err != nil {
		return err
	}
	scale := &autoscalingv1.Scale{}
	gvk := autoscalingv1.SchemeGroupVersion.WithKind("Scale")
	_, _, err = kjson.NewSerializerWithOptions(kjson.DefaultMetaFactory, s.scheme, s.scheme, kjson.SerializerOptions{}).Decode(patched, &gvk, scale)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	return s.rescale(q, e, scale, o)
}

func (s *Server) rescale(q *request, e *entry, scale *autoscalingv1.Scale, o options) error {
	if scale.ResourceVersion != "" && scale.ResourceVersion != fmt.Sprint(e.rv) {
		return conflict(q.res, q.name)
	}
	if scale.Spec.Replicas < 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: "autoscaling", Kind: "Scale"}, q.name, invalidReplicas(scale.Spec.Replicas))
	}
	obj, err := s.decode(e)
	if err != nil {
		return err
	}
	if err := setReplicas(q.res, obj, scale.Spec.Replicas); err != nil {
		return err
	}
	acc, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	acc.SetResourceVersion(fmt.Sprint(e.rv))
	next, err := s.update(q.res, e, obj, "", o, func(live, next runtime.Object) (runtime.Object, error) {
		return s.trackUpdate(q.res, "", live, next, o.manager)
	})
	if err != nil {
		return err
	}
	answer, err := s.scaleOf(next)
	if err != nil {
		return err
	}
	return s.writeObject(q, http.StatusOK, answer)
}

// decodeDeleteOptions accepts DeleteOptions under any served version, as clients send them.
func (s *Server) decodeDeleteOptions(q *request, raw []byte, into *metav1.DeleteOptions) (schema.GroupVersionKind, error) {
	gvk := schema.GroupVersionKind{Version: "v1", Kind: "DeleteOptions"}
	media, err := mediaType(q)
	if err != nil {
		return gvk, err
	}
	if media == "application/vnd.kubernetes.protobuf" {
		_, _, err := protobuf.NewSerializer(s.scheme, s.scheme).Decode(raw, &gvk, into)
		return gvk, err
	}
	if !strings.HasSuffix(media, "json") && media != "application/yaml" {
		return gvk, errors.New("content type " + media + " is not supported")
	}
	_, _, err = kjson.NewSerializerWithOptions(kjson.DefaultMetaFactory, s.scheme, s.scheme, kjson.SerializerOptions{Yaml: media == "application/yaml"}).Decode(raw, &gvk, into)
	return gvk, err
}
