package kubernetes

import (
	"fmt"
	"hash/fnv"
	"regexp"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// A pod goes this way: Pending without a node → bound by the scheduler → its containers wait (for images, config or
// claims) → Running and, after the delay, Ready → for jobs: Succeeded or Failed. Deleted pods stop after a moment.

// controlPod is the scheduler and the kubelet for one pod.
func (s *Server) controlPod(e *entry, pod *corev1.Pod) error {
	if pod.DeletionTimestamp != nil {
		return s.stopPod(e, pod)
	}
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	if pod.Spec.NodeName == "" && !s.schedule(pod) {
		s.later(e, s.config.Now().Add(time.Second))
		return s.unschedulable(e, pod)
	}
	now := s.config.Now()
	first := s.work.since(e.uid, e.created, now)
	s.setPodCondition(pod, corev1.PodScheduled, corev1.ConditionTrue, "", "")
	pod.Status.HostIP = s.nodeAddress(pod.Spec.NodeName)
	pod.Status.HostIPs = []corev1.HostIP{{IP: pod.Status.HostIP}}
	pod.Status.QOSClass = qosClass(&pod.Spec)
	pod.Status.ObservedGeneration = pod.Generation
	if pod.Status.StartTime == nil {
		at := s.now()
		pod.Status.StartTime = &at
	}
	if reason, message := s.obstacle(pod); reason != "" {
		return s.holdPod(e, pod, reason, message)
	}
	ready := first.Add(s.config.Latency("kubernetes.pod.ready"))
	if now.Before(ready) {
		s.later(e, ready)
		s.setContainers(pod, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}, false)
		s.setReady(pod, false)
		_, err := s.write(e, pod)
		return err
	}
	return s.runPod(e, pod, ready)
}

func (s *Server) runPod(e *entry, pod *corev1.Pod, started time.Time) error {
	now := s.config.Now()
	pod.Status.Phase = corev1.PodRunning
	if pod.Status.PodIP == "" {
		pod.Status.PodIP = podIP(e.uid, pod.Spec.NodeName)
		if pod.Spec.HostNetwork {
			pod.Status.PodIP = pod.Status.HostIP
		}
		pod.Status.PodIPs = []corev1.PodIP{{IP: pod.Status.PodIP}}
	}
	passes := started.Add(readinessDelay(pod))
	isReady := !now.Before(passes)
	if !isReady {
		s.later(e, passes)
	}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(started.UTC().Truncate(time.Second))}}
	if code, ends := exitCode(pod); ends {
		done := started.Add(s.config.Latency("kubernetes.job.complete"))
		if !now.Before(done) {
			return s.finishPod(e, pod, started, code)
		}
		s.later(e, done)
	}
	s.setContainers(pod, running, isReady)
	s.setReady(pod, isReady)
	_, err := s.write(e, pod)
	return err
}

func readinessDelay(pod *corev1.Pod) time.Duration {
	var delay time.Duration
	for _, c := range pod.Spec.Containers {
		if c.ReadinessProbe != nil {
			delay = max(delay, time.Duration(c.ReadinessProbe.InitialDelaySeconds)*time.Second)
		}
	}
	return delay
}

var exitCommand = regexp.MustCompile(`\bexit\s+(\d+)\s*$`)

// exitCode says whether a pod ends by itself, and how: pods of jobs do, with what their command plainly says.
func exitCode(pod *corev1.Pod) (code int32, ends bool) {
	owner := metav1.GetControllerOfNoCopy(pod)
	if owner == nil || owner.Kind != "Job" {
		return 0, false
	}
	for _, c := range pod.Spec.Containers {
		words := append(append([]string(nil), c.Command...), c.Args...)
		if len(words) == 0 {
			continue
		}
		if words[0] == "false" || words[0] == "/bin/false" {
			return 1, true
		}
		if m := exitCommand.FindStringSubmatch(words[len(words)-1]); m != nil {
			n, err := strconv.Atoi(m[1])
			if err == nil && n > 0 && n < 256 {
				return int32(n), true
			}
		}
	}
	return 0, true
}

func (s *Server) finishPod(e *entry, pod *corev1.Pod, started time.Time, code int32) error {
	reason := "Completed"
	pod.Status.Phase = corev1.PodSucceeded
	if code != 0 {
		reason = "Error"
		pod.Status.Phase = corev1.PodFailed
	}
	s.setContainers(pod, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: code, Reason: reason, StartedAt: metav1.NewTime(started.UTC().Truncate(time.Second)), FinishedAt: s.now(),
	}}, false)
	for _, kind := range []corev1.PodConditionType{corev1.PodReady, corev1.ContainersReady} {
		s.setPodCondition(pod, kind, corev1.ConditionFalse, "Pod"+strings.ToUpper(reason[:1])+reason[1:], "")
	}
	_, err := s.write(e, pod)
	return err
}

// stopPod plays the kubelet that ends a pod's containers: quickly, and never later than the grace period.
func (s *Server) stopPod(e *entry, pod *corev1.Pod) error {
	grace := time.Duration(0)
	if pod.DeletionGracePeriodSeconds != nil {
		grace = time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
	}
	begun := pod.DeletionTimestamp.Add(-grace)
	stopped := s.work.since(e.uid+"/stop", begun, s.config.Now()).Add(min(grace, s.config.Latency("kubernetes.pod.deleted")))
	if s.config.Now().Before(stopped) {
		s.later(e, stopped)
		if e.pod.ready {
			s.setReady(pod, false)
			_, err := s.write(e, pod)
			return err
		}
		return nil
	}
	s.work.forget(e.uid + "/stop")
	zero := int64(0)
	_, _, err := s.delete(e, &metav1.DeleteOptions{GracePeriodSeconds: &zero})
	return err
}

// schedule binds a pod to the node that has the fewest pods among those it may run on.
func (s *Server) schedule(pod *corev1.Pod) bool {
	load := s.store.load
	best := ""
	for _, e := range s.store.list("nodes", "") {
		if e.deleting || e.fields["spec.unschedulable"] == "true" || !labels.SelectorFromSet(pod.Spec.NodeSelector).Matches(labels.Set(e.labels)) {
			continue
		}
		if best == "" || load[e.name] < load[best] {
			best = e.name
		}
	}
	pod.Spec.NodeName = best
	return best != ""
}

func (s *Server) unschedulable(e *entry, pod *corev1.Pod) error {
	nodes := len(s.store.objects["nodes"][""])
	s.setPodCondition(pod, corev1.PodScheduled, corev1.ConditionFalse, corev1.PodReasonUnschedulable,
		fmt.Sprintf("0/%d nodes are available: %d node(s) didn't match Pod's node affinity/selector.", nodes, nodes))
	_, err := s.write(e, pod)
	return err
}

// obstacle is what keeps the containers of a pod from starting: an image that cannot be pulled, or config, secrets or
// claims that are not there.
func (s *Server) obstacle(pod *corev1.Pod) (reason, message string) {
	for _, v := range pod.Spec.Volumes {
		switch {
		case v.ConfigMap != nil && !isTrue(v.ConfigMap.Optional) && !s.exists("configmaps", pod.Namespace, v.ConfigMap.Name):
			return "ContainerCreating", fmt.Sprintf("MountVolume.SetUp failed for volume %q : configmap %q not found", v.Name, v.ConfigMap.Name)
		case v.Secret != nil && !isTrue(v.Secret.Optional) && !s.exists("secrets", pod.Namespace, v.Secret.SecretName):
			return "ContainerCreating", fmt.Sprintf("MountVolume.SetUp failed for volume %q : secret %q not found", v.Name, v.Secret.SecretName)
		case v.PersistentVolumeClaim != nil && !s.claimBound(pod.Namespace, v.PersistentVolumeClaim.ClaimName):
			return "ContainerCreating", fmt.Sprintf("persistentvolumeclaim %q is not bound", v.PersistentVolumeClaim.ClaimName)
		}
	}
	for _, c := range append(pod.Spec.InitContainers[:len(pod.Spec.InitContainers):len(pod.Spec.InitContainers)], pod.Spec.Containers...) {
		if missingImage(c.Image) {
			return "ImagePullBackOff", fmt.Sprintf("Back-off pulling image %q: ErrImagePull: failed to resolve reference %q: not found", c.Image, c.Image)
		}
		if missing := s.missingConfig(pod.Namespace, &c); missing != "" {
			return "CreateContainerConfigError", missing
		}
	}
	return "", ""
}

// missingImage is true for names that say so themselves: the sandbox has no registry to ask.
func missingImage(image string) bool {
	return strings.Contains(image, "missing") || strings.Contains(image, "does-not-exist")
}

func isTrue(b *bool) bool { return b != nil && *b }

func (s *Server) exists(storage, namespace, name string) bool {
	return s.store.get(objectKey{storage, namespace, name}) != nil
}

func (s *Server) missingConfig(namespace string, c *corev1.Container) string {
	for _, from := range c.EnvFrom {
		if r := from.ConfigMapRef; r != nil && !isTrue(r.Optional) && !s.exists("configmaps", namespace, r.Name) {
			return fmt.Sprintf("configmap %q not found", r.Name)
		}
		if r := from.SecretRef; r != nil && !isTrue(r.Optional) && !s.exists("secrets", namespace, r.Name) {
			return fmt.Sprintf("secret %q not found", r.Name)
		}
	}
	for _, env := range c.Env {
		if env.ValueFrom == nil {
			continue
		}
		if r := env.ValueFrom.ConfigMapKeyRef; r != nil && !isTrue(r.Optional) && !s.exists("configmaps", namespace, r.Name) {
			return fmt.Sprintf("configmap %q not found", r.Name)
		}
		if r := env.ValueFrom.SecretKeyRef; r != nil && !isTrue(r.Optional) && !s.exists("secrets", namespace, r.Name) {
			return fmt.Sprintf("secret %q not found", r.Name)
		}
	}
	return ""
}

// retryHeld is how often a pod that something holds up is looked at again.
const retryHeld = time.Second

func (s *Server) holdPod(e *entry, pod *corev1.Pod, reason, message string) error {
	s.setContainers(pod, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}, false)
	s.setReady(pod, false)
	if !missingImage(message) || reason != "ImagePullBackOff" {
		s.later(e, s.config.Now().Add(retryHeld))
	}
	changed, err := s.write(e, pod)
	if err != nil || changed.rv == e.rv {
		return err
	}
	why := map[string]string{"ImagePullBackOff": "BackOff", "CreateContainerConfigError": "Failed", "ContainerCreating": "FailedMount"}[reason]
	return s.event(changed, corev1.EventTypeWarning, why, message, "kubelet")
}

func (s *Server) setContainers(pod *corev1.Pod, state corev1.ContainerState, ready bool) {
	started := state.Running != nil
	old := pod.Status.ContainerStatuses
	pod.Status.ContainerStatuses = nil
	for i, c := range pod.Spec.Containers {
		status := corev1.ContainerStatus{Name: c.Name, Image: c.Image, State: *state.DeepCopy(), Ready: ready && started, Started: &started}
		if i < len(old) {
			status.RestartCount = old[i].RestartCount
		}
		if state.Waiting == nil {
			status.ImageID = fmt.Sprintf("sandbox/%s@sha256:%064x", c.Image, hashOf(c.Image))
			status.ContainerID = fmt.Sprintf("containerd://%064x", hashOf(string(pod.UID)+c.Name))
		}
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, status)
	}
	pod.Status.InitContainerStatuses = nil
	for _, c := range pod.Spec.InitContainers {
		status := corev1.ContainerStatus{Name: c.Name, Image: c.Image, State: *state.DeepCopy()}
		if state.Waiting == nil {
			status.Ready = true
			status.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: *pod.Status.StartTime, FinishedAt: *pod.Status.StartTime}}
		}
		pod.Status.InitContainerStatuses = append(pod.Status.InitContainerStatuses, status)
	}
}

func hashOf(text string) []byte {
	h := fnv.New128a()
	fmt.Fprint(h, text)
	return append(h.Sum(nil), h.Sum([]byte("0123456789abcdef"))[:16]...)
}

func (s *Server) setReady(pod *corev1.Pod, ready bool) {
	value, reason, message := corev1.ConditionTrue, "", ""
	if !ready {
		var names []string
		for _, c := range pod.Spec.Containers {
			names = append(names, c.Name)
		}
		value, reason = corev1.ConditionFalse, "ContainersNotReady"
		message = fmt.Sprintf("containers with unready status: [%s]", strings.Join(names, " "))
	}
	started := corev1.ConditionFalse
	if pod.Status.Phase == corev1.PodRunning {
		started = corev1.ConditionTrue
	}
	s.setPodCondition(pod, corev1.PodReadyToStartContainers, started, "", "")
	s.setPodCondition(pod, corev1.PodInitialized, corev1.ConditionTrue, "", "")
	s.setPodCondition(pod, corev1.PodReady, value, reason, message)
	s.setPodCondition(pod, corev1.ContainersReady, value, reason, message)
}

func (s *Server) setPodCondition(pod *corev1.Pod, kind corev1.PodConditionType, value corev1.ConditionStatus, reason, message string) {
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		if c.Type != kind {
			continue
		}
		if c.Status != value {
			c.LastTransitionTime = s.now()
		}
		c.Status, c.Reason, c.Message = value, reason, message
		return
	}
	pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{
		Type: kind, Status: value, Reason: reason, Message: message,
		ObservedGeneration: pod.Generation, LastTransitionTime: s.now(),
	})
}

func qosClass(spec *corev1.PodSpec) corev1.PodQOSClass {
	guaranteed, any := true, false
	for _, c := range spec.Containers {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			limit, limited := c.Resources.Limits[name]
			request, requested := c.Resources.Requests[name]
			any = any || limited || requested
			if !limited || requested && request.Cmp(limit) != 0 {
				guaranteed = false
			}
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// podIP derives an address from the pod's identity, in the cluster's pod range 10.244.0.0/16 or beyond it when full.
func podIP(uid types.UID, node string) string {
	h := hashOf(string(uid) + node)
	return fmt.Sprintf("10.%d.%d.%d", 128+int(h[0])%64, h[1], 1+int(h[2])%254)
}

func (s *Server) nodeAddress(name string) string {
	e := s.store.get(objectKey{"nodes", "", name})
	if e == nil {
		return ""
	}
	return e.address
}

// Jobs.

func (s *Server) controlJob(e *entry, job *batchv1.Job) error {
	if e.deleting {
		return nil
	}
	if jobDone(job) {
		return s.expireJob(e, job)
	}
	if job.Status.StartTime == nil && !isTrue(job.Spec.Suspend) {
		at := s.now()
		job.Status.StartTime = &at
	}
	var active []*entry
	var succeeded, failed, ready int32
	for _, p := range s.store.byOwner[e.uid] {
		switch {
		case p.pod == nil:
		case p.pod.phase == corev1.PodSucceeded:
			succeeded++
		case p.pod.phase == corev1.PodFailed:
			failed++
		case !p.deleting:
			active = append(active, p)
			if p.pod.ready {
				ready++
			}
		}
	}
	want := *job.Spec.Parallelism
	if job.Spec.Completions != nil {
		want = min(want, *job.Spec.Completions-succeeded)
	}
	if job.Spec.Completions == nil && succeeded > 0 {
		want = 0
	}
	if isTrue(job.Spec.Suspend) || failed > *job.Spec.BackoffLimit {
		want = 0
	}
	for int32(len(active)) > max(want, 0) {
		if err := s.removeEntry(active[len(active)-1]); err != nil {
			return err
		}
		active = active[:len(active)-1]
	}
	for int32(len(active)) < want {
		made, err := s.makePod(e, &job.Spec.Template, job.Name+"-", "", nil)
		if err != nil {
			return err
		}
		active = append(active, made)
	}
	job.Status.Active, job.Status.Succeeded, job.Status.Failed, job.Status.Ready = int32(len(active)), succeeded, failed, &ready
	s.judgeJob(e, job)
	_, err := s.write(e, job)
	return err
}

func (s *Server) judgeJob(e *entry, job *batchv1.Job) {
	complete := job.Spec.Completions != nil && job.Status.Succeeded >= *job.Spec.Completions ||
		job.Spec.Completions == nil && job.Status.Succeeded > 0 && job.Status.Active == 0
	now := s.now()
	add := func(kind batchv1.JobConditionType, reason, message string) {
		job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{
			Type: kind, Status: corev1.ConditionTrue,
			Reason: reason, Message: message, LastProbeTime: now, LastTransitionTime: now,
		})
	}
	if complete {
		job.Status.CompletionTime = &now
		add(batchv1.JobSuccessCriteriaMet, "CompletionsReached", "Reached expected number of succeeded pods")
		add(batchv1.JobComplete, "CompletionsReached", "Reached expected number of succeeded pods")
		return
	}
	if job.Status.Failed > *job.Spec.BackoffLimit {
		add(batchv1.JobFailureTarget, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
		add(batchv1.JobFailed, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
		return
	}
	if job.Spec.ActiveDeadlineSeconds == nil || job.Status.StartTime == nil {
		return
	}
	deadline := job.Status.StartTime.Add(time.Duration(*job.Spec.ActiveDeadlineSeconds) * time.Second)
	if s.config.Now().Before(deadline) {
		s.later(e, deadline)
		return
	}
	add(batchv1.JobFailed, "DeadlineExceeded", "Job was active longer than specified deadline")
}

func jobDone(job *batchv1.Job) bool {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

func (s *Server) expireJob(e *entry, job *batchv1.Job) error {
	for _, p := range s.activePods(e) {
		if err := s.removeEntry(p); err != nil {
			return err
		}
	}
	if job.Spec.TTLSecondsAfterFinished == nil {
		return nil
	}
	ended := job.Status.Conditions[len(job.Status.Conditions)-1].LastTransitionTime
	expires := ended.Add(time.Duration(*job.Spec.TTLSecondsAfterFinished) * time.Second)
	if s.config.Now().Before(expires) {
		s.later(e, expires)
		return nil
	}
	return s.removeEntry(e)
}
