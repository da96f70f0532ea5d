package kubernetes

import (
	"encoding/json"
	"fmt"
	"net"
	"reflect"
	"strings"

	"github.com/google/uuid"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

func uuidString() string { return uuid.NewString() }

// prepareCreate takes away what a client may not set on a new object and fills in defaults.
func (s *Server) prepareCreate(r *resource, obj runtime.Object) error {
	if r.status && resetsStatus(r) {
		clearStatus(obj)
	}
	switch o := obj.(type) {
	case *corev1.Namespace:
		o.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
		if !containsFinalizer(o.Spec.Finalizers, corev1.FinalizerKubernetes) {
			o.Spec.Finalizers = append(o.Spec.Finalizers, corev1.FinalizerKubernetes)
		}
	case *corev1.Pod:
		o.Status = corev1.PodStatus{Phase: corev1.PodPending}
	case *corev1.PersistentVolumeClaim:
		o.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
	case *corev1.PersistentVolume:
		o.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending}
	case *batchv1.Job:
		generateJobSelector(o)
	}
	setDefaults(obj)
	return nil
}

// resetsStatus is false for the few kinds whose status may be given at creation.
func resetsStatus(r *resource) bool { return r.storageKey() != "nodes" }

func containsFinalizer(list []corev1.FinalizerName, f corev1.FinalizerName) bool {
	for _, x := range list {
		if x == f {
			return true
		}
	}
	return false
}

// generateJobSelector gives a job the selector that is its own, unless it brings one.
func generateJobSelector(job *batchv1.Job) {
	if job.Spec.ManualSelector != nil && *job.Spec.ManualSelector {
		return
	}
	if job.Spec.Template.Labels == nil {
		job.Spec.Template.Labels = map[string]string{}
	}
	labels := job.Spec.Template.Labels
	labels["controller-uid"], labels[batchv1.ControllerUidLabel] = string(job.UID), string(job.UID)
	labels["job-name"], labels[batchv1.JobNameLabel] = job.Name, job.Name
	if job.Spec.Selector == nil {
		job.Spec.Selector = &metav1.LabelSelector{}
	}
	if job.Spec.Selector.MatchLabels == nil {
		job.Spec.Selector.MatchLabels = map[string]string{}
	}
	job.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = string(job.UID)
}

// part reaches a top-level field of an object, such as Status, by its Go name.
func part(obj runtime.Object, name string) (reflect.Value, bool) {
	v := reflect.ValueOf(obj).Elem()
	if v.Kind() != reflect.Struct {
		return reflect.Value{}, false
	}
	f := v.FieldByName(name)
	return f, f.IsValid()
}

func clearStatus(obj runtime.Object) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		delete(u.Object, "status")
		return
	}
	if f, ok := part(obj, "Status"); ok {
		f.SetZero()
	}
}

func copyPart(name string, from, to runtime.Object) {
	if u, ok := to.(*unstructured.Unstructured); ok {
		source, isCustom := from.(*unstructured.Unstructured)
		if !isCustom {
			return
		}
		key := strings.ToLower(name)
		delete(u.Object, key)
		if v, found := source.Object[key]; found {
			u.Object[key] = runtime.DeepCopyJSONValue(v)
		}
		return
	}
	f, ok := part(from, name)
	if !ok {
		return
	}
	t, _ := part(to, name)
	t.Set(f)
}

// prepareUpdate keeps the part that the endpoint does not write and counts up the generation.
func (s *Server) prepareUpdate(r *resource, next, live runtime.Object, subresource string) error {
	setDefaults(next)
	liveAcc, nextAcc, err := accessors(live, next)
	if err != nil {
		return err
	}
	switch subresource {
	case "status":
		keepForStatus(liveAcc, nextAcc, live, next)
		return nil
	case "finalize":
		copyPart("Status", live, next)
		return nil
	}
	if r.status {
		copyPart("Status", live, next)
	}
	s.keepImplied(next, live)
	if liveAcc.GetDeletionTimestamp() != nil {
		if errs := newFinalizers(liveAcc, nextAcc); len(errs) > 0 {
			return apierrors.NewInvalid(r.gvk.GroupKind(), liveAcc.GetName(), errs)
		}
	}
	if r.generation && specChanged(live, next) {
		nextAcc.SetGeneration(liveAcc.GetGeneration() + 1)
	}
	return nil
}

// keepForStatus lets a write to the status endpoint change nothing but the status, and metadata of owners of custom
// resources not at all.
func keepForStatus(liveAcc, nextAcc metav1.Object, live, next runtime.Object) {
	copyPart("Spec", live, next)
	if _, custom := next.(*unstructured.Unstructured); custom {
		status, found := next.(*unstructured.Unstructured).Object["status"]
		managed := nextAcc.GetManagedFields()
		rv := nextAcc.GetResourceVersion()
		next.(*unstructured.Unstructured).Object = live.(*unstructured.Unstructured).DeepCopy().Object
		delete(next.(*unstructured.Unstructured).Object, "status")
		if found {
			next.(*unstructured.Unstructured).Object["status"] = status
		}
		nextAcc.SetManagedFields(managed)
		nextAcc.SetResourceVersion(rv)
		return
	}
	nextAcc.SetLabels(liveAcc.GetLabels())
	nextAcc.SetOwnerReferences(liveAcc.GetOwnerReferences())
	nextAcc.SetFinalizers(liveAcc.GetFinalizers())
}

// keepImplied carries over what a real server fills in again when a client leaves it out.
func (s *Server) keepImplied(next, live runtime.Object) {
	switch o := next.(type) {
	case *corev1.Service:
		old := live.(*corev1.Service)
		keepServiceAddresses(o, old)
	case *batchv1.Job:
		old := live.(*batchv1.Job)
		if o.Spec.Selector == nil {
			o.Spec.Selector = old.Spec.Selector
		}
		if o.Spec.Template.Labels == nil {
			o.Spec.Template.Labels = old.Spec.Template.Labels
		}
	case *corev1.Namespace:
		o.Spec.Finalizers = live.(*corev1.Namespace).Spec.Finalizers
	}
}

func keepServiceAddresses(o, old *corev1.Service) {
	if o.Spec.Type == corev1.ServiceTypeExternalName || old.Spec.Type == corev1.ServiceTypeExternalName {
		return
	}
	if o.Spec.ClusterIP == "" {
		o.Spec.ClusterIP = old.Spec.ClusterIP
	}
	if len(o.Spec.ClusterIPs) == 0 && o.Spec.ClusterIP == old.Spec.ClusterIP {
		o.Spec.ClusterIPs = old.Spec.ClusterIPs
	}
	if !takesNodePorts(o) {
		if takesNodePorts(old) {
			for i := range o.Spec.Ports {
				for _, p := range old.Spec.Ports {
					if p.Port == o.Spec.Ports[i].Port && p.NodePort == o.Spec.Ports[i].NodePort {
						o.Spec.Ports[i].NodePort = 0
					}
				}
			}
		}
		return
	}
	for i := range o.Spec.Ports {
		for _, p := range old.Spec.Ports {
			if o.Spec.Ports[i].NodePort == 0 && p.Port == o.Spec.Ports[i].Port && p.Protocol == o.Spec.Ports[i].Protocol {
				o.Spec.Ports[i].NodePort = p.NodePort
			}
		}
	}
}

func newFinalizers(live, next metav1.Object) field.ErrorList {
	had := map[string]bool{}
	for _, f := range live.GetFinalizers() {
		had[f] = true
	}
	var added []string
	for _, f := range next.GetFinalizers() {
		if !had[f] {
			added = append(added, f)
		}
	}
	if len(added) == 0 {
		return nil
	}
	return field.ErrorList{field.Forbidden(field.NewPath("metadata", "finalizers"),
		fmt.Sprintf("no new finalizers can be added if the object is being deleted, found new finalizers %#v", added))}
}

// specChanged compares everything but metadata and status.
func specChanged(live, next runtime.Object) bool {
	a, errA := bare(live)
	b, errB := bare(next)
	return errA != nil || errB != nil || !reflect.DeepEqual(a, b)
}

func bare(obj runtime.Object) (map[string]any, error) {
	raw, err := json.Marshal(obj)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	for _, key := range []string{"metadata", "status", "kind", "apiVersion"} {
		delete(m, key)
	}
	return m, nil
}

// resetFields names the part of an object that an endpoint ignores, so that nobody comes to own it there.
func resetFields(r *resource, subresource string) map[fieldpath.APIVersion]fieldpath.Filter {
	if !r.status {
		return nil
	}
	version := fieldpath.APIVersion(r.gvk.GroupVersion().String())
	ignored := fieldpath.NewSet(fieldpath.MakePathOrDie("status"))
	if subresource == "status" {
		ignored = fieldpath.NewSet(fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("metadata", "labels"))
		if r.custom != nil {
			ignored = fieldpath.NewSet(fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("metadata"))
		}
	}
	return map[fieldpath.APIVersion]fieldpath.Filter{version: fieldpath.NewExcludeSetFilter(ignored)}
}

// admit is what admission does on creation: service accounts must stand, claims get the default class, quotas hold.
func (s *Server) admit(r *resource, obj runtime.Object) error {
	switch o := obj.(type) {
	case *corev1.Pod:
		account := o.Spec.ServiceAccountName
		if s.store.get(objectKey{"serviceaccounts", o.Namespace, account}) == nil {
			return apierrors.NewForbidden(r.groupResource(), o.Name,
				fmt.Errorf("error looking up service account %s/%s: serviceaccount %q not found", o.Namespace, account, account))
		}
	case *corev1.PersistentVolumeClaim:
		if o.Spec.StorageClassName == nil {
			o.Spec.StorageClassName = s.defaultClass()
		}
		o.Finalizers = addFinalizer(o.Finalizers, finalizerClaim)
	case *corev1.PersistentVolume:
		o.Finalizers = addFinalizer(o.Finalizers, finalizerVolume)
	case *networkingv1.Ingress:
		o.Status = networkingv1.IngressStatus{}
	case *apiextensionsv1.CustomResourceDefinition:
		o.Finalizers = addFinalizer(o.Finalizers, finalizerCRD)
	}
	return s.checkQuota(r, obj)
}

const (
	finalizerClaim  = "kubernetes.io/pvc-protection"
	finalizerVolume = "kubernetes.io/pv-protection"
	finalizerCRD    = "customresourcecleanup.apiextensions.k8s.io"
)

func addFinalizer(list []string, f string) []string {
	for _, x := range list {
		if x == f {
			return list
		}
	}
	return append(list, f)
}

func dropFinalizer(list []string, f string) []string {
	var kept []string
	for _, x := range list {
		if x != f {
			kept = append(kept, x)
		}
	}
	return kept
}

// defaultClass is the storage class that is marked as default, nil when none is.
func (s *Server) defaultClass() *string {
	for _, e := range s.store.list("storageclasses.storage.k8s.io", "") {
		partial, err := partialOf(e)
		if err == nil && partial.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" {
			return &partial.Name
		}
	}
	return nil
}

// Service addresses.

// addresses are the cluster IPs and node ports that are taken, by the service that holds them.
type addresses struct {
	ips   map[string]string
	ports map[int32]string
}

func newAddresses() *addresses {
	return &addresses{ips: map[string]string{}, ports: map[int32]string{}}
}

// serviceRange is the range of cluster IPs, and nodePortFirst to nodePortLast that of node ports: the defaults of
// kubeadm and kube-apiserver.
const (
	serviceRange  = "10.96.0.0/12"
	nodePortFirst = 30000
	nodePortLast  = 32767
)

func takesNodePorts(svc *corev1.Service) bool {
	switch svc.Spec.Type {
	case corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeLoadBalancer:
		return svc.Spec.AllocateLoadBalancerNodePorts == nil || *svc.Spec.AllocateLoadBalancerNodePorts
	}
	return false
}

// allocate gives a service its cluster IP and node ports. What it takes is booked when the object is stored.
func (s *Server) allocate(obj, live runtime.Object, _ bool) error {
	svc, ok := obj.(*corev1.Service)
	if !ok || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	holder := svc.Namespace + "/" + svc.Name
	if err := s.allocateIP(svc, holder); err != nil {
		return err
	}
	if !takesNodePorts(svc) {
		return nil
	}
	taken := map[int32]bool{}
	for i := range svc.Spec.Ports {
		if err := s.allocatePort(svc, i, holder, taken); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) allocateIP(svc *corev1.Service, holder string) error {
	path := field.NewPath("spec", "clusterIPs").Index(0)
	invalid := func(detail string) error {
		return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), svc.Name,
			field.ErrorList{field.Invalid(path, []string{svc.Spec.ClusterIP}, detail)})
	}
	if svc.Spec.ClusterIP == "" && len(svc.Spec.ClusterIPs) > 0 {
		svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
	}
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		svc.Spec.ClusterIPs = []string{corev1.ClusterIPNone}
		return nil
	}
	_, block, err := net.ParseCIDR(serviceRange)
	if err != nil {
		return fmt.Errorf("service range %s: %w", serviceRange, err)
	}
	if svc.Spec.ClusterIP == "" {
		svc.Spec.ClusterIP = s.freeIP(block)
	}
	ip := net.ParseIP(svc.Spec.ClusterIP)
	if ip == nil || !block.Contains(ip) {
		return invalid(fmt.Sprintf("failed to allocate IP %s: the provided IP (%s) is not in the valid range. The range of valid IPs is %s", svc.Spec.ClusterIP, svc.Spec.ClusterIP, serviceRange))
	}
	if other := s.addresses.ips[svc.Spec.ClusterIP]; other != "" && other != holder {
		return invalid(fmt.Sprintf("failed to allocate IP %s: provided IP is already allocated", svc.Spec.ClusterIP))
	}
	svc.Spec.ClusterIPs = []string{svc.Spec.ClusterIP}
	return nil
}

func (s *Server) freeIP(block *net.IPNet) string {
	base := block.IP.To4()
	for n := 256 + len(s.addresses.ips); ; n++ { // the first 256 are left to those who ask for one by name
		ip := net.IPv4(base[0], base[1]+byte(n>>16), byte(n>>8), byte(n)).String()
		if s.addresses.ips[ip] == "" {
			return ip
		}
	}
}

func (s *Server) allocatePort(svc *corev1.Service, i int, holder string, taken map[int32]bool) error {
	p := &svc.Spec.Ports[i]
	path := field.NewPath("spec", "ports").Index(i).Child("nodePort")
	refuse := func(detail string) error {
		return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), svc.Name,
			field.ErrorList{field.Invalid(path, p.NodePort, detail)})
	}
	if p.NodePort == 0 {
		for n := int32(0); n <= nodePortLast-nodePortFirst; n++ {
			candidate := nodePortFirst + (n+int32(len(s.addresses.ports))*37)%(nodePortLast-nodePortFirst+1)
			if s.addresses.ports[candidate] == "" && !taken[candidate] {
				p.NodePort = candidate
				break
			}
		}
	}
	if p.NodePort < nodePortFirst || p.NodePort > nodePortLast {
		return refuse(fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", nodePortFirst, nodePortLast))
	}
	if other := s.addresses.ports[p.NodePort]; other != "" && other != holder {
		return refuse("provided port is already allocated")
	}
	taken[p.NodePort] = true
	return nil
}

// book notes which addresses a stored service holds, and frees those of its former state.
func (a *addresses) book(before, after *corev1.Service) {
	if before != nil {
		delete(a.ips, before.Spec.ClusterIP)
		for _, p := range before.Spec.Ports {
			delete(a.ports, p.NodePort)
		}
	}
	if after == nil {
		return
	}
	holder := after.Namespace + "/" + after.Name
	if after.Spec.ClusterIP != "" && after.Spec.ClusterIP != corev1.ClusterIPNone {
		a.ips[after.Spec.ClusterIP] = holder
	}
	for _, p := range after.Spec.Ports {
		if p.NodePort != 0 {
			a.ports[p.NodePort] = holder
		}
	}
}

// Quota.

// checkQuota refuses an object that a ResourceQuota of its namespace has no room for.
func (s *Server) checkQuota(r *resource, obj runtime.Object) error {
	acc, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	for _, e := range s.store.list("resourcequotas", acc.GetNamespace()) {
		if acc.GetNamespace() == "" {
			break
		}
		decoded, err := s.decode(e)
		if err != nil {
			return err
		}
		quota := decoded.(*corev1.ResourceQuota)
		needs := quotaNeeds(r, obj)
		used := s.quotaUsed(quota)
		for name, hard := range quota.Spec.Hard {
			need, counts := needs[name]
			if !counts {
				continue
			}
			have := used[name]
			total := have.DeepCopy()
			total.Add(need)
			if total.Cmp(hard) > 0 {
				return apierrors.NewForbidden(r.groupResource(), acc.GetName(), fmt.Errorf("exceeded quota: %s, requested: %s=%s, used: %s=%s, limited: %s=%s",
					quota.Name, name, need.String(), name, have.String(), name, hard.String()))
			}
		}
	}
	return nil
}
