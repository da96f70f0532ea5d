package kubernetes

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
)

type quantities = corev1.ResourceList

// quotaNeeds is what an object takes of a quota: its count by both of its names, and what pods and claims ask for.
func quotaNeeds(r *resource, obj runtime.Object) quantities {
	one := *apiresource.NewQuantity(1, apiresource.DecimalSI)
	needs := quantities{corev1.ResourceName("count/" + r.storageKey()): one}
	switch o := obj.(type) {
	case *corev1.Pod:
		needs[corev1.ResourcePods] = one
		addRequests(needs, &o.Spec)
	case *corev1.Service:
		needs[corev1.ResourceServices] = one
		if o.Spec.Type == corev1.ServiceTypeNodePort {
			needs[corev1.ResourceServicesNodePorts] = *apiresource.NewQuantity(int64(len(o.Spec.Ports)), apiresource.DecimalSI)
		}
		if o.Spec.Type == corev1.ServiceTypeLoadBalancer {
			needs[corev1.ResourceServicesLoadBalancers] = one
		}
	case *corev1.PersistentVolumeClaim:
		needs[corev1.ResourcePersistentVolumeClaims] = one
		needs[corev1.ResourceRequestsStorage] = o.Spec.Resources.Requests[corev1.ResourceStorage]
	case *corev1.ConfigMap, *corev1.Secret, *corev1.ReplicationController, *corev1.ResourceQuota:
		needs[corev1.ResourceName(r.plural)] = one
	}
	return needs
}

func addRequests(needs quantities, spec *corev1.PodSpec) {
	sum := func(name corev1.ResourceName, q apiresource.Quantity) {
		total := needs[name]
		total.Add(q)
		needs[name] = total
	}
	for i := range spec.Containers {
		for name, q := range spec.Containers[i].Resources.Requests {
			sum(name, q)
			sum("requests."+name, q)
		}
		for name, q := range spec.Containers[i].Resources.Limits {
			sum("limits."+name, q)
		}
	}
}

// quotaUsed sums up what stands in the namespace of a quota, for the names that it limits.
func (s *Server) quotaUsed(quota *corev1.ResourceQuota) quantities {
	used := quantities{}
	for name := range quota.Spec.Hard {
		used[name] = *apiresource.NewQuantity(0, apiresource.DecimalSI)
	}
	for storage := range quotaResources(quota) {
		for _, e := range s.store.list(storage, quota.Namespace) {
			if e.pod != nil && (e.pod.phase == corev1.PodSucceeded || e.pod.phase == corev1.PodFailed) {
				continue
			}
			obj, err := s.decode(e)
			if err != nil {
				continue
			}
			for name, q := range quotaNeeds(e.res, obj) {
				if total, wanted := used[name]; wanted {
					total.Add(q)
					used[name] = total
				}
			}
		}
	}
	return used
}

// quotaResources names the collections that count for a quota.
func quotaResources(quota *corev1.ResourceQuota) map[string]bool {
	set := map[string]bool{}
	for name := range quota.Spec.Hard {
		text := string(name)
		counted, isCount := strings.CutPrefix(text, "count/")
		switch {
		case isCount:
			set[counted] = true
		case strings.HasPrefix(text, "services"):
			set["services"] = true
		case name == corev1.ResourceRequestsStorage || name == corev1.ResourcePersistentVolumeClaims:
			set["persistentvolumeclaims"] = true
		case name == corev1.ResourceConfigMaps || name == corev1.ResourceSecrets || name == corev1.ResourceReplicationControllers || name == corev1.ResourceQuotas:
			set[text] = true
		default:
			set["pods"] = true
		}
	}
	return set
}
