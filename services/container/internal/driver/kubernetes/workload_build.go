package kubernetes

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/weftcloud/weft/pkg/fault"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
)

// progressDeadline is how long a rollout may stand still before Kubernetes calls it failed, in seconds. Its own default,
// ten minutes, is longer than a person waits for a wrong image.
const progressDeadline = 120

// maxConfig is how large the content of a ConfigMap may be (Kubernetes: 1 MiB).
const maxConfig = 1 << 20

// workloadObjects is a workload as objects.
type workloadObjects struct {
	namespace  string
	deployment *unstructured.Unstructured
	services   []*unstructured.Unstructured
	configMaps []*unstructured.Unstructured
}

// builder builds the objects of one workload.
type builder struct {
	spec    *containerv1.WorkloadSpec
	cluster *containerv1.ClusterSpec // nil if it is not known
	name    string
	meta    metav1.ObjectMeta
}

// buildWorkload gives the objects of a workload. The error is Invalid and names the field; see examineWorkload.
func buildWorkload(r workloadRequest) (workloadObjects, error) {
	if problems := examineWorkload(r.Spec); len(problems) > 0 {
		return workloadObjects{}, problems[0]
	}
	b := builder{spec: r.Spec, name: objectName(r.Name), meta: metav1.ObjectMeta{
		Name: objectName(r.Name), Namespace: namespaceOf(r.Spec.GetNamespace()),
		Labels: mark(partWorkload, r.Key), Annotations: map[string]string{annotationName: r.Name},
	}}
	if c, ok := r.Refs[r.Spec.GetCluster()].(*containerv1.Cluster); ok {
		b.cluster = c.GetSpec()
	}
	out := workloadObjects{namespace: b.meta.Namespace}
	typed, err := b.deployment(r.Key)
	if err != nil {
		return workloadObjects{}, err
	}
	if out.deployment, err = untyped(typed); err != nil {
		return workloadObjects{}, err
	}
	for _, v := range r.Spec.GetVolumes() {
		m, err := untyped(b.configMap(v))
		if err != nil {
			return workloadObjects{}, err
		}
		out.configMaps = append(out.configMaps, m)
	}
	if ports := b.servicePorts(); len(ports) > 0 {
		s, err := untyped(b.service(ports, r.Key))
		if err != nil {
			return workloadObjects{}, err
		}
		out.services = append(out.services, s)
	}
	return out, nil
}

func typeMeta(gvk schema.GroupVersionKind) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind}
}

func (b builder) deployment(key string) (*appsv1.Deployment, error) {
	replicas := int32(1)
	if b.spec.Replicas != nil {
		replicas = b.spec.GetReplicas()
	}
	labels := maps.Clone(b.spec.GetLabels())
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, b.meta.Labels)
	annotations := maps.Clone(b.meta.Annotations)
	if len(b.spec.GetVolumes()) > 0 {
		annotations[annotationConfig] = configDigest(b.spec.GetVolumes())
	}
	pod := corev1.PodSpec{}
	for _, v := range b.spec.GetVolumes() {
		pod.Volumes = append(pod.Volumes, corev1.Volume{Name: v.GetName(), VolumeSource: corev1.VolumeSource{
			ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: b.configMapName(v)}},
		}})
	}
	for _, c := range b.spec.GetContainers() {
		made, err := container(c)
		if err != nil {
			return nil, err
		}
		pod.Containers = append(pod.Containers, made)
	}
	deadline := int32(progressDeadline)
	return &appsv1.Deployment{
		TypeMeta: typeMeta(deployments.GroupVersionKind), ObjectMeta: *b.meta.DeepCopy(),
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, ProgressDeadlineSeconds: &deadline,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{labelKey: key}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: annotations}, Spec: pod},
		},
	}, nil
}

// configDigest changes with every change of a file.
func configDigest(volumes []*containerv1.WorkloadVolume) string {
	var text strings.Builder
	for _, v := range volumes {
		fmt.Fprintf(&text, "%q\n", v.GetName())
		for _, file := range slices.Sorted(maps.Keys(v.GetConfig())) {
			fmt.Fprintf(&text, "%q: %q\n", file, v.GetConfig()[file])
		}
	}
	return digestOf([]byte(text.String()))
}

func container(c *containerv1.Container) (corev1.Container, error) {
	out := corev1.Container{
		Name: c.GetName(), Image: c.GetImage(), Command: c.GetCommand(), Args: c.GetArgs(),
		ReadinessProbe: healthProbe(c.GetReadinessProbe()), LivenessProbe: healthProbe(c.GetLivenessProbe()),
	}
	for _, p := range c.GetPorts() {
		out.Ports = append(out.Ports, corev1.ContainerPort{ContainerPort: p, Protocol: corev1.ProtocolTCP})
	}
	for _, name := range slices.Sorted(maps.Keys(c.GetEnv())) {
		out.Env = append(out.Env, corev1.EnvVar{Name: name, Value: c.GetEnv()[name]})
	}
	for _, m := range c.GetMounts() {
		out.VolumeMounts = append(out.VolumeMounts, corev1.VolumeMount{Name: m.GetVolume(), MountPath: m.GetPath(), ReadOnly: true})
	}
	var err error
	out.Resources, err = requirements(c.GetResources())
	return out, err
}

// requirements gives what a container needs and may use. The error names the field below resources.
func requirements(r *containerv1.ResourceRequirements) (corev1.ResourceRequirements, error) {
	out := corev1.ResourceRequirements{}
	for _, q := range []struct {
		field, value string
		name         corev1.ResourceName
		list         *corev1.ResourceList
	}{
		{"cpu", r.GetCpu(), corev1.ResourceCPU, &out.Requests},
		{"memory", r.GetMemory(), corev1.ResourceMemory, &out.Requests},
		{"cpuLimit", r.GetCpuLimit(), corev1.ResourceCPU, &out.Limits},
		{"memoryLimit", r.GetMemoryLimit(), corev1.ResourceMemory, &out.Limits},
	} {
		if q.value == "" {
			continue
		}
		parsed, err := apiresource.ParseQuantity(q.value)
		if err != nil {
			return out, fault.InField(q.field, "%q is no quantity; it should look like 250m or 64Mi", q.value)
		}
		if *q.list == nil {
			*q.list = corev1.ResourceList{}
		}
		(*q.list)[q.name] = parsed
		if limit, limited := out.Limits[q.name]; limited {
			if request, requested := out.Requests[q.name]; requested && request.Cmp(limit) > 0 {
				return out, fault.InField(q.field, "%s is less than the %s that is set aside", q.value, request.String())
			}
		}
	}
	return out, nil
}

func healthProbe(p *containerv1.Probe) *corev1.Probe {
	if p == nil {
		return nil
	}
	out := &corev1.Probe{InitialDelaySeconds: p.GetInitialDelaySeconds(), PeriodSeconds: p.GetPeriodSeconds(), FailureThreshold: p.GetFailureThreshold()}
	if out.PeriodSeconds == 0 {
		out.PeriodSeconds = 10
	}
	if out.FailureThreshold == 0 {
		out.FailureThreshold = 3
	}
	port := intstr.FromInt32(p.GetPort())
	if p.GetHttpPath() == "" {
		out.TCPSocket = &corev1.TCPSocketAction{Port: port}
		return out
	}
	out.HTTPGet = &corev1.HTTPGetAction{Path: p.GetHttpPath(), Port: port}
	return out
}

// configMapName gives the name of a volume's ConfigMap. The dot keeps workload web, volume a-b, apart from web-a, b.
func (b builder) configMapName(v *containerv1.WorkloadVolume) string {
	return b.name + "." + v.GetName()
}

func (b builder) configMap(v *containerv1.WorkloadVolume) *corev1.ConfigMap {
	out := &corev1.ConfigMap{TypeMeta: typeMeta(configMaps.GroupVersionKind), ObjectMeta: *b.meta.DeepCopy(), Data: v.GetConfig()}
	out.Name = b.configMapName(v)
	return out
}

// servicePorts gives the ports of all containers, in their order.
func (b builder) servicePorts() []corev1.ServicePort {
	var out []corev1.ServicePort
	for _, c := range b.spec.GetContainers() {
		for _, p := range c.GetPorts() {
			out = append(out, corev1.ServicePort{Name: fmt.Sprintf("tcp-%d", p), Port: p, TargetPort: intstr.FromInt32(p), Protocol: corev1.ProtocolTCP})
		}
	}
	return out
}

func (b builder) service(ports []corev1.ServicePort, key string) *corev1.Service {
	out := &corev1.Service{TypeMeta: typeMeta(services.GroupVersionKind), ObjectMeta: *b.meta.DeepCopy(), Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, Ports: ports, Selector: map[string]string{labelKey: key},
	}}
	if b.spec.GetExposure() == containerv1.Exposure_EXPOSURE_NODES {
		out.Spec.Type = corev1.ServiceTypeNodePort
		out.Annotations[annotationNodePort] = nodePortName(b.cluster)
		if n := b.cluster.GetNetwork(); n != "" {
			out.Annotations[annotationNodeNetwork] = n
		}
	}
	return out
}

// nodePortName gives how the ports of a cluster's nodes are named at the cloud.
func nodePortName(c *containerv1.ClusterSpec) string {
	if n := c.GetNodePortsNamed(); n != "" {
		return n
	}
	return "{node}"
}

// examineWorkload lists what is wrong with a spec in itself, each an Invalid fault that names the field.
func examineWorkload(spec *containerv1.WorkloadSpec) []error {
	var out []error
	bad := func(field, format string, args ...any) { out = append(out, fault.InField(field, format, args...)) }
	if len(spec.GetContainers()) == 0 {
		bad("spec.containers", "there must be at least one")
	}
	for k, v := range spec.GetLabels() {
		field := "spec.labels." + k
		if strings.HasPrefix(k, reserved) || k == labelManager {
			bad(field, "this label is set by Weft; choose another")
		}
		for _, why := range append(validation.IsQualifiedName(k), validation.IsValidLabelValue(v)...) {
			bad(field, "%s", why)
		}
	}
	volumes := map[string]bool{}
	for i, v := range spec.GetVolumes() {
		at := fmt.Sprintf("spec.volumes[%d]", i)
		if volumes[v.GetName()] {
			bad(at+".name", "two volumes are called %q", v.GetName())
		}
		volumes[v.GetName()] = true
		for _, why := range validation.IsDNS1123Label(v.GetName()) {
			bad(at+".name", "%s", why)
		}
		size := 0
		for _, file := range slices.Sorted(maps.Keys(v.GetConfig())) {
			size += len(v.GetConfig()[file])
			for _, why := range validation.IsConfigMapKey(file) {
				bad(at+".config."+file, "%s", why)
			}
		}
		if size > maxConfig {
			bad(at+".config", "its files are %d bytes; a volume of files holds at most %d", size, maxConfig)
		}
	}
	names, ports := map[string]bool{}, map[int32]string{}
	for i, c := range spec.GetContainers() {
		at := fmt.Sprintf("spec.containers[%d]", i)
		if names[c.GetName()] {
			bad(at+".name", "two containers are called %q", c.GetName())
		}
		names[c.GetName()] = true
		out = append(out, examineContainer(c, at, volumes, ports)...)
	}
	return out
}

// examineContainer lists what is wrong with a container; volumes are those of the workload, ports those of the containers
// before, which share their pod's address.
func examineContainer(c *containerv1.Container, at string, volumes map[string]bool, ports map[int32]string) []error {
	var out []error
	bad := func(field, format string, args ...any) {
		out = append(out, fault.InField(at+"."+field, format, args...))
	}
	for _, why := range validation.IsDNS1123Label(c.GetName()) {
		bad("name", "%s", why)
	}
	if err := examineImage(c.GetImage()); err != nil {
		bad("image", "%v", err)
	}
	for i, p := range c.GetPorts() {
		field := fmt.Sprintf("ports[%d]", i)
		if p < 1 || p > 65535 {
			bad(field, "%d is no port; it should be 1 to 65535", p)
		}
		if other, taken := ports[p]; taken {
			bad(field, "%d is a port of container %q already; the containers of a workload share one address", p, other)
		}
		ports[p] = c.GetName()
	}
	for _, name := range slices.Sorted(maps.Keys(c.GetEnv())) {
		for _, why := range validation.IsEnvVarName(name) {
			bad("env."+name, "%s", why)
		}
	}
	paths := map[string]bool{}
	for i, m := range c.GetMounts() {
		field := fmt.Sprintf("mounts[%d]", i)
		if !volumes[m.GetVolume()] {
			bad(field+".volume", "there is no volume %q in spec.volumes", m.GetVolume())
		}
		if paths[m.GetPath()] {
			bad(field+".path", "two volumes are mounted at %q", m.GetPath())
		}
		paths[m.GetPath()] = true
	}
	if _, err := requirements(c.GetResources()); err != nil {
		bad("resources."+fault.Field(err), "%v", err)
	}
	return out
}
