package kubernetes

import (
	"cmp"
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	cloud "github.com/weftcloud/weft/pkg/cloud/kubernetes"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
)

// demand is what a plan needs of the ResourceQuotas of namespaces: by namespace, by the quota's name for it. Amounts of
// CPU are in thousandths of a core, of memory in bytes, all others in pieces.
type demand map[string]map[corev1.ResourceName]int64

func (d demand) add(namespace string, name corev1.ResourceName, amount int64) {
	if d[namespace] == nil {
		d[namespace] = map[corev1.ResourceName]int64{}
	}
	d[namespace][name] += amount
}

// workload adds what a workload needs beyond what its former spec has.
func (d demand) workload(namespace string, spec, former *containerv1.WorkloadSpec) {
	d.weigh(namespace, spec, 1)
	if former != nil {
		d.weigh(namespace, former, -1)
	}
}

// weigh adds a spec's needs, times sign. A quantity that cannot be read is a finding of its own and weighs nothing.
func (d demand) weigh(namespace string, spec *containerv1.WorkloadSpec, sign int64) {
	replicas := int64(1)
	if spec.Replicas != nil {
		replicas = int64(spec.GetReplicas())
	}
	pod := corev1.PodSpec{}
	ports := 0
	for _, c := range spec.GetContainers() {
		resources, err := requirements(c.GetResources())
		if err != nil {
			continue
		}
		pod.Containers = append(pod.Containers, corev1.Container{Resources: resources})
		ports += len(c.GetPorts())
	}
	d.pods(namespace, pod, sign*replicas)
	d.add(namespace, "count/deployments.apps", sign)
	d.add(namespace, corev1.ResourceConfigMaps, sign*int64(len(spec.GetVolumes())))
	if ports == 0 {
		return
	}
	d.add(namespace, corev1.ResourceServices, sign)
	if spec.GetExposure() == containerv1.Exposure_EXPOSURE_NODES {
		d.add(namespace, corev1.ResourceServicesNodePorts, sign*int64(ports))
	}
}

// pods adds the needs of a number of copies of a pod.
func (d demand) pods(namespace string, pod corev1.PodSpec, copies int64) {
	d.add(namespace, corev1.ResourcePods, copies)
	for _, c := range pod.Containers {
		d.add(namespace, corev1.ResourceRequestsCPU, copies*c.Resources.Requests.Cpu().MilliValue())
		d.add(namespace, corev1.ResourceRequestsMemory, copies*c.Resources.Requests.Memory().Value())
		d.add(namespace, corev1.ResourceLimitsCPU, copies*c.Resources.Limits.Cpu().MilliValue())
		d.add(namespace, corev1.ResourceLimitsMemory, copies*c.Resources.Limits.Memory().Value())
	}
}

// pieces are the quotas on the number of objects of a kind that have names of their own.
var pieces = map[string]corev1.ResourceName{
	"ConfigMap": corev1.ResourceConfigMaps, "Secret": corev1.ResourceSecrets, "Service": corev1.ResourceServices,
	"PersistentVolumeClaim": corev1.ResourcePersistentVolumeClaims,
}

// object adds what an object of a manifest needs. Only new objects weigh; what a kind somebody defined needs is not known.
func (d demand) object(o *unstructured.Unstructured) {
	if name, counted := pieces[o.GetKind()]; counted && o.GroupVersionKind().Group == "" {
		d.add(o.GetNamespace(), name, 1)
	}
	copies := int64(1)
	path := []string{"spec", "template", "spec"}
	switch o.GroupVersionKind().GroupKind().String() {
	case "Pod":
		path = []string{"spec"}
	case "Deployment.apps", "StatefulSet.apps", "ReplicaSet.apps":
		if replicas, found, err := unstructured.NestedInt64(o.Object, "spec", "replicas"); err == nil && found {
			copies = replicas
		}
	case "Job.batch":
		if parallel, found, err := unstructured.NestedInt64(o.Object, "spec", "parallelism"); err == nil && found {
			copies = parallel
		}
	default:
		return
	}
	content, found, err := unstructured.NestedMap(o.Object, path...)
	pod := corev1.PodSpec{}
	if err != nil || !found || runtime.DefaultUnstructuredConverter.FromUnstructured(content, &pod) != nil {
		return // the dry run says what is wrong with it
	}
	d.pods(o.GetNamespace(), pod, copies)
}

// aliases are the older names of quotas.
var aliases = map[corev1.ResourceName]corev1.ResourceName{
	corev1.ResourceCPU: corev1.ResourceRequestsCPU, corev1.ResourceMemory: corev1.ResourceRequestsMemory,
	"count/pods": corev1.ResourcePods, "count/services": corev1.ResourceServices, "count/configmaps": corev1.ResourceConfigMaps,
	"count/secrets": corev1.ResourceSecrets, "count/persistentvolumeclaims": corev1.ResourcePersistentVolumeClaims,
}

// uses compares the demand with the quotas of the namespaces. A quota that holds for some pods only (by scope) is left
// to the cluster.
func (d demand) uses(ctx context.Context, s *cloud.Session) ([]driver.QuotaUse, error) {
	var out []driver.QuotaUse
	for namespace, needs := range d {
		if namespace == "" {
			continue
		}
		quotas, err := s.Typed.CoreV1().ResourceQuotas(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fault.Wrap(cloud.Fault(err), "list quotas of namespace %s", namespace)
		}
		for _, q := range quotas.Items {
			if len(q.Spec.Scopes) > 0 || q.Spec.ScopeSelector != nil {
				continue
			}
			for hard, limit := range q.Spec.Hard {
				name := hard
				if alias, ok := aliases[hard]; ok {
					name = alias
				}
				if need := needs[name]; need > 0 {
					used := q.Status.Used[hard]
					out = append(out, driver.QuotaUse{
						Service: "kubernetes", Quota: namespace + "/" + q.Name + " " + string(hard) + unit(name),
						Need: need, Used: amount(name, used), Limit: amount(name, limit),
					})
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b driver.QuotaUse) int { return cmp.Compare(a.Quota, b.Quota) })
	return out, nil
}

func amount(name corev1.ResourceName, q apiresource.Quantity) int64 {
	if name == corev1.ResourceRequestsCPU || name == corev1.ResourceLimitsCPU {
		return q.MilliValue()
	}
	return q.Value()
}

// unit gives the unit of an amount, for people.
func unit(name corev1.ResourceName) string {
	switch name {
	case corev1.ResourceRequestsCPU, corev1.ResourceLimitsCPU:
		return " (thousandths of a core)"
	case corev1.ResourceRequestsMemory, corev1.ResourceLimitsMemory:
		return " (bytes)"
	default:
		return ""
	}
}
