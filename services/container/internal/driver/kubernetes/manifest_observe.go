package kubernetes

import (
	"context"
	"slices"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
)

// Observe lists the inventories once, and the objects of each kind that they name once.
func (m *manifests) Observe(ctx context.Context, ids []string) (map[string]manifestSeen, error) {
	parsed, namespace, err := parseIDs(ids)
	if err != nil {
		return nil, err
	}
	out := map[string]manifestSeen{}
	if len(ids) == 0 {
		return out, nil
	}
	found, err := list(ctx, client(m.session, configMaps, namespace), selectPart(partInventory))
	if err != nil {
		return nil, fault.Wrap(err, "observe manifests: list inventories")
	}
	inventories := map[string][]entry{}
	var all []entry
	byIdentity := index(found, func(o *unstructured.Unstructured) identity {
		return identity{o.GetNamespace(), o.GetName(), o.GetLabels()[labelKey]}
	})
	for id, at := range parsed {
		o := byIdentity[at]
		if o == nil {
			continue
		}
		entries, err := readInventory(o)
		if err != nil {
			out[id] = manifestSeen{State: driver.Failed, Fault: err, Observed: &containerv1.ManifestObserved{}}
			continue
		}
		inventories[id] = entries
		all = append(all, entries...)
	}
	live, err := m.live(ctx, all, selectPart(partObject))
	if err != nil {
		return nil, fault.Wrap(err, "observe manifests")
	}
	for id, entries := range inventories {
		if out[id], err = m.observation(ctx, parsed[id].key, entries, live); err != nil {
			return nil, fault.Wrap(err, "observe manifest %s", id)
		}
	}
	return out, nil
}

// observation decides what is to be made of a manifest. The worst of its objects counts: failed, missing, not ready.
func (m *manifests) observation(ctx context.Context, key string, entries []entry, live map[objectID]*unstructured.Unstructured) (manifestSeen, error) {
	out := manifestSeen{State: driver.Ready, Observed: &containerv1.ManifestObserved{}}
	for _, e := range entries {
		o := live[e.object()]
		if o != nil && o.GetLabels()[labelKey] != key {
			o = nil
		}
		if e.Surplus {
			if o != nil {
				worsen(&out, driver.Progressing, fault.New(fault.Precondition, "%s is no longer wanted and still stands", e))
			}
			continue
		}
		state, why, err := m.state(ctx, e, o)
		if err != nil {
			return manifestSeen{}, err
		}
		shown := &containerv1.ManifestObject{ApiVersion: e.APIVersion, Kind: e.Kind, Namespace: e.Namespace, Name: e.Name, Ready: state == driver.Ready}
		if why != nil {
			shown.Message = why.Error()
			worsen(&out, state, fault.Wrap(why, "%s", e))
		}
		out.Observed.Objects = append(out.Observed.Objects, shown)
	}
	return out, nil
}

// rank orders states by which of them counts for the whole.
var rank = map[driver.State]int{driver.Ready: 0, driver.Progressing: 1, driver.Outdated: 2, driver.Failed: 3}

func worsen(seen *manifestSeen, state driver.State, why error) {
	if rank[state] > rank[seen.State] {
		seen.State, seen.Fault = state, why
	}
}

// state decides what is to be made of one object, by its status as Kubernetes' conventions have it (kstatus). Unlike
// there, a job stands as wanted once it is complete.
func (m *manifests) state(ctx context.Context, e entry, o *unstructured.Unstructured) (driver.State, error, error) {
	if o == nil {
		_, err := m.session.Kinds.Resource(e.gvk())
		if fault.Is(err, fault.Unsupported) {
			return driver.Progressing, fault.New(fault.Precondition, "its kind is not served yet"), nil
		}
		return driver.Outdated, fault.New(fault.Precondition, "it is missing"), err
	}
	if o.GetDeletionTimestamp() != nil {
		return driver.Progressing, fault.New(fault.Precondition, "it is being deleted"), nil
	}
	result, err := status.Compute(o)
	if err != nil {
		return driver.Failed, fault.New(fault.Precondition, "its status cannot be read: %v", err), nil
	}
	if result.Status == status.CurrentStatus && unfinishedJob(o) {
		result.Status = status.InProgressStatus
	}
	if result.Status == status.CurrentStatus {
		return driver.Ready, nil, nil
	}
	why, err := m.podsOf(ctx, o)
	if err != nil {
		return driver.Progressing, nil, err
	}
	if why == nil {
		why = fault.New(fault.Precondition, "%s", result.Message)
	}
	if result.Status == status.FailedStatus {
		return driver.Failed, fault.Wrap(why, "%s", result.Message), nil
	}
	return driver.Progressing, why, nil
}

// unfinishedJob tells a job that runs or is suspended.
func unfinishedJob(o *unstructured.Unstructured) bool {
	if o.GroupVersionKind().GroupKind() != (schema.GroupKind{Group: "batch", Kind: "Job"}) {
		return false
	}
	conditions, _, err := unstructured.NestedSlice(o.Object, "status", "conditions")
	if err != nil {
		return true
	}
	return !slices.ContainsFunc(conditions, func(c any) bool {
		condition, ok := c.(map[string]any)
		return ok && condition["type"] == "Complete" && condition["status"] == "True"
	})
}

// podsOf says what keeps the pods of an object that selects pods from getting ready; nil if nothing is known.
func (m *manifests) podsOf(ctx context.Context, o *unstructured.Unstructured) (error, error) {
	chosen, found, err := unstructured.NestedMap(o.Object, "spec", "selector")
	if group := o.GroupVersionKind().Group; err != nil || !found || group != "apps" && group != "batch" {
		return nil, nil
	}
	selector := &metav1.LabelSelector{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(chosen, selector); err != nil {
		return nil, fault.As(fault.Internal, err)
	}
	objects, err := list(ctx, client(m.session, pods, o.GetNamespace()), metav1.FormatLabelSelector(selector))
	if err != nil {
		return nil, fault.Wrap(err, "list pods of %s", describe(o.GetKind(), o.GetNamespace(), o.GetName()))
	}
	var all []*corev1.Pod
	for _, p := range objects {
		pod := &corev1.Pod{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(p.Object, pod); err != nil {
			return nil, fault.As(fault.Internal, err)
		}
		all = append(all, pod)
	}
	return podTrouble(all, ""), nil
}
