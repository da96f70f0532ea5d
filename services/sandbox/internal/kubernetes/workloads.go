package kubernetes

import (
	"fmt"
	"hash/fnv"
	"reflect"
	"sort"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/dump"
)

func (s *Server) controlKind(e *entry, obj runtime.Object) error {
	switch o := obj.(type) {
	case *corev1.Pod:
		return s.controlPod(e, o)
	case *corev1.Namespace:
		return s.controlNamespace(e, o)
	case *corev1.Service:
		return s.controlService(e, o)
	case *corev1.PersistentVolumeClaim:
		return s.controlClaim(e, o)
	case *corev1.PersistentVolume:
		return s.controlVolume(e, o)
	case *corev1.ResourceQuota:
		return s.controlQuota(e, o)
	case *appsv1.Deployment:
		return s.controlDeployment(e, o)
	case *appsv1.ReplicaSet:
		return s.controlReplicaSet(e, o)
	case *appsv1.StatefulSet:
		return s.controlStatefulSet(e, o)
	case *appsv1.DaemonSet:
		return s.controlDaemonSet(e, o)
	case *batchv1.Job:
		return s.controlJob(e, o)
	case *batchv1.CronJob:
		return s.controlCronJob(e, o)
	case *policyv1.PodDisruptionBudget:
		return s.controlBudget(e, o)
	case *autoscalingv2.HorizontalPodAutoscaler:
		return nil // there are no metrics to scale by
	case *apiextensionsv1.CustomResourceDefinition:
		return s.controlDefinition(e, o)
	}
	return nil
}

// templateHash is the hash that a deployment gives to its pods, computed as the real controller does.
func templateHash(template *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%v", dump.ForHash(*template))
	if collisions != nil {
		fmt.Fprint(h, *collisions)
	}
	return utilrand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

func eventHash(e *entry, reason, message string) string {
	h := fnv.New64a()
	fmt.Fprint(h, e.uid, reason, message)
	return fmt.Sprintf("%016x", h.Sum64())
}

const revisionAnnotation = "deployment.kubernetes.io/revision"

// replicaSet is a replica set with the entry it was read from.
type replicaSet struct {
	*appsv1.ReplicaSet
	entry *entry
}

func (s *Server) replicaSetsOf(e *entry, d *appsv1.Deployment) ([]*replicaSet, error) {
	if err := s.adopt(e, "replicasets.apps", d.Spec.Selector, appsv1.SchemeGroupVersion.String()); err != nil {
		return nil, err
	}
	var sets []*replicaSet
	for _, owned := range s.store.owned(e.uid) {
		if owned.controller != e.uid || owned.res.storageKey() != "replicasets.apps" {
			continue
		}
		obj, err := s.decode(owned)
		if err != nil {
			return nil, err
		}
		sets = append(sets, &replicaSet{obj.(*appsv1.ReplicaSet), owned})
	}
	sort.SliceStable(sets, func(i, j int) bool { return revisionOf(sets[i]) < revisionOf(sets[j]) })
	return sets, nil
}

// adopt makes an owner the controller of the objects that it selects and that have none.
func (s *Server) adopt(owner *entry, storage string, selector *metav1.LabelSelector, apiVersion string) error {
	if owner.deleting {
		return nil
	}
	matches, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil || matches.Empty() {
		return nil
	}
	for _, candidate := range s.store.objects[storage][owner.namespace] {
		if candidate.controller != "" || candidate.deleting || !matches.Matches(labels.Set(candidate.labels)) {
			continue
		}
		_, err := s.edit(candidate, func(_ runtime.Object, acc metav1.Object) {
			acc.SetOwnerReferences(append(acc.GetOwnerReferences(), ownerReference(owner, apiVersion)))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func ownerReference(owner *entry, apiVersion string) metav1.OwnerReference {
	yes := true
	return metav1.OwnerReference{APIVersion: apiVersion, Kind: owner.res.gvk.Kind, Name: owner.name, UID: owner.uid, Controller: &yes, BlockOwnerDeletion: &yes}
}

func revisionOf(rs *replicaSet) int64 {
	n, err := strconv.ParseInt(rs.Annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (s *Server) controlDeployment(e *entry, d *appsv1.Deployment) error {
	if e.deleting {
		return nil
	}
	sets, err := s.replicaSetsOf(e, d)
	if err != nil {
		return err
	}
	current, old := splitSets(d, sets)
	if d.Spec.Paused {
		return s.deploymentStatus(e, d, current, old)
	}
	if current == nil && (d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType || drained(old)) {
		if current, err = s.newReplicaSet(e, d, sets); err != nil {
			return err
		}
	}
	if current != nil {
		if err := s.bumpRevision(e, d, current, sets); err != nil {
			return err
		}
	}
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		err = s.recreate(e, d, current, old)
	} else {
		err = s.roll(e, d, current, old)
	}
	if err != nil {
		return err
	}
	if err := s.trimHistory(d, old); err != nil {
		return err
	}
	return s.deploymentStatus(e, d, current, old)
}

func splitSets(d *appsv1.Deployment, sets []*replicaSet) (current *replicaSet, old []*replicaSet) {
	for _, rs := range sets {
		if current == nil && sameTemplate(&rs.Spec.Template, &d.Spec.Template) {
			current = rs
			continue
		}
		old = append(old, rs)
	}
	return current, old
}

func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	delete(x.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(y.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	if len(x.Labels) == 0 && len(y.Labels) == 0 {
		x.Labels, y.Labels = nil, nil
	}
	return reflect.DeepEqual(x, y)
}

func drained(sets []*replicaSet) bool {
	for _, rs := range sets {
		if *rs.Spec.Replicas > 0 || rs.Status.Replicas > 0 {
			return false
		}
	}
	return true
}

func (s *Server) newReplicaSet(e *entry, d *appsv1.Deployment, sets []*replicaSet) (*replicaSet, error) {
	hash := templateHash(&d.Spec.Template, d.Status.CollisionCount)
	template := d.Spec.Template.DeepCopy()
	template.Labels = withLabel(template.Labels, appsv1.DefaultDeploymentUniqueLabelKey, hash)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = withLabel(selector.MatchLabels, appsv1.DefaultDeploymentUniqueLabelKey, hash)
	var highest int64
	for _, rs := range sets {
		highest = max(highest, revisionOf(rs))
	}
	annotations := copiedAnnotations(d.Annotations)
	annotations[revisionAnnotation] = strconv.FormatInt(highest+1, 10)
	replicas := int32(0)
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name: d.Name + "-" + hash, Labels: cloneLabels(template.Labels), Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{ownerReference(e, appsv1.SchemeGroupVersion.String())},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, MinReadySeconds: d.Spec.MinReadySeconds, Selector: selector, Template: *template},
	}
	made, err := s.make("replicasets.apps", d.Namespace, rs)
	if err != nil {
		return nil, err
	}
	obj, err := s.decode(made)
	if err != nil {
		return nil, err
	}
	return &replicaSet{obj.(*appsv1.ReplicaSet), made}, nil
}

func withLabel(labels map[string]string, key, value string) map[string]string {
	out := cloneLabels(labels)
	if out == nil {
		out = map[string]string{}
	}
	out[key] = value
	return out
}

// copiedAnnotations are those of a deployment that its replica sets bear as well.
func copiedAnnotations(in map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range in {
		if k != corev1.LastAppliedConfigAnnotation && k != revisionAnnotation {
			out[k] = v
		}
	}
	return out
}

// bumpRevision gives the current replica set the highest revision (a rollback makes an old one current again), and
// writes it on the deployment.
func (s *Server) bumpRevision(e *entry, d *appsv1.Deployment, current *replicaSet, sets []*replicaSet) error {
	var highest int64
	for _, rs := range sets {
		if rs.UID != current.UID {
			highest = max(highest, revisionOf(rs))
		}
	}
	if revisionOf(current) <= highest {
		current.Annotations = withLabel(current.Annotations, revisionAnnotation, strconv.FormatInt(highest+1, 10))
		next, err := s.write(current.entry, current.ReplicaSet)
		if err != nil {
			return err
		}
		current.entry = next
	}
	d.Annotations = withLabel(d.Annotations, revisionAnnotation, current.Annotations[revisionAnnotation])
	return nil
}

func (s *Server) scale(e *entry, rs *replicaSet, replicas int32) error {
	if rs == nil || *rs.Spec.Replicas == replicas {
		return nil
	}
	before := *rs.Spec.Replicas
	rs.Spec.Replicas = &replicas
	rs.Generation++
	next, err := s.write(rs.entry, rs.ReplicaSet)
	if err != nil {
		return err
	}
	rs.entry = next
	direction := "up"
	if replicas < before {
		direction = "down"
	}
	return s.event(e, corev1.EventTypeNormal, "ScalingReplicaSet",
		fmt.Sprintf("Scaled %s replica set %s from %d to %d", direction, rs.Name, before, replicas), "deployment-controller")
}

func (s *Server) recreate(e *entry, d *appsv1.Deployment, current *replicaSet, old []*replicaSet) error {
	for _, rs := range old {
		if err := s.scale(e, rs, 0); err != nil {
			return err
		}
	}
	return s.scale(e, current, *d.Spec.Replicas)
}

// roll moves replicas from the old sets to the current one within maxSurge and maxUnavailable.
func (s *Server) roll(e *entry, d *appsv1.Deployment, current *replicaSet, old []*replicaSet) error {
	want := *d.Spec.Replicas
	surge, unavailable := rollingLimits(d)
	total := *current.Spec.Replicas
	available := current.Status.AvailableReplicas
	var oldTotal int32
	for _, rs := range old {
		total += *rs.Spec.Replicas
		oldTotal += *rs.Spec.Replicas
		available += min(rs.Status.AvailableReplicas, *rs.Spec.Replicas)
	}
	if *current.Spec.Replicas > want {
		total -= *current.Spec.Replicas - want
		if err := s.scale(e, current, want); err != nil {
			return err
		}
	}
	if room := want + surge - total; room > 0 && *current.Spec.Replicas < want {
		grow := min(room, want-*current.Spec.Replicas)
		total += grow
		if err := s.scale(e, current, *current.Spec.Replicas+grow); err != nil {
			return err
		}
	}
	if oldTotal == 0 {
		return nil
	}
	return s.shrinkOld(e, want, unavailable, total, available, current, old)
}

// shrinkOld takes replicas from the old sets: those that are not available first, for they serve nobody.
func (s *Server) shrinkOld(e *entry, want, unavailable, total, available int32, current *replicaSet, old []*replicaSet) error {
	least := want - unavailable
	newUnavailable := *current.Spec.Replicas - current.Status.AvailableReplicas
	budget := total - least - newUnavailable
	for _, rs := range old {
		sick := *rs.Spec.Replicas - min(rs.Status.AvailableReplicas, *rs.Spec.Replicas)
		cut := min(sick, budget)
		if cut <= 0 {
			continue
		}
		budget -= cut
		if err := s.scale(e, rs, *rs.Spec.Replicas-cut); err != nil {
			return err
		}
	}
	spare := available - least
	for _, rs := range old {
		cut := min(spare, *rs.Spec.Replicas)
		if cut <= 0 {
			continue
		}
		spare -= cut
		if err := s.scale(e, rs, *rs.Spec.Replicas-cut); err != nil {
			return err
		}
	}
	return nil
}

// rollingLimits resolves percentages: surge rounds up, unavailable down, and both are never zero.
func rollingLimits(d *appsv1.Deployment) (surge, unavailable int32) {
	if d.Spec.Strategy.RollingUpdate == nil {
		return 0, 0
	}
	want := int(*d.Spec.Replicas)
	up, errUp := intstr.GetScaledValueFromIntOrPercent(d.Spec.Strategy.RollingUpdate.MaxSurge, want, true)
	down, errDown := intstr.GetScaledValueFromIntOrPercent(d.Spec.Strategy.RollingUpdate.MaxUnavailable, want, false)
	if errUp != nil || errDown != nil || up == 0 && down == 0 {
		return 0, 1
	}
	return int32(up), int32(down)
}

func (s *Server) trimHistory(d *appsv1.Deployment, old []*replicaSet) error {
	excess := len(old) - int(*d.Spec.RevisionHistoryLimit)
	for _, rs := range old {
		if excess <= 0 {
			return nil
		}
		if *rs.Spec.Replicas > 0 || rs.Status.Replicas > 0 {
			continue
		}
		if err := s.removeEntry(rs.entry); err != nil {
			return err
		}
		excess--
	}
	return nil
}

// deploymentStatus counts the pods of all replica sets and judges progress.
func (s *Server) deploymentStatus(e *entry, d *appsv1.Deployment, current *replicaSet, old []*replicaSet) error {
	status := appsv1.DeploymentStatus{ObservedGeneration: d.Generation, CollisionCount: d.Status.CollisionCount, Conditions: d.Status.Conditions}
	all := old
	if current != nil {
		all = append(all[:len(all):len(all)], current)
		status.UpdatedReplicas = current.Status.Replicas
	}
	for _, rs := range all {
		status.Replicas += rs.Status.Replicas
		status.ReadyReplicas += rs.Status.ReadyReplicas
		status.AvailableReplicas += rs.Status.AvailableReplicas
	}
	var wanted int32
	for _, rs := range all {
		wanted += *rs.Spec.Replicas
	}
	status.UnavailableReplicas = max(0, wanted-status.AvailableReplicas)
	terminating := s.terminating(all)
	status.TerminatingReplicas = &terminating
	s.judgeAvailable(d, &status)
	s.judgeProgress(e, d, current, &status)
	d.Status = status
	current2 := s.store.get(e.key())
	if current2 == nil || current2.uid != e.uid {
		return nil
	}
	_, err := s.write(current2, d)
	return err
}

func (s *Server) terminating(sets []*replicaSet) int32 {
	var n int32
	for _, rs := range sets {
		for _, p := range s.store.byOwner[rs.UID] {
			if p.pod != nil && p.deleting {
				n++
			}
		}
	}
	return n
}

func (s *Server) judgeAvailable(d *appsv1.Deployment, status *appsv1.DeploymentStatus) {
	_, unavailable := rollingLimits(d)
	if status.AvailableReplicas >= *d.Spec.Replicas-unavailable {
		s.setDeploymentCondition(status, appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.", false)
		return
	}
	s.setDeploymentCondition(status, appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.", false)
}

func (s *Server) judgeProgress(e *entry, d *appsv1.Deployment, current *replicaSet, status *appsv1.DeploymentStatus) {
	subject := fmt.Sprintf("Deployment %q", d.Name)
	if current != nil {
		subject = fmt.Sprintf("ReplicaSet %q", current.Name)
	}
	progress := deploymentCondition(status.Conditions, appsv1.DeploymentProgressing)
	complete := status.UpdatedReplicas == *d.Spec.Replicas && status.Replicas == *d.Spec.Replicas &&
		status.AvailableReplicas == *d.Spec.Replicas && !d.Spec.Paused && current != nil
	old := d.Status
	moved := status.UpdatedReplicas > old.UpdatedReplicas || status.ReadyReplicas > old.ReadyReplicas || status.AvailableReplicas > old.AvailableReplicas ||
		status.Replicas-status.UpdatedReplicas < old.Replicas-old.UpdatedReplicas
	switch {
	case complete:
		s.setDeploymentCondition(status, appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetAvailable", subject+" has successfully progressed.", false)
		return
	case d.Spec.Paused:
		return
	case progress == nil:
		s.setDeploymentCondition(status, appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", nameOf(current)), true)
	case moved || d.Generation != old.ObservedGeneration && progress.Reason != "ReplicaSetUpdated":
		s.setDeploymentCondition(status, appsv1.DeploymentProgressing, corev1.ConditionTrue, "ReplicaSetUpdated", subject+" is progressing.", true)
	case progress.Reason == "NewReplicaSetAvailable":
		return // pods that die later do not count as a rollout
	}
	deadline := deploymentCondition(status.Conditions, appsv1.DeploymentProgressing).LastUpdateTime.Add(time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second)
	if s.config.Now().Before(deadline) {
		s.later(e, deadline)
		return
	}
	s.setDeploymentCondition(status, appsv1.DeploymentProgressing, corev1.ConditionFalse, "ProgressDeadlineExceeded", subject+" has timed out progressing.", false)
}

func nameOf(rs *replicaSet) string {
	if rs == nil {
		return ""
	}
	return rs.Name
}

func deploymentCondition(list []appsv1.DeploymentCondition, kind appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range list {
		if list[i].Type == kind {
			return &list[i]
		}
	}
	return nil
}

// setDeploymentCondition writes a condition; touch renews its update time although nothing else changed.
func (s *Server) setDeploymentCondition(status *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType, value corev1.ConditionStatus, reason, message string, touch bool) {
	now := s.now()
	known := deploymentCondition(status.Conditions, kind)
	if known == nil {
		status.Conditions = append(status.Conditions, appsv1.DeploymentCondition{Type: kind, Status: value, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now})
		return
	}
	if known.Status == value && known.Reason == reason && known.Message == message && !touch {
		return
	}
	if known.Status != value {
		known.LastTransitionTime = now
	}
	known.Status, known.Reason, known.Message, known.LastUpdateTime = value, reason, message, now
}

// activePods are the pods of a controller that are neither going nor finished.
func (s *Server) activePods(e *entry) []*entry {
	var pods []*entry
	for _, p := range s.store.byOwner[e.uid] {
		if p.pod == nil || p.controller != e.uid || p.deleting || p.pod.phase == corev1.PodFailed || p.pod.phase == corev1.PodSucceeded {
			continue
		}
		pods = append(pods, p)
	}
	// Those that are the least loss come last.
	sort.Slice(pods, func(i, j int) bool {
		a, b := pods[i], pods[j]
		if a.pod.ready != b.pod.ready {
			return a.pod.ready
		}
		if !a.created.Equal(b.created) {
			return a.created.Before(b.created)
		}
		return a.name < b.name
	})
	return pods
}

func (s *Server) controlReplicaSet(e *entry, rs *appsv1.ReplicaSet) error {
	if e.deleting {
		return nil
	}
	if err := s.adopt(e, "pods", rs.Spec.Selector, appsv1.SchemeGroupVersion.String()); err != nil {
		return err
	}
	pods := s.activePods(e)
	var failure error
	for n := len(pods); n < int(*rs.Spec.Replicas); n++ {
		made, err := s.makePod(e, &rs.Spec.Template, rs.Name+"-", "", nil)
		if err != nil {
			failure = err
			break
		}
		pods = append(pods, made)
		if n < 10 { // a note for each of thousands would help nobody
			if err := s.event(e, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: "+made.name, "replicaset-controller"); err != nil {
				return err
			}
		}
	}
	for len(pods) > int(*rs.Spec.Replicas) {
		last := pods[len(pods)-1]
		pods = pods[:len(pods)-1]
		if err := s.removeEntry(last); err != nil {
			return err
		}
	}
	return s.replicaSetStatus(e, rs, pods, failure)
}

func (s *Server) replicaSetStatus(e *entry, rs *appsv1.ReplicaSet, pods []*entry, failure error) error {
	status := appsv1.ReplicaSetStatus{ObservedGeneration: rs.Generation, Replicas: int32(len(pods)), FullyLabeledReplicas: int32(len(pods))}
	wait := time.Duration(rs.Spec.MinReadySeconds) * time.Second
	for _, p := range pods {
		if !p.pod.ready {
			continue
		}
		status.ReadyReplicas++
		if at := p.pod.readyAt.Add(wait); at.After(s.config.Now()) {
			s.later(e, at)
			continue
		}
		status.AvailableReplicas++
	}
	terminating := s.terminating([]*replicaSet{{rs, e}})
	status.TerminatingReplicas = &terminating
	if failure != nil {
		if err := tolerate(failure); err != nil {
			return err
		}
		status.Conditions = []appsv1.ReplicaSetCondition{{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: failure.Error(), LastTransitionTime: s.now()}}
		if old := rs.Status.Conditions; len(old) > 0 && old[0].Message == failure.Error() {
			status.Conditions = old
		}
		s.later(e, s.config.Now().Add(5*time.Second))
	}
	rs.Status = status
	_, err := s.write(e, rs)
	return err
}

// makePod makes one pod from a template. A name is given by controllers that choose it; prefix lets it be generated.
func (s *Server) makePod(owner *entry, template *corev1.PodTemplateSpec, prefix, name string, change func(*corev1.Pod)) (*entry, error) {
	pod := &corev1.Pod{ObjectMeta: *template.ObjectMeta.DeepCopy(), Spec: *template.Spec.DeepCopy()}
	pod.Name, pod.GenerateName = name, prefix
	pod.OwnerReferences = []metav1.OwnerReference{ownerReference(owner, owner.res.gvk.GroupVersion().String())}
	if change != nil {
		change(pod)
	}
	return s.make("pods", owner.namespace, pod)
}
