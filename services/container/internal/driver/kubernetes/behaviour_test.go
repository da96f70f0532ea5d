package kubernetes

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// patience is how long a cluster may take for anything that these tests wait for.
const patience = time.Minute

// await repeats a look at a process outside until it is content.
func (p *peer) await(t *testing.T, what string, look func() (done bool, state any)) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		done, state := look()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come about; last seen: %v", what, state)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// drive does what the loop above drivers does: it updates while the object is outdated, until the observation is wanted.
func drive[O any](t *testing.T, p *peer, what string, observe func() (map[string]O, error), state func(O) driver.State, update func() error, wanted func(O) bool) {
	t.Helper()
	p.await(t, what, func() (bool, any) {
		all, err := observe()
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range all {
			if wanted(o) {
				return true, o
			}
			if state(o) == driver.Outdated {
				if err := update(); err != nil && !fault.Is(err, fault.Conflict) {
					t.Fatal(err)
				}
			}
		}
		return false, fmt.Sprintf("%+v", all)
	})
}

// settleWorkload drives a workload until its observation is wanted.
func (p *peer) settleWorkload(t *testing.T, id string, r workloadRequest, wanted func(workloadSeen) bool) {
	t.Helper()
	w := p.workloads()
	drive(t, p, "the workload", func() (map[string]workloadSeen, error) { return w.Observe(t.Context(), []string{id}) },
		func(o workloadSeen) driver.State { return o.State }, func() error { return w.Update(t.Context(), id, r) }, wanted)
}

func (p *peer) settleManifest(t *testing.T, id string, r manifestRequest, wanted func(manifestSeen) bool) {
	t.Helper()
	m := p.manifests()
	drive(t, p, "the manifest", func() (map[string]manifestSeen, error) { return m.Observe(t.Context(), []string{id}) },
		func(o manifestSeen) driver.State { return o.State }, func() error { return m.Update(t.Context(), id, r) }, wanted)
}

// release deletes until nothing is observed.
func release(t *testing.T, p *peer, remove func(context.Context, string) error, gone func(context.Context) (bool, error), id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p.await(t, "the release of "+id, func() (bool, any) {
		err := remove(ctx, id)
		if fault.Is(err, fault.Precondition) {
			return false, err
		}
		if err != nil {
			t.Fatal(err)
		}
		done, err := gone(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return done, "still there"
	})
}

func (p *peer) releaseWorkload(t *testing.T, id string) {
	t.Helper()
	w := p.workloads()
	release(t, p, w.Delete, func(ctx context.Context) (bool, error) {
		all, err := w.Observe(ctx, []string{id})
		return len(all) == 0, err
	}, id)
}

func (p *peer) releaseManifest(t *testing.T, id string) {
	t.Helper()
	m := p.manifests()
	release(t, p, m.Delete, func(ctx context.Context) (bool, error) {
		all, err := m.Observe(ctx, []string{id})
		return len(all) == 0, err
	}, id)
}

func newWorkload(namespace, image string) workloadRequest {
	return workloadRequest{Key: uuid.NewString(), Name: "tenants/test/workloads/shop.web", Generation: 1, Spec: workloadSpec(namespace, image)}
}

func newManifest(namespace, text string) manifestRequest {
	return manifestRequest{Key: uuid.NewString(), Name: "tenants/test/manifests/shop.extras", Generation: 1, Spec: &containerv1.ManifestSpec{Namespace: namespace, Yaml: text}}
}

func TestWorkloadThatCrashedAfterCreateIsFoundAndReleased(t *testing.T) {
	peers(t, func(t *testing.T, p *peer) {
		w, r := p.workloads(), newWorkload(p.namespace(t), p.image)
		id, err := w.Create(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if found, err := w.Find(t.Context(), workloadRequest{Key: r.Key, Name: r.Name}); err != nil || !slices.Equal(found, []string{id}) {
			t.Errorf("find without a spec = %v, %v; want %s", found, err, id)
		}
		p.releaseWorkload(t, id)
		p.empty(t, r.Spec.GetNamespace())
	})
}

// empty holds a namespace to bear no object of ours.
func (p *peer) empty(t *testing.T, namespace string) {
	t.Helper()
	for _, kind := range append(slices.Clone(workloadParts), replicaSets, pods) {
		left, err := list(t.Context(), client(p.session, kind, namespace), labelKey)
		if err != nil || len(left) > 0 {
			t.Errorf("%d %s are left (%v)", len(left), kind.Resource.Resource, err)
		}
	}
}

func TestWorkloadPartsThatSomebodyDeletedComeBack(t *testing.T) {
	peers(t, func(t *testing.T, p *peer) {
		w, r := p.workloads(), newWorkload(p.namespace(t), p.image)
		id, err := w.Create(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		ready := func(o workloadSeen) bool { return o.State == driver.Ready }
		p.settleWorkload(t, id, r, ready)
		ns, name := r.Spec.GetNamespace(), objectName(r.Name)
		if err := p.session.Typed.CoreV1().Services(ns).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		p.settleWorkload(t, id, r, func(o workloadSeen) bool { return o.State == driver.Outdated })
		p.settleWorkload(t, id, r, ready)
		background := metav1.DeletePropagationBackground
		if err := p.session.Typed.AppsV1().Deployments(ns).Delete(t.Context(), name, metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
			t.Fatal(err)
		}
		p.settleWorkload(t, id, r, ready)
		p.releaseWorkload(t, id)
		p.empty(t, ns)
	})
}

func TestWorkloadThatLosesItsPortsLosesItsService(t *testing.T) {
	peers(t, func(t *testing.T, p *peer) {
		w, r := p.workloads(), newWorkload(p.namespace(t), p.image)
		id, err := w.Create(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		p.settleWorkload(t, id, r, func(o workloadSeen) bool { return o.State == driver.Ready && o.Observed.GetAddress() != "" })
		r.Spec.Containers[0].Ports, r.Spec.Containers[0].Mounts, r.Spec.Volumes = nil, nil, nil
		if err := w.Update(t.Context(), id, r); err != nil {
			t.Fatal(err)
		}
		p.settleWorkload(t, id, r, func(o workloadSeen) bool { return o.State == driver.Ready && o.Observed.GetHost() == "" })
		left, err := list(t.Context(), client(p.session, configMaps, r.Spec.GetNamespace()), labelKey)
		if err != nil || len(left) > 0 {
			t.Errorf("%d config maps are left (%v)", len(left), err)
		}
		p.releaseWorkload(t, id)
	})
}

func TestWorkloadSaysWhatItsPodsWaitFor(t *testing.T) {
	peers(t, func(t *testing.T, p *peer) {
		r := newWorkload(p.namespace(t), p.image)
		r.Spec.Containers[0].Image = "registry.invalid/missing:1"
		id, err := p.workloads().Create(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		p.settleWorkload(t, id, r, func(o workloadSeen) bool {
			return o.State == driver.Progressing && fault.Field(o.Fault) == "spec.containers[0].image" && strings.Contains(o.Fault.Error(), "registry.invalid/missing:1")
		})
		p.releaseWorkload(t, id)
	})
}

func TestWorkloadDoesNotTakeOverWhatIsSomebodyElses(t *testing.T) {
	peers(t, func(t *testing.T, p *peer) {
		ns, w := p.namespace(t), p.workloads()
		mine, theirs := newWorkload(ns, p.image), newWorkload(ns, p.image)
		theirs.Name = "tenants/other/workloads/shop.web"
		id, err := w.Create(t.Context(), theirs)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Create(t.Context(), mine); !fault.Is(err, fault.Exists) || !strings.Contains(err.Error(), theirs.Name) {
			t.Errorf("create = %v (%s), want Exists that names %s", err, fault.KindOf(err), theirs.Name)
		}
		findings, _, err := w.Check(t.Context(), []driver.Item[*containerv1.WorkloadSpec]{{Name: mine.Name, Spec: mine.Spec, Change: kindv1.Change_CHANGE_CREATE}})
		if err != nil || len(findings) != 1 || !fault.Is(findings[0].Fault, fault.Exists) {
			t.Errorf("check = %v, %v; want one finding, Exists", findings, err)
		}
		p.releaseWorkload(t, id)
		mine.Spec.Namespace = "weft-missing"
		if _, err := w.Create(t.Context(), mine); !fault.Is(err, fault.Precondition) || fault.Field(err) != "spec.namespace" {
			t.Errorf("create in a namespace that is missing = %v, want Precondition in spec.namespace", err)
		}
	})
}

func TestWorkloadHeldByAFinalizerNamesIt(t *testing.T) {
	peers(t, func(t *testing.T, p *peer) {
		w, r := p.workloads(), newWorkload(p.namespace(t), p.image)
		w.now = func() time.Time { return time.Now().Add(finalizerPatience + time.Second) }
		id, err := w.Create(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		deployments := p.session.Typed.AppsV1().Deployments(r.Spec.GetNamespace())
		finalizers := func(list string) {
			t.Helper()
			patch := []byte(`{"metadata":{"finalizers":` + list + `}}`)
			if _, err := deployments.Patch(context.Background(), objectName(r.Name), types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "their-tool"}); err != nil {
				t.Fatal(err)
			}
		}
		finalizers(`["weft.example/hold"]`)
		p.await(t, "the refusal", func() (bool, any) {
			err := w.Delete(t.Context(), id)
			return fault.Is(err, fault.Precondition) && strings.Contains(err.Error(), "weft.example/hold"), err
		})
		blockers, err := w.Blockers(t.Context(), id)
		if err != nil || len(blockers) != 1 {
			t.Fatalf("blockers = %v, %v; want one", blockers, err)
		}
		held(t, blockers[0], "finalizer", "weft.example/hold", "their-tool", "Deployment "+r.Spec.GetNamespace()+"/"+objectName(r.Name))
		finalizers("null")
		p.releaseWorkload(t, id)
	})
}

// held checks that a blocker says what it is, whose, on what, and what can be done.
func held(t *testing.T, b *kindv1.Blocker, kind, id, setter, on string) {
	t.Helper()
	if b.GetKind() != kind || b.GetId() != id || !strings.Contains(b.GetOwner(), setter) || !strings.Contains(b.GetOwner(), on) || !strings.Contains(b.GetAction(), on) {
		t.Errorf("blocker = %v, want %s %s of %s on %s", b, kind, id, setter, on)
	}
}

// TestManifestHeldByAFinalizerNamesIt: a finalizer that nobody serves is named, on an object of ours, and on one that came
// into our namespace while that was going.
func TestManifestHeldByAFinalizerNamesIt(t *testing.T) {
	peers(t, func(t *testing.T, p *peer) {
		ns := "weft-held-" + suffix(t)
		m, r := p.manifests(), newManifest(ns, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ours}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: "+ns+"}\n")
		id, err := m.Create(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		p.settleManifest(t, id, r, func(o manifestSeen) bool { return o.State == driver.Ready })
		maps := p.session.Typed.CoreV1().ConfigMaps(ns)
		finalizers := func(name, list string) {
			t.Helper()
			patch := []byte(`{"metadata":{"finalizers":` + list + `}}`)
			if _, err := maps.Patch(context.Background(), name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "their-tool"}); err != nil {
				t.Fatal(err)
			}
		}
		finalizers("ours", `["weft.example/hold"]`)
		if err := m.Delete(t.Context(), id); err != nil {
			t.Fatalf("delete, as long as the finalizer may still be served: %v", err)
		}
		if blockers, err := m.Blockers(t.Context(), id); err != nil || len(blockers) > 0 {
			t.Errorf("blockers, as long as the finalizer may still be served = %v, %v; want none", blockers, err)
		}
		m.now = func() time.Time { return time.Now().Add(finalizerPatience + time.Second) }
		p.heldManifest(t, m, id, ns+"/ours")
		child := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late", Finalizers: []string{"weft.example/hold"}, OwnerReferences: []metav1.OwnerReference{p.ownerOf(t, ns, "ours")}}}
		if _, err := maps.Create(t.Context(), child, metav1.CreateOptions{FieldManager: "their-tool"}); err != nil {
			t.Fatal(err)
		}
		finalizers("ours", "null")
		p.heldManifest(t, m, id, ns+"/late")
		finalizers("late", "null")
		p.releaseManifest(t, id)
	})
}

// ownerOf gives a reference to a ConfigMap as an owner.
func (p *peer) ownerOf(t *testing.T, ns, name string) metav1.OwnerReference {
	t.Helper()
	o, err := p.session.Typed.CoreV1().ConfigMaps(ns).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: name, UID: o.UID}
}

// heldManifest waits until the deletion of a manifest is refused because of a finalizer on a ConfigMap, and checks how that
// is told.
func (p *peer) heldManifest(t *testing.T, m *manifests, id, on string) {
	t.Helper()
	p.await(t, "the refusal because of "+on, func() (bool, any) {
		err := m.Delete(t.Context(), id)
		return fault.Is(err, fault.Precondition) && strings.Contains(err.Error(), "ConfigMap "+on), err
	})
	blockers, err := m.Blockers(t.Context(), id)
	if err != nil || len(blockers) != 1 {
		t.Fatalf("blockers = %v, %v; want one", blockers, err)
	}
	held(t, blockers[0], "finalizer", "weft.example/hold", "their-tool", "ConfigMap "+on)
}

func TestWorkloadCheck(t *testing.T) {
	peers(t, func(t *testing.T, p *peer) {
		ns, w := p.namespace(t), p.workloads()
		hard := corev1.ResourceList{"requests.cpu": apiresource.MustParse("1"), "pods": apiresource.MustParse("5"), "requests.memory": apiresource.MustParse("1Gi")}
		quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "small"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}
		if _, err := p.session.Typed.CoreV1().ResourceQuotas(ns).Create(t.Context(), quota, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		good, bad, lost, later := newWorkload(ns, p.image), newWorkload(ns, p.image), newWorkload("weft-missing", p.image), newWorkload("", "")
		bad.Name, lost.Name, later.Name = "tenants/test/workloads/bad", "tenants/test/workloads/lost", "tenants/test/workloads/later"
		bad.Spec.Containers[1].Ports = []int32{8080}
		bad.Spec.Containers[0].Image = "NOT AN IMAGE"
		bad.Spec.Containers[0].Mounts[0].Volume = "nowhere"
		later.Spec.Containers[0].Image, later.Spec.Containers[1].Image = "", ""
		item := func(r workloadRequest, unknown ...string) driver.Item[*containerv1.WorkloadSpec] {
			return driver.Item[*containerv1.WorkloadSpec]{Name: r.Name, Spec: r.Spec, Unknown: unknown, Change: kindv1.Change_CHANGE_CREATE}
		}
		findings, uses, err := w.Check(t.Context(), []driver.Item[*containerv1.WorkloadSpec]{
			item(good), item(bad), item(lost), item(later, "spec.namespace", "spec.containers[0].image", "containers[1]"),
			{Name: "tenants/test/workloads/gone", Change: kindv1.Change_CHANGE_DELETE},
		})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range findings {
			got = append(got, f.Name[strings.LastIndex(f.Name, "/")+1:]+" "+f.Field+" "+string(fault.KindOf(f.Fault)))
		}
		want := []string{
			"bad spec.containers[0].image Invalid", "bad spec.containers[0].mounts[0].volume Invalid", "bad spec.containers[1].ports[0] Invalid",
			"lost spec.namespace Precondition",
		}
		if !slices.Equal(got, want) {
			t.Errorf("found %q, want %q", got, want)
		}
		if len(uses) != 3 {
			t.Fatalf("quota uses %+v, want three", uses)
		}
		for i, want := range []driver.QuotaUse{
			{Service: "kubernetes", Quota: ns + "/small pods", Need: 4, Limit: 5},
			{Service: "kubernetes", Quota: ns + "/small requests.cpu (thousandths of a core)", Need: 40, Limit: 1000},
			{Service: "kubernetes", Quota: ns + "/small requests.memory (bytes)", Need: 4 * 16 << 20, Limit: 1 << 30},
		} {
			if uses[i] != want {
				t.Errorf("quota use %+v, want %+v", uses[i], want)
			}
		}
		if found, err := list(t.Context(), client(p.session, deployments, ns), ""); err != nil || len(found) > 0 {
			t.Errorf("the check left %d deployments (%v)", len(found), err)
		}
	})
}

func TestManifestGivesUpWhatItNamesNoLonger(t *testing.T) {
	peers(t, func(t *testing.T, p *peer) {
		const a, b = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {x: one, y: two}\n", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\n"
		m, r := p.manifests(), newManifest(p.namespace(t), a+"---\n"+b)
		id, err := m.Create(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		ready := func(o manifestSeen) bool { return o.State == driver.Ready }
		p.settleManifest(t, id, r, ready)
		r.Spec.Yaml = strings.Replace(a, ", y: two", "", 1)
		if err := m.Update(t.Context(), id, r); err != nil {
			t.Fatal(err)
		}
		p.settleManifest(t, id, r, func(o manifestSeen) bool { return ready(o) && len(o.Observed.GetObjects()) == 1 })
		maps := p.session.Typed.CoreV1().ConfigMaps(r.Spec.GetNamespace())
		if _, err := maps.Get(t.Context(), "b", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("b still stands (%v)", err)
		}
		standing, err := maps.Get(t.Context(), "a", metav1.GetOptions{})
		if err != nil || len(standing.Data) != 1 || standing.Data["x"] != "one" {
			t.Errorf("a holds %v, %v; want x alone", standing.Data, err)
		}
		p.releaseManifest(t, id)
		p.empty(t, r.Spec.GetNamespace())
	})
}

func TestManifestDoesNotTakeOverWhatIsSomebodyElses(t *testing.T) {
	peers(t, func(t *testing.T, p *peer) {
		m, r := p.manifests(), newManifest(p.namespace(t), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: theirs}\ndata: {x: ours}\n")
		maps := p.session.Typed.CoreV1().ConfigMaps(r.Spec.GetNamespace())
		theirs := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}, Data: map[string]string{"z": "theirs"}}
		if _, err := maps.Create(t.Context(), theirs, metav1.CreateOptions{FieldManager: "their-tool"}); err != nil {
			t.Fatal(err)
		}
		id, err := m.Create(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Update(t.Context(), id, r); !fault.Is(err, fault.Exists) || !strings.Contains(err.Error(), "their-tool") {
			t.Errorf("update = %v (%s), want Exists that names their-tool", err, fault.KindOf(err))
		}
		p.releaseManifest(t, id)
		left, err := maps.Get(t.Context(), "theirs", metav1.GetOptions{})
		if err != nil || len(left.Data) != 1 || len(left.Labels) != 0 {
			t.Errorf("theirs became %v, %v", left, err)
		}
	})
}

func TestManifestNamesWhoHoldsAField(t *testing.T) {
	peers(t, func(t *testing.T, p *peer) {
		m, r := p.manifests(), newManifest(p.namespace(t), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {x: ours}\n")
		id, err := m.Create(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		p.settleManifest(t, id, r, func(o manifestSeen) bool { return o.State == driver.Ready })
		maps := p.session.Typed.CoreV1().ConfigMaps(r.Spec.GetNamespace())
		if _, err := maps.Patch(t.Context(), "a", types.MergePatchType, []byte(`{"data":{"x":"theirs"}}`), metav1.PatchOptions{FieldManager: "their-tool"}); err != nil {
			t.Fatal(err)
		}
		if err := m.Update(t.Context(), id, r); !fault.Is(err, fault.Exists) || !strings.Contains(err.Error(), ".data.x") || !strings.Contains(err.Error(), "their-tool") {
			t.Errorf("update = %v (%s), want Exists that names .data.x and their-tool", err, fault.KindOf(err))
		}
		p.releaseManifest(t, id)
	})
}

func TestManifestSparesANamespaceWithObjectsOfOthers(t *testing.T) {
	peers(t, func(t *testing.T, p *peer) {
		ns := "weft-spare-" + suffix(t)
		m, r := p.manifests(), newManifest(ns, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ours}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: "+ns+"}\n")
		id, err := m.Create(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		p.settleManifest(t, id, r, func(o manifestSeen) bool { return o.State == driver.Ready })
		theirs := p.session.Typed.CoreV1().Secrets(ns)
		if _, err := theirs.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "precious"}}, metav1.CreateOptions{FieldManager: "their-tool"}); err != nil {
			t.Fatal(err)
		}
		p.await(t, "the refusal", func() (bool, any) {
			err := m.Delete(t.Context(), id)
			return fault.Is(err, fault.Precondition) && strings.Contains(err.Error(), "precious"), err
		})
		blockers, err := m.Blockers(t.Context(), id)
		if err != nil || len(blockers) != 1 || blockers[0].GetKind() != "Secret" || blockers[0].GetId() != ns+"/precious" || blockers[0].GetOwner() != "their-tool" {
			t.Errorf("blockers = %v, %v", blockers, err)
		}
		if err := theirs.Delete(t.Context(), "precious", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		p.releaseManifest(t, id)
		if _, err := p.session.Typed.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("the namespace still stands (%v)", err)
		}
	})
}

func TestManifestSaysWhatItsPodsWaitFor(t *testing.T) {
	peers(t, func(t *testing.T, p *peer) {
		s := suffix(t)
		m, r := p.manifests(), newManifest(p.namespace(t), manifestText(s, "registry.invalid/missing:1", "red"))
		id, err := m.Create(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		p.settleManifest(t, id, r, func(o manifestSeen) bool {
			return o.State == driver.Progressing && strings.Contains(o.Fault.Error(), "registry.invalid/missing:1")
		})
		p.releaseManifest(t, id)
		p.empty(t, r.Spec.GetNamespace())
	})
}

func TestManifestCheck(t *testing.T) {
	peers(t, func(t *testing.T, p *peer) {
		ns, m := p.namespace(t), p.manifests()
		tests := map[string]struct {
			text, namespace string
			want            []string // parts of each finding's text
		}{
			"good":                {manifestText(suffix(t), p.image, "red"), ns, nil},
			"makes its namespace": {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: weft-made}\n", "weft-made", nil},
			"no namespace":        {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n", "weft-missing", []string{"weft-missing does not exist"}},
			"no kind":             {"apiVersion: v1\nkind: Unheard\nmetadata: {name: a}\n", ns, []string{"document 1, line 1: the cluster does not serve the kind Unheard"}},
			"unknown field":       {"# first\n\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}], colour: red}\n", ns, []string{"document 1, line 3: rehearse Service " + ns + "/a"}},
			"refused":             {"apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 99999}]}\n", ns, []string{"99999"}},
			"two problems":        {"apiVersion: v1\nkind: Service\nmetadata: {}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: n, namespace: x}\n", ns, []string{"document 1, line 1", "document 2, line 5"}},
		}
		for name, tt := range tests {
			t.Run(name, func(t *testing.T) {
				r := newManifest(tt.namespace, tt.text)
				findings, _, err := m.Check(t.Context(), []driver.Item[*containerv1.ManifestSpec]{{Name: r.Name, Spec: r.Spec, Change: kindv1.Change_CHANGE_CREATE}})
				if err != nil {
					t.Fatal(err)
				}
				if len(findings) != len(tt.want) {
					t.Fatalf("found %v, want %d", findings, len(tt.want))
				}
				for i, want := range tt.want {
					if text := findings[i].Fault.Error(); !strings.Contains(text, want) {
						t.Errorf("found %q, want %q in it", text, want)
					}
				}
			})
		}
		left, err := list(t.Context(), client(p.session, mapping("", "services", "Service"), ns), "")
		if err != nil || len(left) > 0 {
			t.Errorf("the check left %d services (%v)", len(left), err)
		}
	})
}

func TestWorkloadState(t *testing.T) {
	deployment := func(change func(*appsv1.Deployment)) *appsv1.Deployment {
		two, deadline := int32(2), int32(progressDeadline)
		d := &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", Generation: 3},
			Spec:       appsv1.DeploymentSpec{Replicas: &two, ProgressDeadlineSeconds: &deadline},
			Status:     appsv1.DeploymentStatus{ObservedGeneration: 3, Replicas: 2, UpdatedReplicas: 2, ReadyReplicas: 2, AvailableReplicas: 2},
		}
		d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "main"}}
		change(d)
		return d
	}
	condition := func(typ appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) func(*appsv1.Deployment) {
		return func(d *appsv1.Deployment) {
			d.Status.AvailableReplicas = 0
			d.Status.Conditions = []appsv1.DeploymentCondition{{Type: typ, Status: status, Reason: reason, Message: message}}
		}
	}
	waiting := func(reason, message string) []*corev1.Pod {
		return []*corev1.Pod{{
			ObjectMeta: metav1.ObjectMeta{Name: "web-1"},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}},
			Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
				Name:                 "main",
				State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}},
				LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Error", ExitCode: 7}},
			}}},
		}}
	}
	late := condition(appsv1.DeploymentProgressing, corev1.ConditionFalse, "ProgressDeadlineExceeded", "timed out")
	tests := map[string]struct {
		parts parts
		state driver.State
		kind  fault.Kind
		text  string
	}{
		"ready":            {parts{deployment: deployment(func(*appsv1.Deployment) {})}, driver.Ready, "", ""},
		"not looked at":    {parts{deployment: deployment(func(d *appsv1.Deployment) { d.Generation = 4 })}, driver.Progressing, fault.Precondition, "copies are ready"},
		"an old copy left": {parts{deployment: deployment(func(d *appsv1.Deployment) { d.Status.Replicas = 3 })}, driver.Progressing, fault.Precondition, ""},
		"scaled to none": {parts{deployment: deployment(func(d *appsv1.Deployment) {
			none := int32(0)
			d.Spec.Replicas, d.Status = &none, appsv1.DeploymentStatus{ObservedGeneration: 3}
		})}, driver.Ready, "", ""},
		"going":           {parts{deployment: deployment(func(d *appsv1.Deployment) { d.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} })}, driver.Progressing, fault.Precondition, "deleted"},
		"deployment gone": {parts{others: 1}, driver.Outdated, fault.Precondition, "gone"},
		"service gone": {parts{deployment: deployment(func(d *appsv1.Deployment) {
			d.Spec.Template.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80}}
		})}, driver.Outdated, fault.Precondition, "service"},
		"no image, at first": {parts{deployment: deployment(func(d *appsv1.Deployment) { d.Status.AvailableReplicas = 1 }), pods: waiting("ImagePullBackOff", "not there")}, driver.Progressing, fault.Invalid, "not there"},
		"no image, at last":  {parts{deployment: deployment(late), pods: waiting("ImagePullBackOff", "not there")}, driver.Failed, fault.Invalid, "not there"},
		"crash loop":         {parts{deployment: deployment(late), pods: waiting("CrashLoopBackOff", "back-off")}, driver.Failed, fault.Precondition, "exit code 7"},
		"late, no reason":    {parts{deployment: deployment(late)}, driver.Failed, fault.Precondition, "timed out"},
		"being created":      {parts{deployment: deployment(func(d *appsv1.Deployment) { d.Status.AvailableReplicas = 1 }), pods: waiting("ContainerCreating", "")}, driver.Progressing, fault.Precondition, "copies are ready"},
		"quota":              {parts{deployment: deployment(condition(appsv1.DeploymentReplicaFailure, corev1.ConditionTrue, "FailedCreate", "exceeded quota: q"))}, driver.Progressing, fault.Quota, "exceeded quota: q"},
		"admission":          {parts{deployment: deployment(condition(appsv1.DeploymentReplicaFailure, corev1.ConditionTrue, "FailedCreate", "violates PodSecurity"))}, driver.Progressing, fault.Denied, "PodSecurity"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			state, why := tt.parts.state()
			if state != tt.state || fault.KindOf(why) != tt.kind || why != nil && !strings.Contains(why.Error(), tt.text) {
				t.Errorf("state %d, %v (%s); want %d, %s with %q", state, why, fault.KindOf(why), tt.state, tt.kind, tt.text)
			}
		})
	}
}
