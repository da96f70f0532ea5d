package kubernetes

import (
	"encoding/json"
	"fmt"
	"sort"
	"time"

	"github.com/robfig/cron/v3"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// revisionName makes the controller revision of a template, if it does not stand yet, and yields its name and hash.
func (s *Server) revisionName(e *entry, template *corev1.PodTemplateSpec) (name, hash string, err error) {
	hash = templateHash(template, nil)
	name = e.name + "-" + hash
	if s.exists("controllerrevisions.apps", e.namespace, name) {
		return name, hash, nil
	}
	var highest int64
	for _, owned := range s.store.owned(e.uid) {
		if owned.res.storageKey() == "controllerrevisions.apps" {
			obj, err := s.decode(owned)
			if err != nil {
				return "", "", err
			}
			highest = max(highest, obj.(*appsv1.ControllerRevision).Revision)
		}
	}
	raw, err := json.Marshal(map[string]any{"spec": map[string]any{"template": template}})
	if err != nil {
		return "", "", err
	}
	revision := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: withLabel(template.Labels, "controller.kubernetes.io/hash", hash),
			OwnerReferences: []metav1.OwnerReference{ownerReference(e, appsv1.SchemeGroupVersion.String())},
		},
		Data: runtime.RawExtension{Raw: raw}, Revision: highest + 1,
	}
	_, err = s.make("controllerrevisions.apps", e.namespace, revision)
	return name, hash, err
}

func (s *Server) controlStatefulSet(e *entry, set *appsv1.StatefulSet) error {
	if e.deleting {
		return nil
	}
	if err := s.adopt(e, "pods", set.Spec.Selector, appsv1.SchemeGroupVersion.String()); err != nil {
		return err
	}
	revision, _, err := s.revisionName(e, &set.Spec.Template)
	if err != nil {
		return err
	}
	pods := map[string]*entry{}
	for _, p := range s.store.byOwner[e.uid] {
		if p.pod != nil {
			pods[p.name] = p
		}
	}
	ordered := set.Spec.PodManagementPolicy == appsv1.OrderedReadyPodManagement
	if err := s.fillStatefulSet(e, set, pods, revision, ordered); err != nil {
		return err
	}
	return s.statefulSetStatus(e, set, revision)
}

// fillStatefulSet takes the next step towards the wanted pods: make what is missing, take away what is too much, then
// replace what is out of date from the highest ordinal down. In order, each pod waits for the one before it.
func (s *Server) fillStatefulSet(e *entry, set *appsv1.StatefulSet, pods map[string]*entry, revision string, ordered bool) error {
	want := int(*set.Spec.Replicas)
	for i := range want {
		name := fmt.Sprintf("%s-%d", set.Name, i)
		p := pods[name]
		if p == nil {
			if err := s.makeStatefulPod(e, set, name, i, revision); err != nil {
				return err
			}
		}
		if ordered && (p == nil || !p.pod.ready || p.deleting) {
			return nil
		}
	}
	var surplus []*entry
	for name, p := range pods {
		if ordinal(set.Name, name) >= want {
			surplus = append(surplus, p)
		}
	}
	sort.Slice(surplus, func(i, j int) bool {
		return ordinal(set.Name, surplus[i].name) > ordinal(set.Name, surplus[j].name)
	})
	for _, p := range surplus {
		if !p.deleting {
			if err := s.removeEntry(p); err != nil {
				return err
			}
		}
		if ordered {
			return nil
		}
	}
	return s.rollStatefulSet(set, pods, revision, want)
}

func ordinal(set, pod string) int {
	n := -1
	if _, err := fmt.Sscanf(pod[min(len(pod), len(set)):], "-%d", &n); err != nil {
		return -1
	}
	return n
}

func (s *Server) rollStatefulSet(set *appsv1.StatefulSet, pods map[string]*entry, revision string, want int) error {
	if set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return nil
	}
	partition := 0
	if ru := set.Spec.UpdateStrategy.RollingUpdate; ru != nil && ru.Partition != nil {
		partition = int(*ru.Partition)
	}
	for i := want - 1; i >= partition; i-- {
		p := pods[fmt.Sprintf("%s-%d", set.Name, i)]
		if p == nil || p.deleting {
			return nil
		}
		if p.pod.hash != revision {
			return s.removeEntry(p)
		}
		if !p.pod.ready {
			return nil
		}
	}
	return nil
}

func (s *Server) makeStatefulPod(e *entry, set *appsv1.StatefulSet, name string, index int, revision string) error {
	for i := range set.Spec.VolumeClaimTemplates {
		claim := set.Spec.VolumeClaimTemplates[i].DeepCopy()
		claim.Name = claim.Name + "-" + name
		claim.Labels = cloneLabels(set.Spec.Selector.MatchLabels)
		if s.exists("persistentvolumeclaims", set.Namespace, claim.Name) {
			continue
		}
		if _, err := s.make("persistentvolumeclaims", set.Namespace, claim); err != nil {
			return err
		}
	}
	_, err := s.makePod(e, &set.Spec.Template, "", name, func(pod *corev1.Pod) {
		pod.Labels = withLabel(pod.Labels, appsv1.ControllerRevisionHashLabelKey, revision)
		pod.Labels[appsv1.StatefulSetPodNameLabel] = name
		pod.Labels[appsv1.PodIndexLabel] = fmt.Sprint(index)
		pod.Spec.Hostname, pod.Spec.Subdomain = name, set.Spec.ServiceName
		for _, template := range set.Spec.VolumeClaimTemplates {
			pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: template.Name, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: template.Name + "-" + name},
			}})
		}
	})
	return err
}

func (s *Server) statefulSetStatus(e *entry, set *appsv1.StatefulSet, revision string) error {
	status := appsv1.StatefulSetStatus{ObservedGeneration: set.Generation, CurrentRevision: set.Status.CurrentRevision, UpdateRevision: revision, CollisionCount: new(int32)}
	if status.CurrentRevision == "" {
		status.CurrentRevision = revision
	}
	for _, p := range s.store.byOwner[e.uid] {
		if p.pod == nil {
			continue
		}
		status.Replicas++
		if p.pod.ready && !p.deleting {
			status.ReadyReplicas++
			status.AvailableReplicas++
		}
		if p.pod.hash == revision && !p.deleting {
			status.UpdatedReplicas++
		}
		if p.pod.hash == status.CurrentRevision && !p.deleting {
			status.CurrentReplicas++
		}
	}
	if status.UpdatedReplicas == *set.Spec.Replicas && status.ReadyReplicas == *set.Spec.Replicas && status.Replicas == *set.Spec.Replicas {
		status.CurrentRevision, status.CurrentReplicas = revision, status.UpdatedReplicas
	}
	set.Status = status
	_, err := s.write(e, set)
	return err
}

func (s *Server) controlDaemonSet(e *entry, set *appsv1.DaemonSet) error {
	if e.deleting {
		return nil
	}
	_, hash, err := s.revisionName(e, &set.Spec.Template)
	if err != nil {
		return err
	}
	byNode := map[string][]*entry{}
	for _, p := range s.activePods(e) {
		byNode[p.pod.node] = append(byNode[p.pod.node], p)
	}
	status := appsv1.DaemonSetStatus{ObservedGeneration: set.Generation}
	var outdated []*entry
	for _, node := range s.store.list("nodes", "") {
		eligible := labels.SelectorFromSet(set.Spec.Template.Spec.NodeSelector).Matches(labels.Set(node.labels))
		pods := byNode[node.name]
		delete(byNode, node.name)
		if !eligible {
			byNode[node.name] = pods
			continue
		}
		status.DesiredNumberScheduled++
		if len(pods) == 0 {
			_, err := s.makePod(e, &set.Spec.Template, set.Name+"-", "", func(pod *corev1.Pod) {
				pod.Labels = withLabel(pod.Labels, appsv1.ControllerRevisionHashLabelKey, hash)
				pod.Spec.NodeName = node.name
			})
			if err != nil {
				return err
			}
			continue
		}
		status.CurrentNumberScheduled++
		if pods[0].pod.ready {
			status.NumberReady++
			status.NumberAvailable++
		}
		if pods[0].pod.hash == hash {
			status.UpdatedNumberScheduled++
			continue
		}
		outdated = append(outdated, pods[0])
	}
	if err := s.retireDaemons(set, byNode, outdated, &status); err != nil {
		return err
	}
	status.NumberUnavailable = status.DesiredNumberScheduled - status.NumberAvailable
	set.Status = status
	_, err = s.write(e, set)
	return err
}

// retireDaemons takes away pods of nodes that are not to have one, and outdated ones within maxUnavailable.
func (s *Server) retireDaemons(set *appsv1.DaemonSet, strays map[string][]*entry, outdated []*entry, status *appsv1.DaemonSetStatus) error {
	for _, pods := range strays {
		for _, p := range pods {
			if err := s.removeEntry(p); err != nil {
				return err
			}
		}
	}
	if set.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
		return nil
	}
	limit := 1
	if ru := set.Spec.UpdateStrategy.RollingUpdate; ru != nil && ru.MaxUnavailable != nil {
		n, err := intstr.GetScaledValueFromIntOrPercent(ru.MaxUnavailable, int(status.DesiredNumberScheduled), true)
		if err == nil {
			limit = max(n, 1)
		}
	}
	room := limit - int(status.DesiredNumberScheduled-status.NumberAvailable)
	for _, p := range outdated {
		if p.pod.ready && room <= 0 {
			continue
		}
		if p.pod.ready {
			room--
		}
		if err := s.removeEntry(p); err != nil {
			return err
		}
	}
	return nil
}

func parseSchedule(schedule, zone string) (cron.Schedule, error) {
	if zone != "" {
		schedule = "CRON_TZ=" + zone + " " + schedule
	}
	return cron.ParseStandard(schedule)
}

func (s *Server) controlCronJob(e *entry, cj *batchv1.CronJob) error {
	if e.deleting || isTrue(cj.Spec.Suspend) {
		return nil
	}
	zone := "UTC"
	if cj.Spec.TimeZone != nil {
		zone = *cj.Spec.TimeZone
	}
	schedule, err := parseSchedule(cj.Spec.Schedule, zone)
	if err != nil {
		return nil // validation lets this through only for an unknown time zone, and a real controller waits, too
	}
	last := cj.CreationTimestamp.Time
	if cj.Status.LastScheduleTime != nil {
		last = cj.Status.LastScheduleTime.Time
	}
	now := s.config.Now()
	next := schedule.Next(last)
	for n := schedule.Next(next); !n.After(now) && !n.IsZero(); n = schedule.Next(n) {
		next = n // of several missed runs only the last is made up for
	}
	jobs, err := s.jobsOf(e)
	if err != nil {
		return err
	}
	cj.Status.Active = nil
	for _, j := range jobs {
		if !jobDone(j.job) {
			cj.Status.Active = append(cj.Status.Active, corev1.ObjectReference{Kind: "Job", APIVersion: "batch/v1", Namespace: e.namespace, Name: j.entry.name, UID: j.entry.uid})
		}
	}
	if now.Before(next) {
		s.later(e, next)
		_, err := s.write(e, cj)
		return err
	}
	if cj.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(cj.Status.Active) > 0 {
		s.later(e, now.Add(time.Second))
		return nil
	}
	return s.startCronJob(e, cj, jobs, next)
}

type ownedJob struct {
	job   *batchv1.Job
	entry *entry
}

func (s *Server) jobsOf(e *entry) ([]ownedJob, error) {
	var jobs []ownedJob
	for _, owned := range s.store.owned(e.uid) {
		if owned.res.storageKey() != "jobs.batch" {
			continue
		}
		obj, err := s.decode(owned)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, ownedJob{obj.(*batchv1.Job), owned})
	}
	return jobs, nil
}

func (s *Server) startCronJob(e *entry, cj *batchv1.CronJob, jobs []ownedJob, at time.Time) error {
	keep := int(*cj.Spec.SuccessfulJobsHistoryLimit)
	for i := len(jobs) - 1; i >= 0; i-- {
		replaced := cj.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent && !jobDone(jobs[i].job)
		if jobDone(jobs[i].job) {
			keep--
		}
		if replaced || keep < 0 && jobDone(jobs[i].job) {
			if err := s.removeEntry(jobs[i].entry); err != nil {
				return err
			}
		}
	}
	job := &batchv1.Job{ObjectMeta: *cj.Spec.JobTemplate.ObjectMeta.DeepCopy(), Spec: *cj.Spec.JobTemplate.Spec.DeepCopy()}
	job.Name = fmt.Sprintf("%s-%d", cj.Name, at.Unix()/60)
	job.OwnerReferences = []metav1.OwnerReference{ownerReference(e, batchv1.SchemeGroupVersion.String())}
	if !s.exists("jobs.batch", e.namespace, job.Name) {
		if _, err := s.make("jobs.batch", e.namespace, job); err != nil {
			return err
		}
	}
	scheduled := metav1.NewTime(at.UTC())
	cj.Status.LastScheduleTime = &scheduled
	_, err := s.write(e, cj)
	return err
}

func (s *Server) controlBudget(e *entry, b *policyv1.PodDisruptionBudget) error {
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return nil
	}
	status := policyv1.PodDisruptionBudgetStatus{ObservedGeneration: b.Generation}
	for _, p := range s.store.objects["pods"][e.namespace] {
		if p.deleting || !selector.Matches(labels.Set(p.labels)) {
			continue
		}
		status.ExpectedPods++
		if p.pod.ready {
			status.CurrentHealthy++
		}
	}
	if b.Spec.MinAvailable != nil {
		n, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MinAvailable, int(status.ExpectedPods), true)
		if err == nil {
			status.DesiredHealthy = int32(n)
		}
	}
	if b.Spec.MaxUnavailable != nil {
		n, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MaxUnavailable, int(status.ExpectedPods), true)
		if err == nil {
			status.DesiredHealthy = max(0, status.ExpectedPods-int32(n))
		}
	}
	status.DisruptionsAllowed = max(0, status.CurrentHealthy-status.DesiredHealthy)
	value, reason := metav1.ConditionTrue, policyv1.SufficientPodsReason
	if status.DisruptionsAllowed == 0 {
		value, reason = metav1.ConditionFalse, policyv1.InsufficientPodsReason
	}
	condition := metav1.Condition{Type: policyv1.DisruptionAllowedCondition, Status: value, Reason: reason, ObservedGeneration: b.Generation, LastTransitionTime: s.now()}
	if old := b.Status.Conditions; len(old) == 1 && old[0].Status == value {
		condition.LastTransitionTime = old[0].LastTransitionTime
	}
	status.Conditions = []metav1.Condition{condition}
	b.Status = status
	_, err = s.write(e, b)
	return err
}
