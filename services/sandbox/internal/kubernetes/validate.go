package kubernetes

import (
	"fmt"
	"reflect"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validate finds what a real server would refuse in an object; live is nil for a new one. It covers metadata of every
// kind and the fields of specs that people get wrong.
func (s *Server) validate(r *resource, obj, live runtime.Object) field.ErrorList {
	acc, err := meta.Accessor(obj)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	errs := validation.ValidateObjectMetaAccessor(acc, r.namespaced, nameRule(r), field.NewPath("metadata"))
	if acc.GetName() == "" && acc.GetGenerateName() == "" {
		errs = field.ErrorList{field.Required(field.NewPath("metadata", "name"), "name or generateName is required")}
	}
	if live != nil {
		errs = append(errs, s.validateChange(obj, live)...)
	}
	spec := field.NewPath("spec")
	switch o := obj.(type) {
	case *corev1.Pod:
		errs = append(errs, validatePodSpec(&o.Spec, spec)...)
	case *corev1.Service:
		errs = append(errs, validateService(o)...)
	case *corev1.ConfigMap:
		errs = append(errs, validateConfigMap(o)...)
	case *corev1.Secret:
		errs = append(errs, validateSecret(o)...)
	case *corev1.PersistentVolumeClaim:
		errs = append(errs, validateClaim(&o.Spec, spec)...)
	case *appsv1.Deployment:
		errs = append(errs, validateReplicas(o.Spec.Replicas, spec)...)
		errs = append(errs, validateWorkload(o.Spec.Selector, &o.Spec.Template, spec)...)
		errs = append(errs, validateStrategy(&o.Spec, spec)...)
	case *appsv1.ReplicaSet:
		errs = append(errs, validateReplicas(o.Spec.Replicas, spec)...)
		errs = append(errs, validateWorkload(o.Spec.Selector, &o.Spec.Template, spec)...)
	case *appsv1.StatefulSet:
		errs = append(errs, validateReplicas(o.Spec.Replicas, spec)...)
		template := o.Spec.Template.DeepCopy()
		for _, claim := range o.Spec.VolumeClaimTemplates { // each is a volume of every pod
			template.Spec.Volumes = append(template.Spec.Volumes, corev1.Volume{Name: claim.Name})
		}
		errs = append(errs, validateWorkload(o.Spec.Selector, template, spec)...)
	case *appsv1.DaemonSet:
		errs = append(errs, validateWorkload(o.Spec.Selector, &o.Spec.Template, spec)...)
	case *batchv1.Job:
		errs = append(errs, validateJob(&o.Spec, spec)...)
	case *batchv1.CronJob:
		errs = append(errs, validateCronJob(o)...)
	case *networkingv1.Ingress:
		errs = append(errs, validateIngress(o)...)
	case *apiextensionsv1.CustomResourceDefinition:
		errs = append(errs, s.validateDefinition(o)...)
	case *unstructured.Unstructured:
		errs = append(errs, validateCustom(r, o)...)
	}
	return errs
}

// nameRule is how objects of a resource may be called.
func nameRule(r *resource) validation.ValidateNameFunc {
	switch r.gvk.Group {
	case rbacv1.GroupName:
		return path.ValidatePathSegmentName
	}
	switch r.storageKey() {
	case "namespaces":
		return validation.ValidateNamespaceName
	case "services", "statefulsets.apps":
		return validation.NameIsDNSLabel
	}
	return validation.NameIsDNSSubdomain
}

// immutable demands that a field keeps its value.
func immutable(next, live any, at *field.Path) field.ErrorList {
	return validation.ValidateImmutableField(next, live, at)
}

func (s *Server) validateChange(obj, live runtime.Object) field.ErrorList {
	spec := field.NewPath("spec")
	switch o := obj.(type) {
	case *appsv1.Deployment:
		return immutable(o.Spec.Selector, live.(*appsv1.Deployment).Spec.Selector, spec.Child("selector"))
	case *appsv1.ReplicaSet:
		return immutable(o.Spec.Selector, live.(*appsv1.ReplicaSet).Spec.Selector, spec.Child("selector"))
	case *appsv1.DaemonSet:
		return immutable(o.Spec.Selector, live.(*appsv1.DaemonSet).Spec.Selector, spec.Child("selector"))
	case *appsv1.StatefulSet:
		return changedStatefulSet(&o.Spec, &live.(*appsv1.StatefulSet).Spec, spec)
	case *batchv1.Job:
		old := live.(*batchv1.Job)
		errs := immutable(o.Spec.Completions, old.Spec.Completions, spec.Child("completions"))
		errs = append(errs, immutable(o.Spec.Selector, old.Spec.Selector, spec.Child("selector"))...)
		if old.Spec.Suspend == nil || !*old.Spec.Suspend {
			errs = append(errs, immutable(o.Spec.Template, old.Spec.Template, spec.Child("template"))...)
		}
		return errs
	case *corev1.Service:
		return changedService(o, live.(*corev1.Service))
	case *corev1.Pod:
		return changedPod(o, live.(*corev1.Pod))
	case *corev1.ConfigMap:
		return changedConfigMap(o, live.(*corev1.ConfigMap))
	case *corev1.Secret:
		return changedSecret(o, live.(*corev1.Secret))
	case *corev1.PersistentVolumeClaim:
		return changedClaim(o, live.(*corev1.PersistentVolumeClaim))
	case *rbacv1.RoleBinding:
		return cannotChange(o.RoleRef, live.(*rbacv1.RoleBinding).RoleRef)
	case *rbacv1.ClusterRoleBinding:
		return cannotChange(o.RoleRef, live.(*rbacv1.ClusterRoleBinding).RoleRef)
	}
	return nil
}

func cannotChange(next, old rbacv1.RoleRef) field.ErrorList {
	if next == old {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("roleRef"), next, "cannot change roleRef")}
}

func changedStatefulSet(next, old *appsv1.StatefulSetSpec, spec *field.Path) field.ErrorList {
	a, b := next.DeepCopy(), old.DeepCopy()
	b.Replicas, b.Template, b.UpdateStrategy = a.Replicas, a.Template, a.UpdateStrategy
	b.MinReadySeconds, b.PersistentVolumeClaimRetentionPolicy = a.MinReadySeconds, a.PersistentVolumeClaimRetentionPolicy
	b.Ordinals, b.RevisionHistoryLimit = a.Ordinals, a.RevisionHistoryLimit
	if reflect.DeepEqual(a, b) {
		return nil
	}
	return field.ErrorList{field.Forbidden(spec, "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden")}
}

func changedService(next, old *corev1.Service) field.ErrorList {
	if next.Spec.Type == corev1.ServiceTypeExternalName || old.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	if old.Spec.ClusterIP == "" || next.Spec.ClusterIP == old.Spec.ClusterIP {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("spec", "clusterIPs").Index(0), []string{next.Spec.ClusterIP},
		"may not change once set")}
}

func changedPod(next, old *corev1.Pod) field.ErrorList {
	a, b := next.Spec.DeepCopy(), old.Spec.DeepCopy()
	if len(a.Containers) != len(b.Containers) {
		return field.ErrorList{field.Forbidden(field.NewPath("spec", "containers"), "pod updates may not add or remove containers")}
	}
	for i := range b.Containers {
		b.Containers[i].Image = a.Containers[i].Image
	}
	for i := range b.InitContainers {
		if i < len(a.InitContainers) {
			b.InitContainers[i].Image = a.InitContainers[i].Image
		}
	}
	b.ActiveDeadlineSeconds, b.Tolerations, b.SchedulingGates = a.ActiveDeadlineSeconds, a.Tolerations, a.SchedulingGates
	b.TerminationGracePeriodSeconds = a.TerminationGracePeriodSeconds
	if old.Spec.NodeName == "" {
		b.NodeName = a.NodeName
	}
	if reflect.DeepEqual(a, b) {
		return nil
	}
	return field.ErrorList{field.Forbidden(field.NewPath("spec"), "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n")}
}

func changedConfigMap(next, old *corev1.ConfigMap) field.ErrorList {
	if old.Immutable == nil || !*old.Immutable {
		return nil
	}
	var errs field.ErrorList
	if next.Immutable == nil || !*next.Immutable {
		errs = append(errs, field.Forbidden(field.NewPath("immutable"), "field is immutable when `immutable` is set"))
	}
	if !reflect.DeepEqual(next.Data, old.Data) {
		errs = append(errs, field.Forbidden(field.NewPath("data"), "field is immutable when `immutable` is set"))
	}
	return errs
}

func changedSecret(next, old *corev1.Secret) field.ErrorList {
	errs := immutable(next.Type, old.Type, field.NewPath("type"))
	if old.Immutable != nil && *old.Immutable && !reflect.DeepEqual(next.Data, old.Data) {
		errs = append(errs, field.Forbidden(field.NewPath("data"), "field is immutable when `immutable` is set"))
	}
	return errs
}

func changedClaim(next, old *corev1.PersistentVolumeClaim) field.ErrorList {
	a, b := next.Spec.DeepCopy(), old.Spec.DeepCopy()
	if b.VolumeName == "" {
		b.VolumeName = a.VolumeName
	}
	if b.StorageClassName == nil {
		b.StorageClassName = a.StorageClassName
	}
	wanted, had := a.Resources.Requests[corev1.ResourceStorage], b.Resources.Requests[corev1.ResourceStorage]
	b.Resources, b.VolumeAttributesClassName = a.Resources, a.VolumeAttributesClassName
	if !reflect.DeepEqual(a, b) {
		return field.ErrorList{field.Forbidden(field.NewPath("spec"), "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims")}
	}
	if wanted.Cmp(had) < 0 {
		return field.ErrorList{field.Forbidden(field.NewPath("spec", "resources", "requests", "storage"), "field can not be less than status.capacity")}
	}
	return nil
}

func validateReplicas(replicas *int32, spec *field.Path) field.ErrorList {
	if replicas == nil {
		return nil
	}
	return validation.ValidateNonnegativeField(int64(*replicas), spec.Child("replicas"))
}

// validateWorkload checks a selector and the template that it must select.
func validateWorkload(selector *metav1.LabelSelector, template *corev1.PodTemplateSpec, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := spec.Child("selector")
	if selector == nil {
		errs = append(errs, field.Required(at, ""))
	}
	if selector != nil {
		errs = append(errs, metav1validation.ValidateLabelSelector(selector, metav1validation.LabelSelectorValidationOptions{}, at)...)
		if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
			errs = append(errs, field.Invalid(at, selector, "empty selector is invalid for deployment"))
		}
	}
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return append(errs, field.Invalid(at, selector, "invalid label selector"))
	}
	if selector == nil || !parsed.Matches(labels.Set(template.Labels)) {
		errs = append(errs, field.Invalid(spec.Child("template", "metadata", "labels"), template.Labels, "`selector` does not match template `labels`"))
	}
	errs = append(errs, metav1validation.ValidateLabels(template.Labels, spec.Child("template", "metadata", "labels"))...)
	if template.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(spec.Child("template", "spec", "restartPolicy"), template.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	return append(errs, validatePodSpec(&template.Spec, spec.Child("template", "spec"))...)
}

func validateStrategy(spec *appsv1.DeploymentSpec, at *field.Path) field.ErrorList {
	strategy := at.Child("strategy")
	switch spec.Strategy.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if spec.Strategy.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(strategy.Child("rollingUpdate"), "may not be specified when strategy `type` is 'Recreate'")}
		}
		return nil
	case appsv1.RollingUpdateDeploymentStrategyType:
	default:
		return field.ErrorList{field.NotSupported(strategy, spec.Strategy, []appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType})}
	}
	var errs field.ErrorList
	ru := spec.Strategy.RollingUpdate
	surge, errA := intstr.GetScaledValueFromIntOrPercent(ru.MaxSurge, 100, true)
	unavailable, errB := intstr.GetScaledValueFromIntOrPercent(ru.MaxUnavailable, 100, true)
	if errA != nil {
		errs = append(errs, field.Invalid(strategy.Child("rollingUpdate", "maxSurge"), ru.MaxSurge, "must be an integer or percentage (e.g '5%%')"))
	}
	if errB != nil {
		errs = append(errs, field.Invalid(strategy.Child("rollingUpdate", "maxUnavailable"), ru.MaxUnavailable, "must be an integer or percentage (e.g '5%%')"))
	}
	if errA == nil && errB == nil && surge == 0 && unavailable == 0 {
		errs = append(errs, field.Invalid(strategy.Child("rollingUpdate", "maxUnavailable"), ru.MaxUnavailable, "may not be 0 when `maxSurge` is 0"))
	}
	if spec.ProgressDeadlineSeconds != nil && *spec.ProgressDeadlineSeconds <= spec.MinReadySeconds {
		errs = append(errs, field.Invalid(at.Child("progressDeadlineSeconds"), *spec.ProgressDeadlineSeconds, "must be greater than minReadySeconds"))
	}
	return errs
}

func validatePodSpec(spec *corev1.PodSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(spec.Containers) == 0 {
		errs = append(errs, field.Required(at.Child("containers"), ""))
	}
	volumes := map[string]bool{}
	for i, v := range spec.Volumes {
		p := at.Child("volumes").Index(i)
		if v.Name == "" {
			errs = append(errs, field.Required(p.Child("name"), ""))
			continue
		}
		for _, msg := range utilvalidation.IsDNS1123Label(v.Name) {
			errs = append(errs, field.Invalid(p.Child("name"), v.Name, msg))
		}
		if volumes[v.Name] {
			errs = append(errs, field.Duplicate(p.Child("name"), v.Name))
		}
		volumes[v.Name] = true
		errs = append(errs, validateVolume(v, p)...)
	}
	names := map[string]bool{}
	for i := range spec.Containers {
		errs = append(errs, validateContainer(&spec.Containers[i], names, volumes, at.Child("containers").Index(i))...)
	}
	for i := range spec.InitContainers {
		errs = append(errs, validateContainer(&spec.InitContainers[i], names, volumes, at.Child("initContainers").Index(i))...)
	}
	switch spec.RestartPolicy {
	case corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever:
	default:
		errs = append(errs, field.NotSupported(at.Child("restartPolicy"), spec.RestartPolicy,
			[]corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}))
	}
	return errs
}

func validateVolume(v corev1.Volume, at *field.Path) field.ErrorList {
	switch {
	case v.Secret != nil && v.Secret.SecretName == "":
		return field.ErrorList{field.Required(at.Child("secret", "secretName"), "")}
	case v.ConfigMap != nil && v.ConfigMap.Name == "":
		return field.ErrorList{field.Required(at.Child("configMap", "name"), "")}
	case v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == "":
		return field.ErrorList{field.Required(at.Child("persistentVolumeClaim", "claimName"), "")}
	}
	return nil
}

func validateContainer(c *corev1.Container, names, volumes map[string]bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	if c.Name != "" {
		for _, msg := range utilvalidation.IsDNS1123Label(c.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), c.Name, msg))
		}
		if names[c.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		names[c.Name] = true
	}
	if c.Image == "" {
		errs = append(errs, field.Required(at.Child("image"), ""))
	}
	if c.Image != strings.TrimSpace(c.Image) {
		errs = append(errs, field.Invalid(at.Child("image"), c.Image, "must not have leading or trailing whitespace"))
	}
	for i, p := range c.Ports {
		errs = append(errs, validateContainerPort(p, at.Child("ports").Index(i))...)
	}
	for i, e := range c.Env {
		p := at.Child("env").Index(i)
		if e.Name == "" {
			errs = append(errs, field.Required(p.Child("name"), ""))
		}
		if e.Value != "" && e.ValueFrom != nil {
			errs = append(errs, field.Invalid(p.Child("valueFrom"), "", "may not be specified when `value` is not empty"))
		}
	}
	for i, m := range c.VolumeMounts {
		p := at.Child("volumeMounts").Index(i)
		if m.Name == "" {
			errs = append(errs, field.Required(p.Child("name"), ""))
		}
		if m.Name != "" && !volumes[m.Name] {
			errs = append(errs, field.NotFound(p.Child("name"), m.Name))
		}
		if m.MountPath == "" {
			errs = append(errs, field.Required(p.Child("mountPath"), ""))
		}
	}
	errs = append(errs, validateResources(c.Resources, at.Child("resources"))...)
	return append(errs, validateProbes(c, at)...)
}

func validateProbes(c *corev1.Container, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	probes := map[string]*corev1.Probe{"livenessProbe": c.LivenessProbe, "readinessProbe": c.ReadinessProbe, "startupProbe": c.StartupProbe}
	for _, name := range []string{"livenessProbe", "readinessProbe", "startupProbe"} {
		p := probes[name]
		if p == nil {
			continue
		}
		if p.HTTPGet == nil && p.TCPSocket == nil && p.Exec == nil && p.GRPC == nil {
			errs = append(errs, field.Required(at.Child(name), "must specify a handler type"))
		}
		if name == "livenessProbe" && p.SuccessThreshold != 1 {
			errs = append(errs, field.Invalid(at.Child(name, "successThreshold"), p.SuccessThreshold, "must be 1"))
		}
	}
	return errs
}

func validateResources(r corev1.ResourceRequirements, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for name, q := range r.Requests {
		if limit, ok := r.Limits[name]; ok && q.Cmp(limit) > 0 {
			errs = append(errs, field.Invalid(at.Child("requests"), q.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		}
		if q.Sign() < 0 {
			errs = append(errs, field.Invalid(at.Child("requests").Key(string(name)), q.String(), "must be greater than or equal to 0"))
		}
	}
	for name, q := range r.Limits {
		if q.Sign() < 0 {
			errs = append(errs, field.Invalid(at.Child("limits").Key(string(name)), q.String(), "must be greater than or equal to 0"))
		}
	}
	return errs
}

func validateContainerPort(p corev1.ContainerPort, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p.ContainerPort == 0 {
		errs = append(errs, field.Required(at.Child("containerPort"), ""))
	}
	if p.ContainerPort != 0 {
		for _, msg := range utilvalidation.IsValidPortNum(int(p.ContainerPort)) {
			errs = append(errs, field.Invalid(at.Child("containerPort"), p.ContainerPort, msg))
		}
	}
	if p.Name != "" {
		for _, msg := range utilvalidation.IsValidPortName(p.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), p.Name, msg))
		}
	}
	return append(errs, validateProtocol(p.Protocol, at)...)
}

func validateProtocol(p corev1.Protocol, at *field.Path) field.ErrorList {
	switch p {
	case corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
		return nil
	}
	return field.ErrorList{field.NotSupported(at.Child("protocol"), p, []corev1.Protocol{corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP})}
}

func validateService(o *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	switch o.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
	case corev1.ServiceTypeExternalName:
		if o.Spec.ExternalName == "" {
			errs = append(errs, field.Required(spec.Child("externalName"), ""))
		}
		return errs
	default:
		errs = append(errs, field.NotSupported(spec.Child("type"), o.Spec.Type, []corev1.ServiceType{
			corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort,
		}))
	}
	if len(o.Spec.Ports) == 0 && o.Spec.ClusterIP != corev1.ClusterIPNone {
		errs = append(errs, field.Required(spec.Child("ports"), ""))
	}
	names, pairs := map[string]bool{}, map[string]bool{}
	for i, p := range o.Spec.Ports {
		at := spec.Child("ports").Index(i)
		errs = append(errs, validateServicePort(o, p, len(o.Spec.Ports) > 1, at)...)
		if p.Name != "" && names[p.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
		}
		pair := fmt.Sprintf("%s/%d", p.Protocol, p.Port)
		if pairs[pair] {
			errs = append(errs, field.Duplicate(at, fmt.Sprintf("%d/%s", p.Port, p.Protocol)))
		}
		names[p.Name], pairs[pair] = true, true
	}
	return append(errs, metav1validation.ValidateLabels(o.Spec.Selector, spec.Child("selector"))...)
}

func validateServicePort(o *corev1.Service, p corev1.ServicePort, named bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if named && p.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), ""))
	}
	if p.Name != "" {
		for _, msg := range utilvalidation.IsDNS1123Label(p.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), p.Name, msg))
		}
	}
	for _, msg := range utilvalidation.IsValidPortNum(int(p.Port)) {
		errs = append(errs, field.Invalid(at.Child("port"), p.Port, msg))
	}
	if p.TargetPort.Type == intstr.Int {
		for _, msg := range utilvalidation.IsValidPortNum(int(p.TargetPort.IntVal)) {
			errs = append(errs, field.Invalid(at.Child("targetPort"), p.TargetPort.IntVal, msg))
		}
	}
	if p.TargetPort.Type == intstr.String {
		for _, msg := range utilvalidation.IsValidPortName(p.TargetPort.StrVal) {
			errs = append(errs, field.Invalid(at.Child("targetPort"), p.TargetPort.StrVal, msg))
		}
	}
	if p.NodePort != 0 && o.Spec.Type == corev1.ServiceTypeClusterIP {
		errs = append(errs, field.Forbidden(at.Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
	}
	return append(errs, validateProtocol(p.Protocol, at)...)
}

func validateConfigMap(o *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	size := 0
	for k, v := range o.Data {
		errs = append(errs, validateKey(k, field.NewPath("data"))...)
		size += len(v)
	}
	for k, v := range o.BinaryData {
		errs = append(errs, validateKey(k, field.NewPath("binaryData"))...)
		size += len(v)
	}
	return append(errs, tooLong(size, field.NewPath(""))...)
}

func validateSecret(o *corev1.Secret) field.ErrorList {
	var errs field.ErrorList
	size := 0
	for k, v := range o.Data {
		errs = append(errs, validateKey(k, field.NewPath("data"))...)
		size += len(v)
	}
	required := map[corev1.SecretType][]string{
		corev1.SecretTypeTLS:              {corev1.TLSCertKey, corev1.TLSPrivateKeyKey},
		corev1.SecretTypeDockerConfigJson: {corev1.DockerConfigJsonKey},
	}
	for _, key := range required[o.Type] {
		if _, ok := o.Data[key]; !ok {
			errs = append(errs, field.Required(field.NewPath("data").Key(key), ""))
		}
	}
	return append(errs, tooLong(size, field.NewPath("data"))...)
}

func validateKey(key string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range utilvalidation.IsConfigMapKey(key) {
		errs = append(errs, field.Invalid(at.Key(key), key, msg))
	}
	return errs
}

func tooLong(size int, at *field.Path) field.ErrorList {
	if size <= corev1.MaxSecretSize {
		return nil
	}
	return field.ErrorList{field.TooLong(at, "", corev1.MaxSecretSize)}
}

func validateClaim(spec *corev1.PersistentVolumeClaimSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(spec.AccessModes) == 0 {
		errs = append(errs, field.Required(at.Child("accessModes"), "at least 1 access mode is required"))
	}
	for _, mode := range spec.AccessModes {
		switch mode {
		case corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOncePod:
		default:
			errs = append(errs, field.NotSupported(at.Child("accessModes"), mode, []corev1.PersistentVolumeAccessMode{
				corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod,
			}))
		}
	}
	size, ok := spec.Resources.Requests[corev1.ResourceStorage]
	if !ok {
		return append(errs, field.Required(at.Child("resources").Key(string(corev1.ResourceStorage)), ""))
	}
	if size.Sign() <= 0 {
		errs = append(errs, field.Invalid(at.Child("resources").Key(string(corev1.ResourceStorage)), size.String(), "must be greater than zero"))
	}
	return errs
}

func validateJob(spec *batchv1.JobSpec, at *field.Path) field.ErrorList {
	errs := validatePodSpec(&spec.Template.Spec, at.Child("template", "spec"))
	if p := spec.Template.Spec.RestartPolicy; p != corev1.RestartPolicyNever && p != corev1.RestartPolicyOnFailure {
		errs = append(errs, field.Required(at.Child("template", "spec", "restartPolicy"), `valid values: "OnFailure", "Never"`))
	}
	for _, n := range []struct {
		name  string
		value *int32
	}{{"parallelism", spec.Parallelism}, {"completions", spec.Completions}, {"backoffLimit", spec.BackoffLimit}} {
		if n.value != nil {
			errs = append(errs, validation.ValidateNonnegativeField(int64(*n.value), at.Child(n.name))...)
		}
	}
	return errs
}

func validateCronJob(o *batchv1.CronJob) field.ErrorList {
	at := field.NewPath("spec")
	if o.Spec.Schedule == "" {
		return field.ErrorList{field.Required(at.Child("schedule"), "")}
	}
	var errs field.ErrorList
	if _, err := parseSchedule(o.Spec.Schedule, ""); err != nil {
		errs = append(errs, field.Invalid(at.Child("schedule"), o.Spec.Schedule, err.Error()))
	}
	return append(errs, validateJob(&o.Spec.JobTemplate.Spec, at.Child("jobTemplate", "spec"))...)
}

func validateIngress(o *networkingv1.Ingress) field.ErrorList {
	spec := field.NewPath("spec")
	if len(o.Spec.Rules) == 0 && o.Spec.DefaultBackend == nil {
		return field.ErrorList{field.Invalid(spec, []networkingv1.IngressRule(nil), "either `defaultBackend` or `rules` must be specified")}
	}
	var errs field.ErrorList
	for i, rule := range o.Spec.Rules {
		if rule.HTTP == nil {
			continue
		}
		for j, p := range rule.HTTP.Paths {
			at := spec.Child("rules").Index(i).Child("http", "paths").Index(j)
			if p.PathType == nil {
				errs = append(errs, field.Required(at.Child("pathType"), "pathType must be specified"))
			}
			if p.Backend.Service == nil && p.Backend.Resource == nil {
				errs = append(errs, field.Required(at.Child("backend"), "resource or service backend is required"))
			}
		}
	}
	return errs
}

func invalidReplicas(n int32) field.ErrorList {
	return field.ErrorList{field.Invalid(field.NewPath("spec", "replicas"), n, "must be greater than or equal to 0")}
}
