package kubernetes

import (
	"fmt"
	"reflect"
	"slices"
	"sort"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// seedNamespaces are those that every cluster begins with.
var seedNamespaces = []string{"default", "kube-node-lease", "kube-public", "kube-system"}

// seed makes what a fresh cluster holds; what stands already is left alone.
func (s *Server) seed() error {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	for _, name := range seedNamespaces {
		if err := s.seedOne("namespaces", "", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			return err
		}
	}
	if len(s.store.objects["nodes"]) == 0 {
		for i := range s.config.Nodes {
			if err := s.seedOne("nodes", "", s.node(i+1)); err != nil {
				return err
			}
		}
	}
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{
		Name:        "standard",
		Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"},
	}, Provisioner: "sandbox.weft/directory"}
	if err := s.seedOne("storageclasses.storage.k8s.io", "", class); err != nil {
		return err
	}
	all := []string{"*"}
	admin := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "cluster-admin"}, Rules: []rbacv1.PolicyRule{{Verbs: all, APIGroups: all, Resources: all}}}
	if err := s.seedOne("clusterroles.rbac.authorization.k8s.io", "", admin); err != nil {
		return err
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "cluster-admin"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.GroupKind, Name: groupMasters}},
	}
	if err := s.seedOne("clusterrolebindings.rbac.authorization.k8s.io", "", binding); err != nil {
		return err
	}
	api := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: "kubernetes", Namespace: "default",
			Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"},
		},
		Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Name: "https", Port: 443, TargetPort: intstr.FromInt32(6443)}}},
	}
	return s.seedOne("services", "default", api)
}

func (s *Server) seedOne(storage, namespace string, obj runtime.Object) error {
	_, err := s.make(storage, namespace, obj)
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("seed %s: %w", storage, err)
	}
	return nil
}

// seeded says that the cluster made an object for itself.
func seeded(e *entry) bool {
	if e.namespace == "kube-system" || e.namespace == "kube-public" || e.namespace == "kube-node-lease" {
		return true
	}
	switch e.res.storageKey() {
	case "nodes", "events":
		return true
	case "namespaces":
		return slices.Contains(seedNamespaces, e.name)
	case "storageclasses.storage.k8s.io":
		return e.name == "standard"
	case "clusterroles.rbac.authorization.k8s.io", "clusterrolebindings.rbac.authorization.k8s.io":
		return e.name == "cluster-admin"
	case "services":
		return e.namespace == "default" && e.name == "kubernetes"
	case "serviceaccounts":
		return e.name == "default"
	case "configmaps":
		return e.name == rootCertificates
	}
	return false
}

func (s *Server) node(n int) *corev1.Node {
	name := fmt.Sprintf("node-%d", n)
	now := s.now()
	capacity := corev1.ResourceList{
		corev1.ResourceCPU: apiresource.MustParse("16"), corev1.ResourceMemory: apiresource.MustParse("64Gi"),
		corev1.ResourcePods: apiresource.MustParse("5000"), corev1.ResourceEphemeralStorage: apiresource.MustParse("200Gi"),
	}
	condition := func(kind corev1.NodeConditionType, value corev1.ConditionStatus, reason, message string) corev1.NodeCondition {
		return corev1.NodeCondition{Type: kind, Status: value, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now}
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
			"beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64",
		}},
		Spec: corev1.NodeSpec{PodCIDR: fmt.Sprintf("10.244.%d.0/24", n-1), PodCIDRs: []string{fmt.Sprintf("10.244.%d.0/24", n-1)}},
		Status: corev1.NodeStatus{
			Capacity: capacity, Allocatable: capacity.DeepCopy(),
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.168.77.%d", 10+n)}, {Type: corev1.NodeHostName, Address: name}},
			Conditions: []corev1.NodeCondition{
				condition(corev1.NodeMemoryPressure, corev1.ConditionFalse, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
				condition(corev1.NodeDiskPressure, corev1.ConditionFalse, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
				condition(corev1.NodePIDPressure, corev1.ConditionFalse, "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
				condition(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "kubelet is posting ready status"),
			},
			NodeInfo: corev1.NodeSystemInfo{
				KubeletVersion: "v1.37.2", OSImage: "Debian GNU/Linux 12 (bookworm)", KernelVersion: "6.1.0",
				ContainerRuntimeVersion: "containerd://2.4.2", OperatingSystem: "linux", Architecture: "amd64", MachineID: name, SystemUUID: name, BootID: name,
			},
		},
	}
}

// rootCertificates is the config map with the cluster's certificate authority that every namespace gets.
const rootCertificates = "kube-root-ca.crt"

// controlNamespace gives a namespace what belongs to each, and empties one that is deleted.
func (s *Server) controlNamespace(e *entry, ns *corev1.Namespace) error {
	if e.deleting {
		return s.emptyNamespace(e, ns)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	certificates := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: rootCertificates, Annotations: map[string]string{
			"kubernetes.io/description": "The certificate authority that signs the API server's certificate.",
		}},
		Data: map[string]string{"ca.crt": string(s.keys.kept.CA)},
	}
	if err := s.seedOne("serviceaccounts", e.name, account); err != nil {
		return err
	}
	return s.seedOne("configmaps", e.name, certificates)
}

func (s *Server) emptyNamespace(e *entry, ns *corev1.Namespace) error {
	left, held := map[string]int{}, map[string]int{}
	for storage, spaces := range s.store.objects {
		for _, child := range spaces[e.name] {
			left[storage]++
			if !child.deleting {
				if err := s.removeEntry(child); err != nil {
					return err
				}
			}
		}
	}
	remaining := 0
	for storage := range left {
		for _, child := range s.store.list(storage, e.name) {
			remaining++
			partial, err := partialOf(child)
			if err != nil {
				return err
			}
			for _, f := range partial.Finalizers {
				held[f]++
			}
		}
		left[storage] = len(s.store.objects[storage][e.name])
	}
	if remaining == 0 {
		_, err := s.edit(e, func(obj runtime.Object, _ metav1.Object) { obj.(*corev1.Namespace).Spec.Finalizers = nil })
		return err
	}
	ns.Status.Conditions = s.namespaceConditions(ns.Status.Conditions, left, held)
	_, err := s.write(e, ns)
	return err
}

// namespaceConditions say what keeps a namespace from going.
func (s *Server) namespaceConditions(old []corev1.NamespaceCondition, left, held map[string]int) []corev1.NamespaceCondition {
	content := describeCounts(left, "%s has %d resource instances")
	finalizers := describeCounts(held, "%s in %d resource instances")
	now := s.now()
	build := func(kind corev1.NamespaceConditionType, bad bool, reasonGood, reasonBad, good, message string) corev1.NamespaceCondition {
		c := corev1.NamespaceCondition{Type: kind, Status: corev1.ConditionFalse, Reason: reasonGood, Message: good, LastTransitionTime: now}
		if bad {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, reasonBad, message
		}
		for _, o := range old {
			if o.Type == kind && o.Status == c.Status {
				c.LastTransitionTime = o.LastTransitionTime
			}
		}
		return c
	}
	return []corev1.NamespaceCondition{
		build(corev1.NamespaceDeletionDiscoveryFailure, false, "ResourcesDiscovered", "", "All resources successfully discovered", ""),
		build(corev1.NamespaceDeletionGVParsingFailure, false, "ParsedGroupVersions", "", "All legacy kube types successfully parsed", ""),
		build(corev1.NamespaceDeletionContentFailure, false, "ContentDeleted", "", "All content successfully deleted, may be waiting on finalization", ""),
		build(corev1.NamespaceContentRemaining, content != "", "ContentRemoved", "SomeResourcesRemain", "All content successfully removed", "Some resources are remaining: "+content),
		build(corev1.NamespaceFinalizersRemaining, finalizers != "", "ContentHasNoFinalizers", "SomeFinalizersRemain", "All content-preserving finalizers finished",
			"Some content in the namespace has finalizers remaining: "+finalizers),
	}
}

func describeCounts(counts map[string]int, format string) string {
	var parts []string
	for name, n := range counts {
		if n > 0 {
			parts = append(parts, fmt.Sprintf(format, name, n))
		}
	}
	sort.Strings(parts)
	text := ""
	for i, p := range parts {
		if i > 0 {
			text += ", "
		}
		text += p
	}
	return text
}

// controlService keeps the endpoints of a service: those of the pods that it selects.
func (s *Server) controlService(e *entry, svc *corev1.Service) error {
	if e.deleting || len(svc.Spec.Selector) == 0 || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	selector := labels.SelectorFromSet(svc.Spec.Selector)
	var pods []*entry
	for _, p := range s.store.list("pods", e.namespace) {
		if selector.Matches(labels.Set(p.labels)) && p.pod.ip != "" && p.pod.phase == corev1.PodRunning {
			pods = append(pods, p)
		}
	}
	if err := s.writeEndpoints(e, svc, pods); err != nil {
		return err
	}
	return s.writeSlices(e, svc, pods)
}

// The sizes that real controllers keep to.
const (
	maxEndpoints = 1000 // addresses in one Endpoints object
	maxSlice     = 100  // addresses in one EndpointSlice
)

func podReference(p *entry) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Pod", Namespace: p.namespace, Name: p.name, UID: p.uid}
}

// targetPort resolves the port of a service at a pod; a name is looked up in the pod's containers.
func (s *Server) targetPort(port corev1.ServicePort, pods []*entry) int32 {
	if port.TargetPort.Type == intstr.Int {
		return port.TargetPort.IntVal
	}
	for _, p := range pods {
		obj, err := s.decode(p)
		if err != nil {
			continue
		}
		for _, c := range obj.(*corev1.Pod).Spec.Containers {
			for _, cp := range c.Ports {
				if cp.Name == port.TargetPort.StrVal && cp.Protocol == port.Protocol {
					return cp.ContainerPort
				}
			}
		}
	}
	return 0
}

func (s *Server) writeEndpoints(e *entry, svc *corev1.Service, pods []*entry) error {
	var subset corev1.EndpointSubset
	for i, p := range pods {
		if i >= maxEndpoints {
			break
		}
		node := p.pod.node
		address := corev1.EndpointAddress{IP: p.pod.ip, NodeName: &node, TargetRef: podReference(p)}
		switch {
		case p.deleting && !svc.Spec.PublishNotReadyAddresses:
		case p.pod.ready || svc.Spec.PublishNotReadyAddresses:
			subset.Addresses = append(subset.Addresses, address)
		default:
			subset.NotReadyAddresses = append(subset.NotReadyAddresses, address)
		}
	}
	for _, port := range svc.Spec.Ports {
		if n := s.targetPort(port, pods); n != 0 {
			subset.Ports = append(subset.Ports, corev1.EndpointPort{Name: port.Name, Port: n, Protocol: port.Protocol, AppProtocol: port.AppProtocol})
		}
	}
	var subsets []corev1.EndpointSubset
	if len(subset.Addresses)+len(subset.NotReadyAddresses) > 0 {
		subsets = []corev1.EndpointSubset{subset}
	}
	known := s.store.get(objectKey{"endpoints", e.namespace, e.name})
	if known == nil {
		_, err := s.make("endpoints", e.namespace, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{
			Name: e.name, Labels: cloneLabels(svc.Labels),
			OwnerReferences: serviceOwner(e),
		}, Subsets: subsets})
		return err
	}
	_, err := s.edit(known, func(obj runtime.Object, _ metav1.Object) { obj.(*corev1.Endpoints).Subsets = subsets })
	return err
}

// serviceOwner makes endpoints go with their service.
func serviceOwner(e *entry) []metav1.OwnerReference {
	return []metav1.OwnerReference{ownerReference(e, "v1")}
}

func (s *Server) writeSlices(e *entry, svc *corev1.Service, pods []*entry) error {
	var ports []discoveryv1.EndpointPort
	for _, port := range svc.Spec.Ports {
		name, number, protocol := port.Name, s.targetPort(port, pods), port.Protocol
		if number != 0 {
			ports = append(ports, discoveryv1.EndpointPort{Name: &name, Port: &number, Protocol: &protocol, AppProtocol: port.AppProtocol})
		}
	}
	var chunks [][]discoveryv1.Endpoint
	for i, p := range pods {
		if i%maxSlice == 0 {
			chunks = append(chunks, nil)
		}
		chunks[len(chunks)-1] = append(chunks[len(chunks)-1], endpoint(svc, p))
	}
	if len(chunks) == 0 {
		chunks = [][]discoveryv1.Endpoint{{}}
	}
	var standing []*entry
	for _, owned := range s.store.owned(e.uid) {
		if owned.res.storageKey() == "endpointslices.discovery.k8s.io" {
			standing = append(standing, owned)
		}
	}
	for i, chunk := range chunks {
		if i < len(standing) {
			if err := s.updateSlice(standing[i], ports, chunk); err != nil {
				return err
			}
			continue
		}
		slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Endpoints: chunk, Ports: ports}
		slice.GenerateName = e.name + "-"
		slice.Labels = map[string]string{discoveryv1.LabelServiceName: e.name, discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io"}
		slice.OwnerReferences = serviceOwner(e)
		if _, err := s.make("endpointslices.discovery.k8s.io", e.namespace, slice); err != nil {
			return err
		}
	}
	for _, surplus := range standing[min(len(standing), len(chunks)):] {
		if err := s.removeEntry(surplus); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) updateSlice(known *entry, ports []discoveryv1.EndpointPort, chunk []discoveryv1.Endpoint) error {
	_, err := s.edit(known, func(obj runtime.Object, acc metav1.Object) {
		slice := obj.(*discoveryv1.EndpointSlice)
		if reflect.DeepEqual(slice.Endpoints, chunk) && reflect.DeepEqual(slice.Ports, ports) {
			return
		}
		slice.Endpoints, slice.Ports = chunk, ports
		acc.SetGeneration(acc.GetGeneration() + 1)
	})
	return err
}

func endpoint(svc *corev1.Service, p *entry) discoveryv1.Endpoint {
	node := p.pod.node
	serving, terminating := p.pod.ready, p.deleting
	ready := serving && !terminating || svc.Spec.PublishNotReadyAddresses
	return discoveryv1.Endpoint{
		Addresses: []string{p.pod.ip}, NodeName: &node, TargetRef: podReference(p),
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
	}
}

func (s *Server) claimBound(namespace, name string) bool {
	e := s.store.get(objectKey{"persistentvolumeclaims", namespace, name})
	if e == nil || e.deleting {
		return false
	}
	obj, err := s.decode(e)
	return err == nil && obj.(*corev1.PersistentVolumeClaim).Status.Phase == corev1.ClaimBound
}

// controlClaim is the volume provisioner, and the protection of claims that pods use.
func (s *Server) controlClaim(e *entry, claim *corev1.PersistentVolumeClaim) error {
	if e.deleting {
		for _, p := range s.store.objects["pods"][e.namespace] {
			if slices.Contains(p.pod.claims, e.name) && p.pod.phase != corev1.PodSucceeded && p.pod.phase != corev1.PodFailed {
				return nil // looked at again when the pod goes
			}
		}
		return s.dropFinalizer(e, finalizerClaim)
	}
	if claim.Status.Phase == corev1.ClaimBound {
		return nil
	}
	if claim.Spec.StorageClassName == nil || !s.exists("storageclasses.storage.k8s.io", "", *claim.Spec.StorageClassName) {
		return nil
	}
	bound := s.work.since(e.uid, e.created, s.config.Now()).Add(s.config.Latency("kubernetes.claim.bound"))
	if s.config.Now().Before(bound) {
		s.later(e, bound)
		return nil
	}
	return s.bindClaim(e, claim)
}

// volumeName is the name of the volume that is provisioned for a claim, as real provisioners choose it.
func volumeName(claim types.UID) string { return "pvc-" + string(claim) }

func (s *Server) bindClaim(e *entry, claim *corev1.PersistentVolumeClaim) error {
	classObject, err := s.decode(s.store.get(objectKey{"storageclasses.storage.k8s.io", "", *claim.Spec.StorageClassName}))
	if err != nil {
		return err
	}
	class := classObject.(*storagev1.StorageClass)
	size := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	name := volumeName(e.uid)
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": class.Provisioner}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{corev1.ResourceStorage: size}, AccessModes: claim.Spec.AccessModes, VolumeMode: claim.Spec.VolumeMode,
			StorageClassName: class.Name, PersistentVolumeReclaimPolicy: *class.ReclaimPolicy,
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/var/lib/sandbox/" + name}},
			ClaimRef:               &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: e.namespace, Name: e.name, UID: e.uid},
		},
	}
	if err := s.seedOne("persistentvolumes", "", volume); err != nil {
		return err
	}
	claim.Spec.VolumeName = name
	claim.Status = corev1.PersistentVolumeClaimStatus{
		Phase: corev1.ClaimBound, AccessModes: claim.Spec.AccessModes,
		Capacity: corev1.ResourceList{corev1.ResourceStorage: size},
	}
	claim.Annotations = withLabel(claim.Annotations, "pv.kubernetes.io/bind-completed", "yes")
	if _, err := s.write(e, claim); err != nil {
		return err
	}
	s.work.mark(objectKey{"persistentvolumes", "", name})
	return nil
}

// controlVolume follows the claim of a volume: bound while it stands, released or deleted when it is gone.
func (s *Server) controlVolume(e *entry, volume *corev1.PersistentVolume) error {
	var claim *entry
	if ref := volume.Spec.ClaimRef; ref != nil {
		claim = s.store.get(objectKey{"persistentvolumeclaims", ref.Namespace, ref.Name})
		if claim != nil && ref.UID != "" && claim.uid != ref.UID {
			claim = nil
		}
	}
	if e.deleting {
		if claim != nil {
			return nil
		}
		return s.dropFinalizer(e, finalizerVolume)
	}
	phase := corev1.VolumeAvailable
	switch {
	case claim != nil:
		phase = corev1.VolumeBound
		s.later(e, s.config.Now().Add(retryHeld))
	case volume.Spec.ClaimRef != nil && volume.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return s.removeEntry(e)
	case volume.Spec.ClaimRef != nil:
		phase = corev1.VolumeReleased
	}
	volume.Status.Phase = phase
	_, err := s.write(e, volume)
	return err
}

func (s *Server) controlQuota(e *entry, quota *corev1.ResourceQuota) error {
	used := s.quotaUsed(quota)
	hard := quota.Spec.Hard.DeepCopy()
	if !sameQuantities(quota.Status.Used, used) || !sameQuantities(quota.Status.Hard, hard) {
		quota.Status = corev1.ResourceQuotaStatus{Hard: hard, Used: used}
		if _, err := s.write(e, quota); err != nil {
			return err
		}
	}
	s.later(s.store.get(e.key()), s.config.Now().Add(retryHeld*5))
	return nil
}

func sameQuantities(a, b corev1.ResourceList) bool {
	if len(a) != len(b) {
		return false
	}
	for name, q := range a {
		if other, ok := b[name]; !ok || q.Cmp(other) != 0 {
			return false
		}
	}
	return true
}
