package kubernetes

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	cloud "github.com/weftcloud/weft/pkg/cloud/kubernetes"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
)

// parts is what was seen of one workload.
type parts struct {
	deployment *appsv1.Deployment
	service    *corev1.Service
	pods       []*corev1.Pod
	// others counts what else stands: ReplicaSets and ConfigMaps.
	others int
	// configMaps holds the names of the ConfigMaps that stand.
	configMaps map[string]bool
}

// Observe lists Deployments and Services once. Pods, ReplicaSets and ConfigMaps are listed only if a workload is not
// well: to say what it waits for, or what of it still stands.
func (w *workloads) Observe(ctx context.Context, ids []string) (map[string]workloadSeen, error) {
	parsed, namespace, err := parseIDs(ids)
	if err != nil {
		return nil, err
	}
	seen := map[string]*parts{}
	for _, at := range parsed {
		seen[at.key] = &parts{configMaps: map[string]bool{}}
	}
	look := func(kind *meta.RESTMapping) error {
		found, err := list(ctx, client(w.session, kind, namespace), selectPart(partWorkload))
		if err != nil {
			return fault.Wrap(err, "observe workloads: list %s", kind.Resource.Resource)
		}
		for _, o := range found {
			if p := seen[o.GetLabels()[labelKey]]; p != nil {
				if err := p.add(o); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if len(ids) == 0 {
		return map[string]workloadSeen{}, nil
	}
	for _, kind := range []*meta.RESTMapping{deployments, services} {
		if err := look(kind); err != nil {
			return nil, err
		}
	}
	if slices.ContainsFunc(ids, func(id string) bool { return !seen[parsed[id].key].well() }) {
		for _, kind := range []*meta.RESTMapping{replicaSets, pods, configMaps} {
			if err := look(kind); err != nil {
				return nil, err
			}
		}
	}
	nodes, err := w.nodes(ctx, seen)
	if err != nil {
		return nil, err
	}
	out := map[string]workloadSeen{}
	for id, at := range parsed {
		if p := seen[at.key]; !p.gone() {
			out[id] = p.observation(at, nodes)
		}
	}
	return out, nil
}

// nodes lists the nodes that are ready, ordered by name, if one of the workloads is exposed on them.
func (w *workloads) nodes(ctx context.Context, seen map[string]*parts) ([]*containerv1.Node, error) {
	if !slices.ContainsFunc(slices.Collect(maps.Values(seen)), (*parts).onNodes) {
		return nil, nil
	}
	var out []*containerv1.Node
	opts := metav1.ListOptions{Limit: pageSize}
	for {
		page, err := w.session.Typed.CoreV1().Nodes().List(ctx, opts)
		if err != nil {
			return nil, fault.Wrap(cloud.Fault(err), "observe workloads: list nodes")
		}
		for _, n := range page.Items {
			if isReady(&n) && n.DeletionTimestamp == nil {
				out = append(out, node(&n))
			}
		}
		if opts.Continue = page.Continue; opts.Continue == "" {
			slices.SortFunc(out, func(a, b *containerv1.Node) int { return strings.Compare(a.GetName(), b.GetName()) })
			return out, nil
		}
	}
}

func isReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func node(n *corev1.Node) *containerv1.Node {
	out := &containerv1.Node{Name: n.Name, ProviderId: n.Spec.ProviderID}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
			out.Addresses = append(out.Addresses, a.Address)
		}
	}
	return out
}

// onNodes tells that the workload can be reached on a port of every node.
func (p *parts) onNodes() bool {
	return p.service != nil && p.service.DeletionTimestamp == nil && p.service.Spec.Type == corev1.ServiceTypeNodePort
}

// add files an object.
func (p *parts) add(o *unstructured.Unstructured) error {
	convert := func(into any) error {
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, into); err != nil {
			return fault.Wrap(fault.As(fault.Internal, err), "read %s", describe(o.GetKind(), o.GetNamespace(), o.GetName()))
		}
		return nil
	}
	switch o.GetKind() {
	case deployments.GroupVersionKind.Kind:
		p.deployment = &appsv1.Deployment{}
		return convert(p.deployment)
	case services.GroupVersionKind.Kind:
		p.service = &corev1.Service{}
		return convert(p.service)
	case pods.GroupVersionKind.Kind:
		pod := &corev1.Pod{}
		p.pods = append(p.pods, pod)
		return convert(pod)
	case configMaps.GroupVersionKind.Kind:
		p.configMaps[o.GetName()] = true
		p.others++
	default:
		p.others++
	}
	return nil
}

// gone tells that nothing of the workload stands.
func (p *parts) gone() bool {
	return p.deployment == nil && p.service == nil && len(p.pods) == 0 && p.others == 0
}

// well tells that the rollout is complete and nothing is missing, as far as Deployments and Services show.
func (p *parts) well() bool {
	return p.deployment != nil && p.deployment.DeletionTimestamp == nil && complete(p.deployment) && (p.service != nil || len(p.ports()) == 0)
}

// complete tells that all copies are of the newest spec and available, and that no old one is left.
func complete(d *appsv1.Deployment) bool {
	s, wanted := d.Status, replicasOf(d)
	return s.ObservedGeneration >= d.Generation && s.UpdatedReplicas == wanted && s.Replicas == wanted && s.AvailableReplicas == wanted
}

// ports gives the containers' ports in their order.
func (p *parts) ports() []int32 {
	var out []int32
	for _, c := range p.deployment.Spec.Template.Spec.Containers {
		for _, port := range c.Ports {
			out = append(out, port.ContainerPort)
		}
	}
	return out
}

func (p *parts) observation(at identity, nodes []*containerv1.Node) workloadSeen {
	o := workloadSeen{Observed: &containerv1.WorkloadObserved{Namespace: at.namespace}}
	o.State, o.Fault = p.state()
	if p.deployment == nil {
		return o
	}
	o.Observed.ReadyReplicas = p.deployment.Status.ReadyReplicas
	if p.service == nil || p.service.DeletionTimestamp != nil {
		return o
	}
	o.Observed.Address = p.service.Spec.ClusterIP
	o.Observed.Host = p.service.Name + "." + p.service.Namespace + ".svc"
	if p.onNodes() {
		o.Observed.Nodes = nodes
		o.Observed.NodePortName, o.Observed.NodeNetwork = p.service.Annotations[annotationNodePort], p.service.Annotations[annotationNodeNetwork]
	}
	ofPort := index(p.service.Spec.Ports, func(s corev1.ServicePort) int32 { return s.Port })
	for _, port := range p.ports() {
		if node := ofPort[port].NodePort; node != 0 {
			o.Observed.NodePorts = append(o.Observed.NodePorts, node)
		}
	}
	return o
}

// state decides what is to be made of a workload.
func (p *parts) state() (driver.State, error) {
	d := p.deployment
	if d == nil && len(p.pods) > 0 {
		return driver.Outdated, fault.New(fault.Precondition, "its deployment is gone; %d of its pods still stand", len(p.pods))
	}
	if d == nil {
		return driver.Outdated, fault.New(fault.Precondition, "its deployment is gone; some of what belongs to it still stands")
	}
	if d.DeletionTimestamp != nil {
		return driver.Progressing, fault.New(fault.Precondition, "it is being deleted; %d of its pods still stand", len(p.pods))
	}
	if missing := p.missing(); missing != "" {
		return driver.Outdated, fault.New(fault.Precondition, "its %s is missing", missing)
	}
	if complete(d) {
		return driver.Ready, nil
	}
	why := p.trouble()
	for _, c := range d.Status.Conditions {
		if d.Status.ObservedGeneration >= d.Generation && c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse && c.Reason == "ProgressDeadlineExceeded" {
			if why == nil {
				why = fault.New(fault.Precondition, "%s", c.Message)
			}
			return driver.Failed, fault.Wrap(why, "roll out %s: no progress for %d seconds", describe("deployment", d.Namespace, d.Name), deadlineOf(d))
		}
	}
	if why == nil {
		why = fault.New(fault.Precondition, "%d of %d copies are ready", d.Status.ReadyReplicas, replicasOf(d))
	}
	return driver.Progressing, why
}

func replicasOf(d *appsv1.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

func deadlineOf(d *appsv1.Deployment) int32 {
	if d.Spec.ProgressDeadlineSeconds == nil {
		return progressDeadline
	}
	return *d.Spec.ProgressDeadlineSeconds
}

// missing names a part that the Deployment's own spec calls for and that does not stand; ConfigMaps are known only if the
// workload is not well.
func (p *parts) missing() string {
	if p.service == nil && len(p.ports()) > 0 {
		return "service"
	}
	if p.well() {
		return ""
	}
	for _, v := range p.deployment.Spec.Template.Spec.Volumes {
		if v.ConfigMap != nil && !p.configMaps[v.ConfigMap.Name] {
			return "config map " + v.ConfigMap.Name
		}
	}
	return ""
}

// trouble says in the cluster's own words what keeps the copies from getting ready; nil if nothing is known.
func (p *parts) trouble() error {
	for _, c := range p.deployment.Status.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
			kind := fault.Denied // admission refuses the pods
			if strings.Contains(c.Message, "exceeded quota: ") {
				kind = fault.Quota // told apart by its text alone, see pkg/cloud/kubernetes/faults.go
			}
			return fault.New(kind, "%s: %s", c.Reason, c.Message)
		}
	}
	return podTrouble(p.pods, "spec.containers")
}

// waitingFor maps why a container waits (k8s.io/kubernetes/pkg/kubelet: images/types.go, container/sync_result.go) to
// a kind and, if it is a matter of the spec, the field below the container. What is absent here is ordinary: ContainerCreating.
var waitingFor = map[string]struct {
	kind  fault.Kind
	field string
}{
	"ErrImagePull":               {fault.Invalid, ".image"},
	"ImagePullBackOff":           {fault.Invalid, ".image"},
	"InvalidImageName":           {fault.Invalid, ".image"},
	"ErrImageNeverPull":          {fault.Invalid, ".image"},
	"ImageInspectError":          {fault.Invalid, ".image"},
	"RegistryUnavailable":        {fault.Precondition, ".image"},
	"CreateContainerConfigError": {fault.Invalid, ""},
	"CreateContainerError":       {fault.Invalid, ""},
	"RunContainerError":          {fault.Invalid, ""},
	"CrashLoopBackOff":           {fault.Precondition, ""},
}

// podTrouble says what keeps pods from getting ready; nil if nothing is known. Fields are named below containersField;
// none are if it is empty.
func podTrouble(all []*corev1.Pod, containersField string) error {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b *corev1.Pod) int { return b.CreationTimestamp.Compare(a.CreationTimestamp.Time) }) // the newest rollout first
	for _, pod := range all {
		if pod.DeletionTimestamp != nil {
			continue
		}
		for _, c := range append(slices.Clone(pod.Status.InitContainerStatuses), pod.Status.ContainerStatuses...) {
			if err := containerTrouble(pod, c, containersField); err != nil {
				return err
			}
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
				return fault.New(fault.Quota, "pod %s: %s: %s", pod.Name, c.Reason, c.Message)
			}
		}
	}
	return nil
}

func containerTrouble(pod *corev1.Pod, c corev1.ContainerStatus, containersField string) error {
	if c.State.Waiting == nil {
		return nil
	}
	what, known := waitingFor[c.State.Waiting.Reason]
	if !known {
		return nil
	}
	text := fmt.Sprintf("pod %s, container %s: %s: %s", pod.Name, c.Name, c.State.Waiting.Reason, c.State.Waiting.Message)
	if t := c.LastTerminationState.Terminated; t != nil {
		text += fmt.Sprintf(" (last time: %s, exit code %d%s)", t.Reason, t.ExitCode, withColon(t.Message))
	}
	f := fault.New(what.kind, "%s", text)
	i := slices.IndexFunc(pod.Spec.Containers, func(s corev1.Container) bool { return s.Name == c.Name })
	if containersField != "" && i >= 0 {
		f.Field = fmt.Sprintf("%s[%d]%s", containersField, i, what.field)
	}
	return f
}

func withColon(s string) string {
	if s = strings.TrimSpace(s); s == "" {
		return ""
	}
	return ": " + s
}
