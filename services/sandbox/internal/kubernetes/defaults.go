package kubernetes

import (
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// fill sets a pointer that nobody set.
func fill[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

// fillValue sets a value that is zero.
func fillValue[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// setDefaults fills in what the API documentation of each kind calls the default. It may be called again on an object
// that has its defaults.
func setDefaults(obj runtime.Object) {
	switch o := obj.(type) {
	case *corev1.Namespace:
		if o.Name != "" {
			if o.Labels == nil {
				o.Labels = map[string]string{}
			}
			o.Labels[corev1.LabelMetadataName] = o.Name
		}
	case *corev1.Pod:
		defaultPod(o)
	case *corev1.Service:
		defaultService(o)
	case *corev1.Secret:
		defaultSecret(o)
	case *corev1.PersistentVolumeClaim:
		fill(&o.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
		fillValue(&o.Status.Phase, corev1.ClaimPending)
	case *corev1.PersistentVolume:
		fill(&o.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
		fillValue(&o.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
		fillValue(&o.Status.Phase, corev1.VolumePending)
	case *corev1.Endpoints:
		for i := range o.Subsets {
			for j := range o.Subsets[i].Ports {
				fillValue(&o.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
			}
		}
	case *appsv1.Deployment:
		defaultDeployment(o)
	case *appsv1.ReplicaSet:
		fill(&o.Spec.Replicas, 1)
		defaultTemplate(&o.Spec.Template.Spec)
	case *appsv1.StatefulSet:
		defaultStatefulSet(o)
	case *appsv1.DaemonSet:
		defaultDaemonSet(o)
	case *batchv1.Job:
		defaultJob(&o.Spec)
		if len(o.Labels) == 0 && o.Name != "" {
			o.Labels = cloneLabels(o.Spec.Template.Labels)
		}
	case *batchv1.CronJob:
		fillValue(&o.Spec.ConcurrencyPolicy, batchv1.AllowConcurrent)
		fill(&o.Spec.Suspend, false)
		fill(&o.Spec.SuccessfulJobsHistoryLimit, 3)
		fill(&o.Spec.FailedJobsHistoryLimit, 1)
		defaultTemplate(&o.Spec.JobTemplate.Spec.Template.Spec)
	default:
		defaultOthers(obj)
	}
}

func defaultOthers(obj runtime.Object) {
	switch o := obj.(type) {
	case *networkingv1.NetworkPolicy:
		if len(o.Spec.PolicyTypes) == 0 {
			o.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
			if len(o.Spec.Egress) > 0 {
				o.Spec.PolicyTypes = append(o.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
			}
		}
		for i := range o.Spec.Ingress {
			defaultPolicyPorts(o.Spec.Ingress[i].Ports)
		}
		for i := range o.Spec.Egress {
			defaultPolicyPorts(o.Spec.Egress[i].Ports)
		}
	case *rbacv1.RoleBinding:
		fillValue(&o.RoleRef.APIGroup, rbacv1.GroupName)
		defaultSubjects(o.Subjects)
	case *rbacv1.ClusterRoleBinding:
		fillValue(&o.RoleRef.APIGroup, rbacv1.GroupName)
		defaultSubjects(o.Subjects)
	case *storagev1.StorageClass:
		fill(&o.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
		fill(&o.VolumeBindingMode, storagev1.VolumeBindingImmediate)
	case *autoscalingv2.HorizontalPodAutoscaler:
		defaultAutoscaler(o)
	case *discoveryv1.EndpointSlice:
		for i := range o.Ports {
			fill(&o.Ports[i].Name, "")
			fill(&o.Ports[i].Protocol, corev1.ProtocolTCP)
		}
	case *apiextensionsv1.CustomResourceDefinition:
		defaultDefinition(o)
	}
}

func defaultAutoscaler(o *autoscalingv2.HorizontalPodAutoscaler) {
	fill(&o.Spec.MinReplicas, 1)
	if len(o.Spec.Metrics) > 0 {
		return
	}
	percent := int32(80)
	o.Spec.Metrics = []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
	}}}
}

func defaultDefinition(o *apiextensionsv1.CustomResourceDefinition) {
	fillValue(&o.Spec.Names.Singular, strings.ToLower(o.Spec.Names.Kind))
	fillValue(&o.Spec.Names.ListKind, o.Spec.Names.Kind+"List")
	if o.Spec.Conversion == nil {
		o.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.NoneConverter}
	}
}

func defaultPolicyPorts(ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		fill(&ports[i].Protocol, corev1.ProtocolTCP)
	}
}

func defaultSubjects(subjects []rbacv1.Subject) {
	for i := range subjects {
		if subjects[i].Kind == rbacv1.UserKind || subjects[i].Kind == rbacv1.GroupKind {
			fillValue(&subjects[i].APIGroup, rbacv1.GroupName)
		}
	}
}

func cloneLabels(in map[string]string) map[string]string {
	if in == nil {
		return nil
	}
	out := make(map[string]string, len(in))
	for k, v := range in {
		out[k] = v
	}
	return out
}

func defaultDeployment(o *appsv1.Deployment) {
	fill(&o.Spec.Replicas, 1)
	fill(&o.Spec.RevisionHistoryLimit, 10)
	fill(&o.Spec.ProgressDeadlineSeconds, 600)
	fillValue(&o.Spec.Strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if o.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		if o.Spec.Strategy.RollingUpdate == nil {
			o.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{}
		}
		fill(&o.Spec.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		fill(&o.Spec.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	defaultTemplate(&o.Spec.Template.Spec)
}

func defaultStatefulSet(o *appsv1.StatefulSet) {
	fill(&o.Spec.Replicas, 1)
	fill(&o.Spec.RevisionHistoryLimit, 10)
	fillValue(&o.Spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	fillValue(&o.Spec.UpdateStrategy.Type, appsv1.RollingUpdateStatefulSetStrategyType)
	if o.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		if o.Spec.UpdateStrategy.RollingUpdate == nil {
			o.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{}
		}
		fill(&o.Spec.UpdateStrategy.RollingUpdate.Partition, 0)
	}
	if o.Spec.PersistentVolumeClaimRetentionPolicy == nil {
		o.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{}
	}
	fillValue(&o.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	fillValue(&o.Spec.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	for i := range o.Spec.VolumeClaimTemplates {
		claim := &o.Spec.VolumeClaimTemplates[i]
		claim.Kind, claim.APIVersion = "PersistentVolumeClaim", "v1"
		fill(&claim.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
		fillValue(&claim.Status.Phase, corev1.ClaimPending)
	}
	defaultTemplate(&o.Spec.Template.Spec)
}

func defaultDaemonSet(o *appsv1.DaemonSet) {
	fill(&o.Spec.RevisionHistoryLimit, 10)
	fillValue(&o.Spec.UpdateStrategy.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if o.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		if o.Spec.UpdateStrategy.RollingUpdate == nil {
			o.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{}
		}
		fill(&o.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		fill(&o.Spec.UpdateStrategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
	defaultTemplate(&o.Spec.Template.Spec)
}

func defaultJob(spec *batchv1.JobSpec) {
	if spec.Completions == nil && spec.Parallelism == nil {
		fill(&spec.Completions, 1)
	}
	fill(&spec.Parallelism, 1)
	fill(&spec.BackoffLimit, 6)
	fill(&spec.CompletionMode, batchv1.NonIndexedCompletion)
	fill(&spec.Suspend, false)
	fill(&spec.ManualSelector, false)
	if !*spec.ManualSelector {
		spec.ManualSelector = nil
	}
	fill(&spec.PodReplacementPolicy, batchv1.TerminatingOrFailed)
	defaultTemplate(&spec.Template.Spec)
}

func defaultSecret(o *corev1.Secret) {
	fillValue(&o.Type, corev1.SecretTypeOpaque)
	for k, v := range o.StringData {
		if o.Data == nil {
			o.Data = map[string][]byte{}
		}
		o.Data[k] = []byte(v)
	}
	o.StringData = nil // write-only
}

func defaultService(o *corev1.Service) {
	fillValue(&o.Spec.SessionAffinity, corev1.ServiceAffinityNone)
	fillValue(&o.Spec.Type, corev1.ServiceTypeClusterIP)
	for i := range o.Spec.Ports {
		p := &o.Spec.Ports[i]
		fillValue(&p.Protocol, corev1.ProtocolTCP)
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if o.Spec.Type == corev1.ServiceTypeNodePort || o.Spec.Type == corev1.ServiceTypeLoadBalancer {
		fillValue(&o.Spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if o.Spec.Type == corev1.ServiceTypeLoadBalancer {
		fill(&o.Spec.AllocateLoadBalancerNodePorts, true)
	}
	if o.Spec.Type == corev1.ServiceTypeExternalName {
		return
	}
	fill(&o.Spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	fill(&o.Spec.IPFamilyPolicy, corev1.IPFamilyPolicySingleStack)
	if len(o.Spec.IPFamilies) == 0 {
		o.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	if o.Spec.SessionAffinity == corev1.ServiceAffinityClientIP && o.Spec.SessionAffinityConfig == nil {
		seconds := int32(10800)
		o.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
}

func defaultPod(o *corev1.Pod) {
	fill(&o.Spec.EnableServiceLinks, true)
	fillValue(&o.Spec.ServiceAccountName, "default")
	o.Spec.DeprecatedServiceAccount = o.Spec.ServiceAccountName
	fill(&o.Spec.PreemptionPolicy, corev1.PreemptLowerPriority)
	fill(&o.Spec.Priority, 0)
	for i := range o.Spec.Containers {
		c := &o.Spec.Containers[i]
		for name, limit := range c.Resources.Limits {
			if _, set := c.Resources.Requests[name]; set {
				continue
			}
			if c.Resources.Requests == nil {
				c.Resources.Requests = corev1.ResourceList{}
			}
			c.Resources.Requests[name] = limit
		}
	}
	if len(o.Spec.Tolerations) == 0 {
		seconds := int64(300)
		for _, key := range []string{"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"} {
			o.Spec.Tolerations = append(o.Spec.Tolerations, corev1.Toleration{
				Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds,
			})
		}
	}
	defaultTemplate(&o.Spec)
}

// defaultTemplate fills in a pod's spec as it stands in a template.
func defaultTemplate(spec *corev1.PodSpec) {
	fillValue(&spec.RestartPolicy, corev1.RestartPolicyAlways)
	fillValue(&spec.DNSPolicy, corev1.DNSClusterFirst)
	fillValue(&spec.SchedulerName, corev1.DefaultSchedulerName)
	fill(&spec.TerminationGracePeriodSeconds, int64(corev1.DefaultTerminationGracePeriodSeconds))
	fill(&spec.SecurityContext, corev1.PodSecurityContext{})
	if spec.ServiceAccountName == "" {
		spec.ServiceAccountName = spec.DeprecatedServiceAccount
	}
	spec.DeprecatedServiceAccount = spec.ServiceAccountName
	for i := range spec.InitContainers {
		defaultContainer(&spec.InitContainers[i])
	}
	for i := range spec.Containers {
		defaultContainer(&spec.Containers[i])
	}
	for i := range spec.Volumes {
		defaultVolume(&spec.Volumes[i].VolumeSource)
	}
}

func defaultContainer(c *corev1.Container) {
	policy := corev1.PullIfNotPresent
	if tag := imageTag(c.Image); tag == "latest" || tag == "" {
		policy = corev1.PullAlways
	}
	fillValue(&c.ImagePullPolicy, policy)
	fillValue(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	fillValue(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		fillValue(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil && from.FieldRef != nil {
			fillValue(&from.FieldRef.APIVersion, "v1")
		}
	}
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		defaultProbe(p)
	}
}

func defaultProbe(p *corev1.Probe) {
	if p == nil {
		return
	}
	fillValue(&p.TimeoutSeconds, 1)
	fillValue(&p.PeriodSeconds, 10)
	fillValue(&p.SuccessThreshold, 1)
	fillValue(&p.FailureThreshold, 3)
	if p.HTTPGet != nil {
		fillValue(&p.HTTPGet.Path, "/")
		fillValue(&p.HTTPGet.Scheme, corev1.URISchemeHTTP)
	}
	if p.GRPC != nil {
		fill(&p.GRPC.Service, "")
	}
}

// imageTag yields the tag of an image name, the digest's algorithm when it is pinned, and nothing when it has neither.
func imageTag(image string) string {
	if _, digest, pinned := strings.Cut(image, "@"); pinned {
		return digest
	}
	last := image[strings.LastIndex(image, "/")+1:]
	_, tag, _ := strings.Cut(last, ":")
	return tag
}

func defaultVolume(v *corev1.VolumeSource) {
	mode := int32(0o644)
	switch {
	case v.Secret != nil:
		fill(&v.Secret.DefaultMode, mode)
	case v.ConfigMap != nil:
		fill(&v.ConfigMap.DefaultMode, mode)
	case v.Projected != nil:
		fill(&v.Projected.DefaultMode, mode)
		for i := range v.Projected.Sources {
			if token := v.Projected.Sources[i].ServiceAccountToken; token != nil {
				fill(&token.ExpirationSeconds, int64(3600))
			}
		}
	case v.DownwardAPI != nil:
		fill(&v.DownwardAPI.DefaultMode, mode)
	case v.HostPath != nil:
		fill(&v.HostPath.Type, corev1.HostPathUnset)
	case *v == corev1.VolumeSource{}:
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
}
