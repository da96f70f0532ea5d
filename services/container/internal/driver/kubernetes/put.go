package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/util/csaupgrade"

	cloud "github.com/weftcloud/weft/pkg/cloud/kubernetes"
	"github.com/weftcloud/weft/pkg/fault"
)

// How one object is brought to what is wanted.
//
// Server-side apply cannot say "only if it does not exist": it would merge ours into somebody else's object. So an object
// that we have not found is created by POST, which refuses a second one by its name, and one that is ours is applied. A
// POST records us as an updater of the fields, an apply as their applier; before the first apply the record is carried
// over, since an apply takes away only what an apply gave.

// writer writes the objects of one resource.
type writer struct {
	session *cloud.Session
	// key is the resource's key.
	key string
	// force takes fields over that somebody else has set.
	force bool
}

// client gives the client of a kind's objects in a namespace; the namespace is ignored for what has none.
func client(s *cloud.Session, m *meta.RESTMapping, namespace string) dynamic.ResourceInterface {
	if m.Scope.Name() == meta.RESTScopeNameNamespace {
		return s.Dynamic.Resource(m.Resource).Namespace(namespace)
	}
	return s.Dynamic.Resource(m.Resource)
}

// put makes obj, or changes live, which is ours, where it differs; live is nil if the resource has no such object. The
// error is Exists if somebody else's object bears the name, or somebody else holds a field.
func (w writer) put(ctx context.Context, m *meta.RESTMapping, obj, live *unstructured.Unstructured) error {
	what := describe(obj.GetKind(), obj.GetNamespace(), obj.GetName())
	if err := stamp(obj); err != nil {
		return fault.Wrap(err, "apply %s", what)
	}
	c := client(w.session, m, obj.GetNamespace())
	if live == nil {
		return fault.Wrap(w.create(ctx, c, obj), "create %s", what)
	}
	if live.GetDeletionTimestamp() != nil {
		return fault.Wrap(fault.New(fault.Conflict, "it is being deleted; it is made again when it is gone"), "apply %s", what)
	}
	if contains(live.Object, obj.Object) {
		return nil
	}
	return fault.Wrap(w.apply(ctx, c, obj, live), "apply %s", what)
}

func (w writer) create(ctx context.Context, c dynamic.ResourceInterface, obj *unstructured.Unstructured) error {
	_, err := c.Create(ctx, obj, metav1.CreateOptions{FieldManager: manager, FieldValidation: metav1.FieldValidationStrict})
	if !apierrors.IsAlreadyExists(err) {
		return cloud.Fault(err)
	}
	live, err := c.Get(ctx, obj.GetName(), metav1.GetOptions{})
	if err != nil {
		return cloud.Fault(err)
	}
	if live.GetLabels()[labelKey] == w.key {
		return fault.New(fault.Conflict, "it was made a moment ago")
	}
	return foreign(live)
}

// foreign is the fault of an object that is somebody else's.
func foreign(live *unstructured.Unstructured) error {
	if live.GetDeletionTimestamp() != nil {
		return fault.New(fault.Conflict, "one of that name, which belongs to %s, is being deleted; it is made when that one is gone", ownerOf(live))
	}
	return fault.New(fault.Exists, "it exists and belongs to %s; choose another name or namespace, or delete it", ownerOf(live))
}

func (w writer) apply(ctx context.Context, c dynamic.ResourceInterface, obj, live *unstructured.Unstructured) error {
	patch, err := csaupgrade.UpgradeManagedFieldsPatch(live, sets.New(manager), manager)
	if err != nil {
		return fault.As(fault.Internal, err)
	}
	if patch != nil {
		if _, err := c.Patch(ctx, live.GetName(), types.JSONPatchType, patch, metav1.PatchOptions{}); err != nil {
			return cloud.Fault(err)
		}
	}
	obj = obj.DeepCopy()
	obj.SetUID(live.GetUID()) // refused if it was deleted and made by someone else meanwhile
	return w.patch(ctx, c, obj, false)
}

// patch applies obj, or only asks what would come of it.
func (w writer) patch(ctx context.Context, c dynamic.ResourceInterface, obj *unstructured.Unstructured, dryRun bool) error {
	body, err := json.Marshal(obj)
	if err != nil {
		return fault.As(fault.Internal, err)
	}
	opts := metav1.PatchOptions{FieldManager: manager, Force: &w.force, FieldValidation: metav1.FieldValidationStrict}
	if dryRun {
		opts.DryRun = []string{metav1.DryRunAll}
	}
	_, err = c.Patch(ctx, obj.GetName(), types.ApplyPatchType, body, opts)
	return heldFields(err)
}

// heldFields gives the conflict of an apply as Exists, naming who holds what: looking again does not help there.
func heldFields(err error) error {
	var status apierrors.APIStatus // no error by type, so AsType cannot find it
	if !errors.As(err, &status) || status.Status().Details == nil {
		return cloud.Fault(err)
	}
	var held []string
	for _, cause := range status.Status().Details.Causes {
		if cause.Type == metav1.CauseTypeFieldManagerConflict {
			held = append(held, cause.Field+" ("+cause.Message+")")
		}
	}
	if len(held) == 0 {
		return cloud.Fault(err)
	}
	return fault.New(fault.Exists, "somebody else has set fields of it: %s; leave them out of the manifest, or let the other one give them up", strings.Join(held, ", "))
}

// stamp writes the digest of what is wanted into obj.
func stamp(obj *unstructured.Unstructured) error {
	unstructured.RemoveNestedField(obj.Object, "metadata", "annotations", annotationSpec)
	text, err := json.Marshal(obj)
	if err != nil {
		return fault.As(fault.Internal, err)
	}
	a := obj.GetAnnotations()
	if a == nil {
		a = map[string]string{}
	}
	a[annotationSpec] = digestOf(text)
	obj.SetAnnotations(a)
	return nil
}

// contains tells whether live has all that wanted has. The server may add to what it was given: fields to a map, elements
// to the end of a list.
func contains(live, wanted any) bool {
	switch w := wanted.(type) {
	case map[string]any:
		l, ok := live.(map[string]any)
		if !ok {
			return len(w) == 0 && live == nil
		}
		for k, v := range w {
			if !contains(l[k], v) {
				return false
			}
		}
		return true
	case []any:
		l, ok := live.([]any)
		if !ok || len(l) < len(w) {
			return len(w) == 0 && live == nil
		}
		for i, v := range w {
			if !contains(l[i], v) {
				return false
			}
		}
		return true
	default:
		return live == wanted
	}
}

// untyped gives a typed object as it is to be sent: without what only the server fills in.
func untyped(o runtime.Object) (*unstructured.Unstructured, error) {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil, fault.As(fault.Internal, err)
	}
	u := &unstructured.Unstructured{Object: m}
	unstructured.RemoveNestedField(m, "status")
	unstructured.RemoveNestedField(m, "metadata", "creationTimestamp")
	unstructured.RemoveNestedField(m, "spec", "template", "metadata", "creationTimestamp")
	return u, nil
}

// remove asks for an object to be taken away with all that depends on it; absent, and replaced by another, is success.
func remove(ctx context.Context, c dynamic.ResourceInterface, o metav1.Object) error {
	uid, propagation := o.GetUID(), metav1.DeletePropagationForeground
	err := c.Delete(ctx, o.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}, PropagationPolicy: &propagation})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return cloud.Fault(err)
}

// pageSize is how many objects are asked for at once.
const pageSize = 500

// list gives all objects that a selector finds, page by page. A namespace that does not exist is an empty answer.
func list(ctx context.Context, c dynamic.ResourceInterface, selector string) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	opts := metav1.ListOptions{LabelSelector: selector, Limit: pageSize}
	for {
		page, err := c.List(ctx, opts)
		if err != nil {
			return nil, cloud.Fault(err)
		}
		for i := range page.Items {
			out = append(out, &page.Items[i])
		}
		if opts.Continue = page.GetContinue(); opts.Continue == "" {
			return out, nil
		}
	}
}
