package kubernetes

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	cloud "github.com/weftcloud/weft/pkg/cloud/kubernetes"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// overdue is how long after its grace period a pod may still stand before it is said to block: its node does not answer.
const overdue = 30 * time.Second

// finalizerPatience is how long whoever set a finalizer has to do its work before the object is said to be blocked.
const finalizerPatience = 15 * time.Second

// ownFinalizers are those that Kubernetes' own controllers serve; they pass by themselves.
var ownFinalizers = []string{
	metav1.FinalizerDeleteDependents, metav1.FinalizerOrphanDependents, "kubernetes", "batch.kubernetes.io/job-tracking",
	"customresourcecleanup.apiextensions.k8s.io",
}

// blockersAmong lists what holds those of the objects that were asked to go: finalizers that nobody has served for a while,
// and nodes that do not answer for their pods.
func blockersAmong(objects []*unstructured.Unstructured, now time.Time) []*kindv1.Blocker {
	out := []*kindv1.Blocker{}
	for _, o := range objects {
		if o.GetDeletionTimestamp() == nil {
			continue
		}
		waited := now.Sub(o.GetDeletionTimestamp().Time)
		for _, f := range o.GetFinalizers() {
			if !slices.Contains(ownFinalizers, f) && waited > finalizerPatience {
				out = append(out, finalizerBlocker(o, f))
			}
		}
		if node := textAt(o.Object, "spec", "nodeName"); o.GetKind() == "Pod" && waited > overdue && len(o.GetFinalizers()) == 0 {
			out = append(out, &kindv1.Blocker{
				Kind: "Pod", Id: idText(o), Owner: "node " + node,
				Action: "bring the node back, or delete the node from the cluster if it is gone for good",
			})
		}
	}
	return out
}

func idText(o *unstructured.Unstructured) string {
	return strings.TrimPrefix(o.GetNamespace()+"/"+o.GetName(), "/")
}

// finalizerBlocker tells a finalizer that is not taken off. Kubernetes does not know which controller serves it, but often
// who set it.
func finalizerBlocker(o *unstructured.Unstructured, finalizer string) *kindv1.Blocker {
	owner := "an unknown controller"
	if setter := setterOf(o, finalizer); setter != "" {
		owner += " (set by " + setter + ")"
	}
	return &kindv1.Blocker{
		Kind: "finalizer", Id: finalizer, Owner: owner + ", on " + o.GetKind() + " " + idText(o),
		Action: "make the controller that serves the finalizer work again; only if it is gone for good, and what it would tidy up is tidied up, take the finalizer off " + o.GetKind() + " " + idText(o),
	}
}

// setterOf gives who set a finalizer, by the record of who manages which field; empty if nobody is recorded.
func setterOf(o *unstructured.Unstructured, finalizer string) string {
	for _, m := range o.GetManagedFields() {
		if m.FieldsV1 == nil {
			continue
		}
		fields := map[string]any{}
		if err := json.Unmarshal(m.FieldsV1.GetRawBytes(), &fields); err != nil {
			continue // a record that cannot be read tells of nobody
		}
		set, found, err := unstructured.NestedMap(fields, "f:metadata", "f:finalizers")
		if _, his := set[`v:"`+finalizer+`"`]; err == nil && found && his {
			return m.Manager
		}
	}
	return ""
}

// everyNamespaceHas tells the objects that Kubernetes itself puts into each namespace.
func everyNamespaceHas(o *unstructured.Unstructured) bool {
	switch o.GetKind() {
	case "ServiceAccount":
		return o.GetName() == "default"
	case "ConfigMap":
		return o.GetName() == "kube-root-ca.crt"
	case "Event", "Endpoints", "EndpointSlice", "PodMetrics":
		return true
	default:
		return false
	}
}

// foreigners lists the objects of somebody else in a namespace that is to go, since they would go with it. What others
// own or make of ours is not counted.
func foreigners(ctx context.Context, s *cloud.Session, namespace, key string) ([]*kindv1.Blocker, error) {
	found, err := contents(ctx, s, namespace)
	if err != nil {
		return nil, err
	}
	out := []*kindv1.Blocker{}
	for _, o := range found {
		if o.GetLabels()[labelKey] == key || len(o.GetOwnerReferences()) > 0 || everyNamespaceHas(o) {
			continue
		}
		action := "delete it or move it to another namespace; it would be lost with the namespace"
		if name := o.GetAnnotations()[annotationName]; o.GetLabels()[labelKey] != "" && name != "" {
			action = "delete " + name + " in Weft; it would be lost with the namespace"
		}
		out = append(out, &kindv1.Blocker{Kind: o.GetKind(), Id: idText(o), Owner: ownerOf(o), Action: action})
	}
	return out, nil
}

// contents lists all objects in a namespace.
func contents(ctx context.Context, s *cloud.Session, namespace string) ([]*unstructured.Unstructured, error) {
	lists, err := s.Typed.Discovery().ServerPreferredNamespacedResources()
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) { // one broken group must not hide the others
		return nil, fault.Wrap(cloud.Fault(err), "list kinds")
	}
	var out []*unstructured.Unstructured
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			return nil, fault.As(fault.Internal, err)
		}
		for _, r := range l.APIResources {
			if !slices.Contains(r.Verbs, "list") || !slices.Contains(r.Verbs, "delete") {
				continue
			}
			found, err := list(ctx, s.Dynamic.Resource(gv.WithResource(r.Name)).Namespace(namespace), "")
			if err != nil && !fault.Is(err, fault.NotFound) {
				return nil, fault.Wrap(err, "list %s in namespace %s", r.Name, namespace)
			}
			out = append(out, found...)
		}
	}
	return out, nil
}

// holding lists what holds those of a manifest's objects that were asked to go. A namespace goes when the last object in it
// has gone, so there it looks inside.
func holding(ctx context.Context, s *cloud.Session, objects []*unstructured.Unstructured, now time.Time) ([]*kindv1.Blocker, error) {
	out := blockersAmong(objects, now)
	for _, o := range objects {
		at := o.GetDeletionTimestamp()
		if at == nil || now.Sub(at.Time) <= finalizerPatience || !isNamespace(o.GroupVersionKind().GroupKind()) {
			continue
		}
		inside, err := contents(ctx, s, o.GetName())
		if err != nil {
			return nil, err
		}
		out = append(out, blockersAmong(inside, now)...)
	}
	return driver.SortBlockers(out), nil
}
