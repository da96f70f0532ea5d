package kubernetes

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	cloud "github.com/weftcloud/weft/pkg/cloud/kubernetes"
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

// blockersAmong lists those of the objects that were asked to go and are held.
func blockersAmong(objects []*unstructured.Unstructured, now time.Time) []*kindv1.Blocker {
	out := []*kindv1.Blocker{}
	for _, o := range objects {
		if o.GetDeletionTimestamp() == nil {
			continue
		}
		waited := now.Sub(o.GetDeletionTimestamp().Time)
		id := strings.TrimPrefix(o.GetNamespace()+"/"+o.GetName(), "/")
		for _, f := range o.GetFinalizers() {
			if !slices.Contains(ownFinalizers, f) && waited > finalizerPatience {
				out = append(out, &kindv1.Blocker{
					Kind: o.GetKind(), Id: id, Owner: "finalizer " + f,
					Action: "make the controller that serves this finalizer work again; only if it is gone for good, remove the finalizer from the object",
				})
			}
		}
		if node := textAt(o.Object, "spec", "nodeName"); o.GetKind() == "Pod" && waited > overdue && len(o.GetFinalizers()) == 0 {
			out = append(out, &kindv1.Blocker{
				Kind: "Pod", Id: id, Owner: "node " + node,
				Action: "bring the node back, or delete the node from the cluster if it is gone for good",
			})
		}
	}
	return out
}

// stuck gives blockers as the fault of a deletion; nil if there are none.
func stuck(blockers []*kindv1.Blocker) error {
	if len(blockers) == 0 {
		return nil
	}
	const most = 5
	var names []string
	for i, b := range blockers {
		if i == most {
			names = append(names, fmt.Sprintf("and %d more", len(blockers)-most))
			break
		}
		names = append(names, fmt.Sprintf("%s %s (%s)", b.GetKind(), b.GetId(), b.GetOwner()))
	}
	return fault.New(fault.Precondition, "it cannot go before %s", strings.Join(names, ", "))
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
	lists, err := s.Typed.Discovery().ServerPreferredNamespacedResources()
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) { // one broken group must not hide the others
		return nil, fault.Wrap(cloud.Fault(err), "list kinds")
	}
	out := []*kindv1.Blocker{}
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
			for _, o := range found {
				if o.GetLabels()[labelKey] != key && len(o.GetOwnerReferences()) == 0 && !everyNamespaceHas(o) {
					out = append(out, &kindv1.Blocker{
						Kind: o.GetKind(), Id: namespace + "/" + o.GetName(), Owner: ownerOf(o),
						Action: "delete it or move it to another namespace; it would be lost with the namespace",
					})
				}
			}
		}
	}
	return out, nil
}
