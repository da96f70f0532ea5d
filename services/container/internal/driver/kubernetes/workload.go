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

// workloads makes a Workload of a Deployment, a Service if a container has ports, and a ConfigMap for each volume.
//
// Create makes the Deployment, which marks the workload; its pods wait for the ConfigMaps. Update makes the rest. All of
// them bear the key, so whatever stands after a crash is found, completed or taken away.
type workloads struct {
	session *cloud.Session
	now     func() time.Time
}

type (
	workloadRequest = driver.Request[*containerv1.WorkloadSpec]
	workloadSeen    = driver.Observation[*containerv1.WorkloadObserved]
)

// mapping gives the REST resource of a built-in kind, which needs no look-up.
func mapping(group, resource, kind string) *meta.RESTMapping {
	gv := schema.GroupVersion{Group: group, Version: "v1"}
	return &meta.RESTMapping{Resource: gv.WithResource(resource), GroupVersionKind: gv.WithKind(kind), Scope: meta.RESTScopeNamespace}
}

var (
	deployments = mapping("apps", "deployments", "Deployment")
	replicaSets = mapping("apps", "replicasets", "ReplicaSet")
	services    = mapping("", "services", "Service")
	configMaps  = mapping("", "configmaps", "ConfigMap")
	pods        = mapping("", "pods", "Pod")
)

// workloadParts are the kinds that we make for a workload, its main object first. What controllers make of them bears
// the key too.
var workloadParts = []*meta.RESTMapping{deployments, services, configMaps}

// NeedsUpdate tells that Create makes only the Deployment.
func (w *workloads) NeedsUpdate() bool { return true }

// Find finds the workload by any of its parts.
func (w *workloads) Find(ctx context.Context, r workloadRequest) ([]string, error) {
	namespace := metav1.NamespaceAll
	if r.Spec != nil {
		namespace = namespaceOf(r.Spec.GetNamespace())
	}
	for _, part := range workloadParts {
		found, err := list(ctx, client(w.session, part, namespace), selectKey(partWorkload, r.Key))
		if err != nil {
			return nil, fault.Wrap(err, "find workload %s", r.Name)
		}
		ids := []string{}
		for _, o := range found {
			ids = append(ids, workloadIdentity(o).String())
		}
		if len(ids) > 0 {
			slices.Sort(ids)
			return slices.Compact(ids), nil
		}
	}
	return []string{}, nil
}

// workloadIdentity gives the id of the workload that one of its parts belongs to.
func workloadIdentity(o *unstructured.Unstructured) identity {
	return identity{o.GetNamespace(), objectName(o.GetAnnotations()[annotationName]), o.GetLabels()[labelKey]}
}

// Create makes the Deployment.
func (w *workloads) Create(ctx context.Context, r workloadRequest) (string, error) {
	wanted, err := buildWorkload(r)
	if err != nil {
		return "", fault.Wrap(err, "create workload %s", r.Name)
	}
	id := identity{wanted.namespace, wanted.deployment.GetName(), r.Key}
	err = writer{session: w.session, key: r.Key, force: true}.put(ctx, deployments, wanted.deployment, nil)
	if fault.Is(err, fault.NotFound) {
		err = &fault.Error{Kind: fault.Precondition, Field: "spec.namespace", Message: "the namespace " + wanted.namespace + " does not exist; make it first, e.g. by a Manifest", Cause: err}
	}
	if err != nil {
		return "", fault.Wrap(err, "create workload %s", r.Name)
	}
	return id.String(), nil
}

// Update makes and changes what differs, and takes away what is no longer wanted. What the pods need comes before the
// pods.
func (w *workloads) Update(ctx context.Context, id string, r workloadRequest) error {
	wanted, err := buildWorkload(r)
	if err != nil {
		return fault.Wrap(err, "update workload %s", r.Name)
	}
	at, err := parseID(id)
	if err != nil {
		return err
	}
	standing := map[*meta.RESTMapping]map[string]*unstructured.Unstructured{}
	found := 0
	for _, part := range workloadParts {
		objects, err := list(ctx, client(w.session, part, at.namespace), selectKey(partWorkload, at.key))
		if err != nil {
			return fault.Wrap(err, "update workload %s", r.Name)
		}
		standing[part] = index(objects, (*unstructured.Unstructured).GetName)
		found += len(objects)
	}
	if found == 0 {
		return fault.Wrap(fault.New(fault.NotFound, "%s is gone", id), "update workload %s", r.Name)
	}
	order := []struct {
		kind   *meta.RESTMapping
		wanted []*unstructured.Unstructured
	}{{configMaps, wanted.configMaps}, {services, wanted.services}, {deployments, []*unstructured.Unstructured{wanted.deployment}}}
	var surplus []func() error
	for _, o := range order {
		c := client(w.session, o.kind, at.namespace)
		for _, obj := range o.wanted {
			if err := (writer{session: w.session, key: at.key, force: true}).put(ctx, o.kind, obj, standing[o.kind][obj.GetName()]); err != nil {
				return fault.Wrap(err, "update workload %s", r.Name)
			}
			delete(standing[o.kind], obj.GetName())
		}
		for _, left := range standing[o.kind] {
			surplus = append(surplus, func() error { return remove(ctx, c, left) })
		}
	}
	for _, take := range surplus { // last: the pods that used it are on their way out by now
		if err := take(); err != nil {
			return fault.Wrap(err, "update workload %s: take away what is no longer wanted", r.Name)
		}
	}
	return nil
}

// index gives objects by a key of theirs.
func index[K comparable, O any](objects []O, key func(O) K) map[K]O {
	out := make(map[K]O, len(objects))
	for _, o := range objects {
		out[key(o)] = o
	}
	return out
}

// Delete asks for all parts to be taken away: in the foreground, so that the Deployment stands as long as one of its
// pods does. Sets and pods that outlived their Deployment are taken away themselves.
func (w *workloads) Delete(ctx context.Context, id string) error {
	at, err := parseID(id)
	if err != nil {
		return err
	}
	orphaned := true
	var leaving []*unstructured.Unstructured
	for _, part := range append(slices.Clone(workloadParts), replicaSets, pods) {
		c := client(w.session, part, at.namespace)
		found, err := list(ctx, c, selectKey(partWorkload, at.key))
		if err != nil {
			return fault.Wrap(err, "delete workload %s", id)
		}
		if part == deployments && len(found) > 0 {
			orphaned = false
		}
		for _, o := range found {
			if o.GetDeletionTimestamp() != nil {
				leaving = append(leaving, o)
				continue
			}
			if !orphaned && (part == replicaSets || part == pods) {
				continue
			}
			if err := remove(ctx, c, o); err != nil {
				return fault.Wrap(err, "delete workload %s: delete %s", id, describe(o.GetKind(), o.GetNamespace(), o.GetName()))
			}
		}
	}
	return driver.Blocked(blockersAmong(leaving, w.now()))
}

// Blockers lists what keeps a workload from going: finalizers that are somebody else's, and pods on nodes that do not
// answer.
func (w *workloads) Blockers(ctx context.Context, id string) ([]*kindv1.Blocker, error) {
	at, err := parseID(id)
	if err != nil {
		return nil, err
	}
	var leaving []*unstructured.Unstructured
	for _, part := range append(slices.Clone(workloadParts), replicaSets, pods) {
		found, err := list(ctx, client(w.session, part, at.namespace), selectKey(partWorkload, at.key))
		if err != nil {
			return nil, fault.Wrap(err, "look what blocks the deletion of workload %s", id)
		}
		leaving = append(leaving, found...)
	}
	return blockersAmong(leaving, w.now()), nil
}

// ListMarked lists the workloads of which any part stands.
func (w *workloads) ListMarked(ctx context.Context) ([]driver.Marked, error) {
	seen := map[string]driver.Marked{}
	for _, part := range append(slices.Clone(workloadParts), replicaSets, pods) {
		found, err := list(ctx, client(w.session, part, metav1.NamespaceAll), selectPart(partWorkload))
		if err != nil {
			return nil, fault.Wrap(err, "list workloads")
		}
		for _, o := range found {
			m := driver.Marked{ID: workloadIdentity(o).String(), Key: o.GetLabels()[labelKey], Name: o.GetAnnotations()[annotationName]}
			seen[m.ID] = m
		}
	}
	return sortedMarks(seen), nil
}

func sortedMarks(seen map[string]driver.Marked) []driver.Marked {
	out := make([]driver.Marked, 0, len(seen))
	for _, m := range seen {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b driver.Marked) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return out
}
