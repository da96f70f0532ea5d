package kubernetes

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	cloud "github.com/weftcloud/weft/pkg/cloud/kubernetes"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// checkKey marks what is sent in a dry run for a resource that has no key yet.
const checkKey = "dry-run"

// unknown tells whether the value at a path of a spec, or a part of it, is known only later. Paths may begin with spec.
func unknown(paths []string, path string) bool {
	path = strings.TrimPrefix(path, "spec.")
	return slices.ContainsFunc(paths, func(p string) bool {
		p = strings.TrimPrefix(p, "spec.")
		return covers(p, path) || covers(path, p)
	})
}

// covers tells whether path is outer or lies in it.
func covers(outer, path string) bool {
	rest, ok := strings.CutPrefix(path, outer)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// namespaces looks namespaces up, each once.
type namespaces struct {
	session *cloud.Session
	known   map[string]bool
}

func (n *namespaces) exists(ctx context.Context, name string) (bool, error) {
	if exists, known := n.known[name]; known {
		return exists, nil
	}
	_, err := n.session.Typed.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	err = cloud.Fault(err)
	if err != nil && !fault.Is(err, fault.NotFound) && !fault.Is(err, fault.Denied) {
		return false, fault.Wrap(err, "read namespace %s", name)
	}
	// Who may not read namespaces may yet work in one: then the dry run decides.
	n.known[name] = !fault.Is(err, fault.NotFound)
	return n.known[name], nil
}

// Check reports what is wrong with workloads: their specs in themselves, their namespaces, and what the cluster says in
// a dry run of those that are wholly known.
func (w *workloads) Check(ctx context.Context, items []driver.Item[*containerv1.WorkloadSpec]) ([]driver.Finding, []driver.QuotaUse, error) {
	var findings []driver.Finding
	seen := namespaces{w.session, map[string]bool{}}
	need := demand{}
	for _, i := range items {
		if i.Spec == nil || i.Change == kindv1.Change_CHANGE_DELETE {
			continue
		}
		clean := true
		for _, problem := range examineWorkload(i.Spec) {
			if !unknown(i.Unknown, fault.Field(problem)) {
				clean = false
				findings = append(findings, driver.Finding{Name: i.Name, Field: fault.Field(problem), Fault: problem})
			}
		}
		namespace := namespaceOf(i.Spec.GetNamespace())
		if unknown(i.Unknown, "namespace") {
			continue
		}
		exists, err := seen.exists(ctx, namespace)
		if err != nil {
			return nil, nil, fault.Wrap(err, "check workload %s", i.Name)
		}
		if !exists {
			findings = append(findings, driver.Finding{Name: i.Name, Field: "spec.namespace", Fault: &fault.Error{
				Kind: fault.Precondition, Field: "spec.namespace",
				Message: fmt.Sprintf("the namespace %s does not exist; create it, or refer to a Manifest that makes it, e.g. ${manifest.objects[0].name}", namespace),
			}})
			continue
		}
		need.workload(namespace, i.Spec, i.Former)
		if !clean || len(i.Unknown) > 0 {
			continue
		}
		problem, err := w.rehearse(ctx, i)
		if err != nil {
			return nil, nil, fault.Wrap(err, "check workload %s", i.Name)
		}
		if problem != nil {
			findings = append(findings, driver.Finding{Name: i.Name, Field: fault.Field(problem), Fault: problem})
		}
	}
	uses, err := need.uses(ctx, w.session)
	return findings, uses, fault.Wrap(err, "check workloads")
}

// rehearse asks the cluster in a dry run what it makes of a workload.
func (w *workloads) rehearse(ctx context.Context, i driver.Item[*containerv1.WorkloadSpec]) (problem, failed error) {
	wanted, err := buildWorkload(workloadRequest{Key: checkKey, Name: i.Name, Spec: i.Spec})
	if err != nil {
		return err, nil
	}
	objects := append([]*unstructured.Unstructured{wanted.deployment}, wanted.services...)
	kinds := index(workloadParts, func(m *meta.RESTMapping) string { return m.GroupVersionKind.Kind })
	for _, o := range append(objects, wanted.configMaps...) {
		// The selector holds the key and cannot change, so what stands is asked about as if it were new.
		problem, err := rehearse(ctx, client(w.session, kinds[o.GetKind()], wanted.namespace), o, i.Name, writer{session: w.session, force: true})
		if problem != nil || err != nil {
			return problem, err
		}
	}
	return nil, nil
}

// rehearse asks the cluster in a dry run what it makes of an object of the named resource. The first result is what is
// wrong with the object, the second that the look failed.
func rehearse(ctx context.Context, c dynamic.ResourceInterface, o *unstructured.Unstructured, name string, w writer) (problem, failed error) {
	what := describe(o.GetKind(), o.GetNamespace(), o.GetName())
	live, err := c.Get(ctx, o.GetName(), metav1.GetOptions{})
	err = cloud.Fault(err)
	switch {
	case fault.Is(err, fault.NotFound):
		_, err = c.Create(ctx, o, metav1.CreateOptions{FieldManager: manager, FieldValidation: metav1.FieldValidationStrict, DryRun: []string{metav1.DryRunAll}})
		err = cloud.Fault(err)
	case err != nil:
	case live.GetDeletionTimestamp() != nil:
		return nil, nil // it is made again when it is gone
	case live.GetLabels()[labelKey] == "" || live.GetAnnotations()[annotationName] != name:
		return fault.Wrap(foreign(live), "make %s", what), nil
	default:
		asStanding(o, live)
		err = w.patch(ctx, c, o, true)
	}
	if fault.Is(err, fault.Unavailable) || fault.Is(err, fault.Throttled) || fault.Is(err, fault.Conflict) {
		return nil, fault.Wrap(err, "rehearse %s", what)
	}
	if fault.Is(err, fault.Quota) {
		return nil, nil // reported as a QuotaUse, since several items may draw on one quota
	}
	return fault.Wrap(err, "rehearse %s", what), nil
}

// asStanding puts the key of what stands into an object that was built without knowing it.
func asStanding(o, live *unstructured.Unstructured) {
	key := live.GetLabels()[labelKey]
	for _, path := range [][]string{
		{"metadata", "labels", labelKey}, {"spec", "selector", labelKey}, {"spec", "selector", "matchLabels", labelKey}, {"spec", "template", "metadata", "labels", labelKey},
	} {
		within, found, err := unstructured.NestedFieldNoCopy(o.Object, path[:len(path)-1]...)
		if labels, isMap := within.(map[string]any); err == nil && found && isMap && labels[path[len(path)-1]] == checkKey {
			labels[path[len(path)-1]] = key
		}
	}
}

// Check reports what is wrong with manifests: their texts, kinds and namespaces, and what the cluster says in a dry run
// of each object whose kind and namespace exist. What other manifests of the plan make counts as made.
func (m *manifests) Check(ctx context.Context, items []driver.Item[*containerv1.ManifestSpec]) ([]driver.Finding, []driver.QuotaUse, error) {
	var all []manifestItem
	var findings []driver.Finding
	made := map[string]bool{}
	defined := map[schema.GroupKind]definition{}
	for _, i := range items {
		if i.Spec == nil || i.Change == kindv1.Change_CHANGE_DELETE || unknown(i.Unknown, "yaml") {
			continue
		}
		docs, problems := parseManifest(i.Spec.GetYaml())
		for _, p := range problems {
			findings = append(findings, driver.Finding{Name: i.Name, Field: fault.Field(p), Fault: p})
		}
		maps.Copy(made, namespacesIn(docs))
		maps.Copy(defined, definitions(docs))
		former, _ := parseManifest(i.Former.GetYaml()) // it was read when it was applied
		all = append(all, manifestItem{i, docs, former})
	}
	seen := &namespaces{m.session, map[string]bool{}}
	need := demand{}
	for _, i := range all {
		found, err := m.checkItem(ctx, i, seen, made, defined, need)
		if err != nil {
			return nil, nil, fault.Wrap(err, "check manifest %s", i.Name)
		}
		findings = append(findings, found...)
	}
	uses, err := need.uses(ctx, m.session)
	return findings, uses, fault.Wrap(err, "check manifests")
}

// manifestItem is an item with the objects of its text.
type manifestItem struct {
	driver.Item[*containerv1.ManifestSpec]
	docs []document
	// former holds the objects of the text that stands.
	former []document
}

func (m *manifests) checkItem(ctx context.Context, i manifestItem, seen *namespaces, made map[string]bool, defined map[schema.GroupKind]definition, need demand) ([]driver.Finding, error) {
	var findings []driver.Finding
	report := func(field string, err error) {
		findings = append(findings, driver.Finding{Name: i.Name, Field: field, Fault: err})
	}
	r := manifestRequest{Key: checkKey, Name: i.Name, Spec: i.Spec}
	if i.Former == nil && !unknown(i.Unknown, "namespace") && !made[namespaceOf(i.Spec.GetNamespace())] {
		exists, err := seen.exists(ctx, namespaceOf(i.Spec.GetNamespace()))
		if err != nil {
			return nil, err
		}
		if !exists {
			report("spec.namespace", &fault.Error{Kind: fault.Precondition, Field: "spec.namespace", Message: "the namespace " + i.Spec.GetNamespace() + " does not exist; create it, or put it into the manifest"})
			return findings, nil
		}
	}
	standing := map[objectID]bool{}
	for _, d := range i.former {
		if w, err := m.resolve(d, i.Former.GetNamespace(), definitions(i.former)); err == nil { // what cannot be read weighs as new
			standing[idOf(w.object)] = true
		}
	}
	for _, d := range i.docs {
		w, err := m.resolve(d, i.Spec.GetNamespace(), defined)
		if fault.Is(err, fault.Invalid) {
			report(fieldYAML, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		if !standing[idOf(w.object)] {
			need.object(w.object)
		}
		if w.mapping == nil || made[w.entry.Namespace] || unknown(i.Unknown, "namespace") {
			continue
		}
		if w.entry.Namespace != "" {
			exists, err := seen.exists(ctx, w.entry.Namespace)
			if err != nil {
				return nil, err
			}
			if !exists {
				report(fieldYAML, &fault.Error{Kind: fault.Precondition, Field: fieldYAML, Message: fmt.Sprintf("%s: the namespace %s of %s does not exist; put it into the manifest", d.place(), w.entry.Namespace, w.entry)})
				continue
			}
		}
		adorn(w.object, r)
		problem, err := rehearse(ctx, client(m.session, w.mapping, w.entry.Namespace), w.object, i.Name, m.writer(checkKey))
		if err != nil {
			return nil, err
		}
		if problem != nil {
			report(fieldYAML, fault.Wrap(problem, "%s", d.place()))
		}
	}
	return findings, nil
}
