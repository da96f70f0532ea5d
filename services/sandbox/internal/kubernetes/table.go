package kubernetes

import (
	"fmt"
	"sort"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/util/jsonpath"
)

// columns lists the columns of a kind's table as kubectl shows them; those after the bar only with -o wide. They are
// the columns of a real server for the same kind.
var columns = map[string]string{
	"pods":                              "Name,Ready,Status,Restarts,Age|IP,Node,Nominated Node,Readiness Gates",
	"deployments.apps":                  "Name,Ready,Up-to-date,Available,Age|Containers,Images,Selector",
	"replicasets.apps":                  "Name,Desired,Current,Ready,Age|Containers,Images,Selector",
	"statefulsets.apps":                 "Name,Ready,Age|Containers,Images",
	"daemonsets.apps":                   "Name,Desired,Current,Ready,Up-to-date,Available,Node Selector,Age|Containers,Images,Selector",
	"jobs.batch":                        "Name,Status,Completions,Duration,Age|Containers,Images,Selector",
	"cronjobs.batch":                    "Name,Schedule,Timezone,Suspend,Active,Last Schedule,Age|Containers,Images,Selector",
	"services":                          "Name,Type,Cluster-IP,External-IP,Port(s),Age|Selector",
	"endpoints":                         "Name,Endpoints,Age",
	"namespaces":                        "Name,Status,Age",
	"nodes":                             "Name,Status,Roles,Age,Version|Internal-IP,External-IP,OS-Image,Kernel-Version,Container-Runtime",
	"configmaps":                        "Name,Data,Age",
	"secrets":                           "Name,Type,Data,Age",
	"serviceaccounts":                   "Name,Age",
	"persistentvolumeclaims":            "Name,Status,Volume,Capacity,Access Modes,StorageClass,VolumeAttributesClass,Age|VolumeMode",
	"persistentvolumes":                 "Name,Capacity,Access Modes,Reclaim Policy,Status,Claim,StorageClass,VolumeAttributesClass,Reason,Age|VolumeMode",
	"events":                            "Last Seen,Type,Reason,Object,Message|Subobject,Source,First Seen,Count,Name",
	"ingresses.networking.k8s.io":       "Name,Class,Hosts,Address,Ports,Age",
	"networkpolicies.networking.k8s.io": "Name,Pod-Selector,Age",
	"storageclasses.storage.k8s.io":     "Name,Provisioner,ReclaimPolicy,VolumeBindingMode,AllowVolumeExpansion,Age",
	"customresourcedefinitions.apiextensions.k8s.io": "Name,Created At",
}

// table shows entries as rows; headed gives the columns as well.
func (s *Server) table(r *resource, entries []*entry, include string, headed bool) (*metav1.Table, error) {
	t := &metav1.Table{TypeMeta: metav1.TypeMeta{Kind: "Table", APIVersion: "meta.k8s.io/v1"}, Rows: []metav1.TableRow{}}
	if headed {
		t.ColumnDefinitions = columnsOf(r)
	}
	for _, e := range entries {
		row := metav1.TableRow{}
		obj, err := s.decode(e)
		if err != nil {
			return nil, err
		}
		if row.Cells, err = s.cells(e, obj); err != nil {
			return nil, err
		}
		switch include {
		case "None":
		case "Object":
			row.Object = runtime.RawExtension{Raw: e.raw}
		default:
			partial, err := partialOf(e)
			if err != nil {
				return nil, err
			}
			row.Object = runtime.RawExtension{Object: partial}
		}
		t.Rows = append(t.Rows, row)
	}
	return t, nil
}

func columnsOf(r *resource) []metav1.TableColumnDefinition {
	if r.custom != nil {
		defs := []metav1.TableColumnDefinition{{Name: "Name", Type: "string", Format: "name"}}
		for _, c := range customColumns(r) {
			defs = append(defs, metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: c.Description, Priority: c.Priority})
		}
		return defs
	}
	text, known := columns[r.storageKey()]
	if !known {
		text = "Name,Age"
	}
	normal, wide, _ := strings.Cut(text, "|")
	var defs []metav1.TableColumnDefinition
	for priority, list := range []string{normal, wide} {
		if list == "" {
			continue
		}
		for _, name := range strings.Split(list, ",") {
			def := metav1.TableColumnDefinition{Name: name, Type: "string", Priority: int32(priority)}
			if name == "Name" && priority == 0 {
				def.Format = "name"
			}
			defs = append(defs, def)
		}
	}
	return defs
}

func (s *Server) age(t metav1.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(s.config.Now().Sub(t.Time))
}

func orNone(text string) string {
	if text == "" {
		return "<none>"
	}
	return text
}

// cells yields the row of an object, in the order of columns.
func (s *Server) cells(e *entry, obj runtime.Object) ([]any, error) {
	acc, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	age := s.age(acc.GetCreationTimestamp())
	switch o := obj.(type) {
	case *unstructured.Unstructured:
		return s.customCells(e.res, o)
	case *corev1.Pod:
		return s.podCells(o, age), nil
	case *corev1.Service:
		return []any{o.Name, string(o.Spec.Type), orNone(o.Spec.ClusterIP), externalIP(o), servicePorts(o), age, selectorText(o.Spec.Selector)}, nil
	case *corev1.Namespace:
		return []any{o.Name, string(o.Status.Phase), age}, nil
	case *corev1.Node:
		return nodeCells(o, age), nil
	case *corev1.ConfigMap:
		return []any{o.Name, len(o.Data) + len(o.BinaryData), age}, nil
	case *corev1.Secret:
		return []any{o.Name, string(o.Type), len(o.Data), age}, nil
	case *corev1.Endpoints:
		return []any{o.Name, endpointsText(o), age}, nil
	case *corev1.PersistentVolumeClaim:
		return claimCells(o, age), nil
	case *corev1.PersistentVolume:
		return volumeCells(o, age), nil
	case *corev1.Event:
		object := strings.ToLower(o.InvolvedObject.Kind) + "/" + o.InvolvedObject.Name
		return []any{s.age(o.LastTimestamp), o.Type, o.Reason, object, o.Message, o.InvolvedObject.FieldPath, o.Source.Component, s.age(o.FirstTimestamp), o.Count, o.Name}, nil
	}
	return s.workloadCells(obj, acc.GetName(), age)
}

func (s *Server) workloadCells(obj runtime.Object, name, age string) ([]any, error) {
	row := func(spec *corev1.PodSpec, selector *metav1.LabelSelector, first ...any) []any {
		names, images := containerText(spec)
		return append(first, names, images, metav1.FormatLabelSelector(selector))
	}
	switch o := obj.(type) {
	case *appsv1.Deployment:
		return row(&o.Spec.Template.Spec, o.Spec.Selector, name, fmt.Sprintf("%d/%d", o.Status.ReadyReplicas, *o.Spec.Replicas),
			o.Status.UpdatedReplicas, o.Status.AvailableReplicas, age), nil
	case *appsv1.ReplicaSet:
		return row(&o.Spec.Template.Spec, o.Spec.Selector, name, *o.Spec.Replicas, o.Status.Replicas, o.Status.ReadyReplicas, age), nil
	case *appsv1.StatefulSet:
		names, images := containerText(&o.Spec.Template.Spec)
		return []any{name, fmt.Sprintf("%d/%d", o.Status.ReadyReplicas, *o.Spec.Replicas), age, names, images}, nil
	case *appsv1.DaemonSet:
		return row(&o.Spec.Template.Spec, o.Spec.Selector, name, o.Status.DesiredNumberScheduled, o.Status.CurrentNumberScheduled, o.Status.NumberReady,
			o.Status.UpdatedNumberScheduled, o.Status.NumberAvailable, selectorText(o.Spec.Template.Spec.NodeSelector), age), nil
	case *batchv1.Job:
		return row(&o.Spec.Template.Spec, o.Spec.Selector, s.jobCells(o, age)...), nil
	case *batchv1.CronJob:
		last, zone := "<none>", "<none>"
		if o.Status.LastScheduleTime != nil {
			last = s.age(*o.Status.LastScheduleTime)
		}
		if o.Spec.TimeZone != nil {
			zone = *o.Spec.TimeZone
		}
		return row(&o.Spec.JobTemplate.Spec.Template.Spec, o.Spec.JobTemplate.Spec.Selector, name, o.Spec.Schedule, zone,
			isTrue(o.Spec.Suspend), len(o.Status.Active), last, age), nil
	}
	return otherCells(obj, name, age), nil
}

func otherCells(obj runtime.Object, name, age string) []any {
	switch o := obj.(type) {
	case *networkingv1.Ingress:
		var hosts []string
		for _, rule := range o.Spec.Rules {
			if rule.Host != "" {
				hosts = append(hosts, rule.Host)
			}
		}
		host, class, ports := strings.Join(hosts, ","), "<none>", "80"
		if host == "" {
			host = "*"
		}
		if o.Spec.IngressClassName != nil {
			class = *o.Spec.IngressClassName
		}
		if len(o.Spec.TLS) > 0 {
			ports = "80, 443"
		}
		return []any{name, class, host, "", ports, age}
	case *networkingv1.NetworkPolicy:
		return []any{name, metav1.FormatLabelSelector(&o.Spec.PodSelector), age}
	case *storagev1.StorageClass:
		if o.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" {
			name += " (default)"
		}
		return []any{name, o.Provisioner, string(*o.ReclaimPolicy), string(*o.VolumeBindingMode), isTrue(o.AllowVolumeExpansion), age}
	case *apiextensionsv1.CustomResourceDefinition:
		return []any{name, o.CreationTimestamp.UTC().Format(time.RFC3339)}
	}
	return []any{name, age}
}

func (s *Server) jobCells(o *batchv1.Job, age string) []any {
	status := "Running"
	for _, c := range o.Status.Conditions {
		if c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed {
			status = string(c.Type)
		}
	}
	if isTrue(o.Spec.Suspend) {
		status = "Suspended"
	}
	took := ""
	if o.Status.StartTime != nil {
		end := s.config.Now()
		if o.Status.CompletionTime != nil {
			end = o.Status.CompletionTime.Time
		}
		took = duration.HumanDuration(end.Sub(o.Status.StartTime.Time))
	}
	want := *o.Spec.Parallelism
	if o.Spec.Completions != nil {
		want = *o.Spec.Completions
	}
	return []any{o.Name, status, fmt.Sprintf("%d/%d", o.Status.Succeeded, want), took, age}
}

func containerText(spec *corev1.PodSpec) (names, images string) {
	var n, i []string
	for _, c := range spec.Containers {
		n, i = append(n, c.Name), append(i, c.Image)
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

func selectorText(set map[string]string) string {
	var parts []string
	for k, v := range set {
		parts = append(parts, k+"="+v)
	}
	sort.Strings(parts)
	return orNone(strings.Join(parts, ","))
}

func (s *Server) podCells(o *corev1.Pod, age string) []any {
	ready, restarts := 0, int32(0)
	status := string(o.Status.Phase)
	if o.Status.Reason != "" {
		status = o.Status.Reason
	}
	for _, c := range o.Status.ContainerStatuses {
		restarts += c.RestartCount
		if c.Ready {
			ready++
		}
		if c.State.Waiting != nil && c.State.Waiting.Reason != "" {
			status = c.State.Waiting.Reason
		}
		if c.State.Terminated != nil && c.State.Terminated.Reason != "" {
			status = c.State.Terminated.Reason
		}
	}
	if o.DeletionTimestamp != nil {
		status = "Terminating"
	}
	return []any{
		o.Name, fmt.Sprintf("%d/%d", ready, len(o.Spec.Containers)), status, fmt.Sprint(restarts), age,
		orNone(o.Status.PodIP), orNone(o.Spec.NodeName), orNone(o.Status.NominatedNodeName), "<none>",
	}
}

func externalIP(o *corev1.Service) string {
	switch o.Spec.Type {
	case corev1.ServiceTypeExternalName:
		return o.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		var list []string
		for _, in := range o.Status.LoadBalancer.Ingress {
			list = append(list, in.IP+in.Hostname)
		}
		if len(list)+len(o.Spec.ExternalIPs) == 0 {
			return "<pending>"
		}
		return strings.Join(append(list, o.Spec.ExternalIPs...), ",")
	}
	return orNone(strings.Join(o.Spec.ExternalIPs, ","))
}

func servicePorts(o *corev1.Service) string {
	var parts []string
	for _, p := range o.Spec.Ports {
		text := fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort > 0 {
			text = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
		parts = append(parts, text)
	}
	return orNone(strings.Join(parts, ","))
}

func nodeCells(o *corev1.Node, age string) []any {
	status := "Unknown"
	for _, c := range o.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			status = "Ready"
		} else if c.Type == corev1.NodeReady {
			status = "NotReady"
		}
	}
	if o.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	internal := ""
	for _, a := range o.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			internal = a.Address
		}
	}
	info := o.Status.NodeInfo
	return []any{o.Name, status, "<none>", age, info.KubeletVersion, orNone(internal), "<none>", info.OSImage, info.KernelVersion, info.ContainerRuntimeVersion}
}

func endpointsText(o *corev1.Endpoints) string {
	var parts []string
	total := 0
	for _, subset := range o.Subsets {
		for _, port := range subset.Ports {
			for _, a := range subset.Addresses {
				if total++; total <= 3 {
					parts = append(parts, fmt.Sprintf("%s:%d", a.IP, port.Port))
				}
			}
		}
	}
	text := orNone(strings.Join(parts, ","))
	if total > 3 {
		text += fmt.Sprintf(" + %d more...", total-3)
	}
	return text
}

func accessText(modes []corev1.PersistentVolumeAccessMode) string {
	short := map[corev1.PersistentVolumeAccessMode]string{corev1.ReadWriteOnce: "RWO", corev1.ReadOnlyMany: "ROX", corev1.ReadWriteMany: "RWX", corev1.ReadWriteOncePod: "RWOP"}
	var parts []string
	for _, m := range modes {
		parts = append(parts, short[m])
	}
	return strings.Join(parts, ",")
}

func claimCells(o *corev1.PersistentVolumeClaim, age string) []any {
	class, status, capacity, modes := "", string(o.Status.Phase), "", ""
	if o.Spec.StorageClassName != nil {
		class = *o.Spec.StorageClassName
	}
	if o.DeletionTimestamp != nil {
		status = "Terminating"
	}
	if o.Spec.VolumeName != "" {
		size := o.Status.Capacity[corev1.ResourceStorage]
		capacity, modes = size.String(), accessText(o.Status.AccessModes)
	}
	return []any{o.Name, status, o.Spec.VolumeName, capacity, modes, class, "<unset>", age, string(*o.Spec.VolumeMode)}
}

func volumeCells(o *corev1.PersistentVolume, age string) []any {
	size := o.Spec.Capacity[corev1.ResourceStorage]
	claim, status := "", string(o.Status.Phase)
	if o.Spec.ClaimRef != nil {
		claim = o.Spec.ClaimRef.Namespace + "/" + o.Spec.ClaimRef.Name
	}
	if o.DeletionTimestamp != nil {
		status = "Terminating"
	}
	return []any{
		o.Name, size.String(), accessText(o.Spec.AccessModes), string(o.Spec.PersistentVolumeReclaimPolicy), status, claim,
		o.Spec.StorageClassName, "<unset>", o.Status.Reason, age, string(*o.Spec.VolumeMode),
	}
}

func (s *Server) customCells(r *resource, o *unstructured.Unstructured) ([]any, error) {
	cells := []any{o.GetName()}
	for _, column := range customColumns(r) {
		path := jsonpath.New(column.Name).AllowMissingKeys(true)
		if err := path.Parse("{" + column.JSONPath + "}"); err != nil {
			return nil, fmt.Errorf("column %q of %s: %w", column.Name, r.plural, err)
		}
		found, err := path.FindResults(o.Object)
		if err != nil || len(found) == 0 || len(found[0]) == 0 {
			cells = append(cells, nil)
			continue
		}
		value := found[0][0].Interface()
		if text, isText := value.(string); isText && column.Type == "date" {
			at, err := time.Parse(time.RFC3339, text)
			if err == nil {
				value = s.age(metav1.NewTime(at))
			}
		}
		cells = append(cells, value)
	}
	return cells, nil
}
