package kubernetes

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/yaml"
)

func (s *Server) servePatch(q *request) error {
	o, err := s.optionsOf(q)
	if err != nil {
		return err
	}
	media, err := mediaType(q)
	if err != nil {
		return err
	}
	raw, err := readBody(q)
	if err != nil {
		return err
	}
	if q.subresource == "scale" {
		return s.patchScale(q, types.PatchType(media), raw, o)
	}
	switch types.PatchType(media) {
	case types.ApplyYAMLPatchType:
		return s.serveApply(q, raw, o)
	case types.JSONPatchType, types.MergePatchType:
	case types.StrategicMergePatchType:
		if q.res.custom != nil {
			return unsupportedMedia("", "application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml")
		}
	default:
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType,
			Reason: metav1.StatusReasonUnsupportedMediaType, Message: "415: Unsupported Media Type",
		}}
	}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	old, err := s.find(q)
	if err != nil {
		return err
	}
	patched, err := applyPatch(types.PatchType(media), old.raw, raw, s.newObject(q.res))
	if err != nil {
		return err
	}
	next, err := s.decodePatched(q, types.PatchType(media), patched, o)
	if err != nil {
		return err
	}
	acc, err := meta.Accessor(next)
	if err != nil {
		return err
	}
	if acc.GetName() != q.name || acc.GetNamespace() != q.namespace {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", acc.GetName(), q.name))
	}
	e, err := s.update(q.res, old, next, q.subresource, o, func(live, next runtime.Object) (runtime.Object, error) {
		return s.trackUpdate(q.res, q.subresource, live, next, o.manager)
	})
	if err != nil {
		return err
	}
	return s.writeEntry(q, http.StatusOK, e)
}

// decodePatched reads the patched object. What does not fit is a fault of the patch and is answered as one, with the
// whole patched object as the invalid value.
func (s *Server) decodePatched(q *request, kind types.PatchType, patched []byte, o options) (runtime.Object, error) {
	obj := s.newObject(q.res)
	var err error
	switch {
	case q.res.custom != nil:
		obj, err = s.decodeJSON(q, patched, q.res.gvk, obj, options{validation: "Ignore"})
		if err == nil {
			err = s.judgeCustom(q, obj, o)
		}
	case kind == types.StrategicMergePatchType:
		content := map[string]any{}
		if err := utiljson.Unmarshal(patched, &content); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		err = s.warnStrict(q, runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(content, obj, o.validation != "Ignore"), o)
	default:
		strict := kjson.NewSerializerWithOptions(kjson.DefaultMetaFactory, s.scheme, s.scheme, kjson.SerializerOptions{Strict: true})
		var got *schema.GroupVersionKind
		obj, got, err = strict.Decode(patched, &q.res.gvk, obj)
		if got != nil && *got != q.res.gvk {
			return nil, checkKind(*got, q.res.gvk)
		}
		err = s.warnStrict(q, err, o)
	}
	var status apierrors.APIStatus
	if err == nil || errors.As(err, &status) {
		return obj, err
	}
	return nil, apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), string(patched), err.Error())})
}

// warnStrict lets strict decoding errors pass as warnings unless the client wants them to be errors.
func (s *Server) warnStrict(q *request, err error, o options) error {
	strict, isStrict := runtime.AsStrictDecodingError(err)
	if !isStrict || o.validation == "Strict" {
		return err
	}
	if o.validation == "Warn" {
		for _, each := range strict.Errors() {
			q.w.Header().Add("Warning", fmt.Sprintf("299 - %q", each.Error()))
		}
	}
	return nil
}

// applyPatch yields the JSON of the patched object.
func applyPatch(kind types.PatchType, live, patch []byte, like any) ([]byte, error) {
	switch kind {
	case types.JSONPatchType:
		decoded, err := jsonpatch.DecodePatch(patch)
		if err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
		}
		patched, err := decoded.Apply(live)
		if err != nil {
			return nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
		}
		return patched, nil
	case types.MergePatchType:
		if err := json.Unmarshal(patch, &map[string]any{}); err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
		}
		patched, err := jsonpatch.MergePatch(live, patch)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return patched, nil
	}
	patched, err := strategicpatch.StrategicMergePatch(live, patch, like)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return patched, nil
}

// serveApply is server-side apply: the object becomes what its managers together want.
func (s *Server) serveApply(q *request, raw []byte, o options) error {
	if q.http.URL.Query().Get("fieldManager") == "" {
		return apierrors.NewInvalid(schema.GroupKind{Group: "meta.k8s.io", Kind: "PatchOptions"}, "", field.ErrorList{
			field.Required(field.NewPath("fieldManager"), "is required for apply patch"),
		})
	}
	applied := &unstructured.Unstructured{Object: map[string]any{}}
	if err := unmarshalApplied(raw, o, &applied.Object); err != nil {
		return err
	}
	if mismatch := s.checkApplied(q, applied); mismatch != nil {
		return mismatch
	}
	if err := s.judgeApplied(q, applied, o); err != nil {
		return err
	}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	old, err := s.find(q)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if old == nil {
		if q.subresource != "" {
			return err
		}
		if applied.GetUID() != "" {
			return apierrors.NewConflict(q.res.groupResource(), q.name, fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", applied.GetUID()))
		}
		return s.applyNew(q, applied, o)
	}
	if version := applied.GetResourceVersion(); version != "" && version != fmt.Sprint(old.rv) {
		return conflict(q.res, q.name)
	}
	live, err := s.decode(old)
	if err != nil {
		return err
	}
	next, err := s.trackApply(q.res, q.subresource, live, applied, o)
	if err != nil {
		return err
	}
	e, err := s.update(q.res, old, next, q.subresource, o, nil)
	if err != nil {
		return err
	}
	return s.writeEntry(q, http.StatusOK, e)
}

func unmarshalApplied(raw []byte, o options, into *map[string]any) error {
	decode := yaml.YAMLToJSON
	if o.validation == "Strict" {
		decode = yaml.YAMLToJSONStrict
	}
	asJSON, err := decode(raw)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
	}
	if err := utiljson.Unmarshal(asJSON, into); err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
	}
	return nil
}

func (s *Server) checkApplied(q *request, applied *unstructured.Unstructured) error {
	if err := checkKind(applied.GroupVersionKind(), q.res.gvk); err != nil {
		return err
	}
	if applied.GetName() != "" && applied.GetName() != q.name {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", applied.GetName(), q.name))
	}
	if applied.GetNamespace() != "" && applied.GetNamespace() != q.namespace {
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	if len(applied.GetManagedFields()) > 0 {
		return apierrors.NewBadRequest("metadata.managedFields must be nil")
	}
	return nil
}

// judgeApplied finds fields that the kind does not have. The merge itself refuses them in specs it knows; this names
// them in the words of field validation.
func (s *Server) judgeApplied(q *request, applied *unstructured.Unstructured, o options) error {
	if q.res.custom != nil {
		return nil
	}
	raw, err := json.Marshal(applied.Object)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	_, err = s.decodeJSON(q, raw, q.res.gvk, s.newObject(q.res), options{validation: "Ignore"})
	return err
}

func (s *Server) applyNew(q *request, applied *unstructured.Unstructured, o options) error {
	empty := s.newObject(q.res)
	acc, err := meta.Accessor(empty)
	if err != nil {
		return err
	}
	acc.SetName(q.name)
	acc.SetNamespace(q.namespace)
	obj, err := s.trackApply(q.res, "", empty, applied, o)
	if err != nil {
		return err
	}
	acc, err = meta.Accessor(obj)
	if err != nil {
		return err
	}
	acc.SetName(q.name)
	acc.SetResourceVersion("")
	e, err := s.create(q.res, q.namespace, obj, options{dryRun: o.dryRun})
	if err != nil {
		return err
	}
	return s.writeEntry(q, http.StatusCreated, e)
}

// Managed fields.

func (s *Server) fieldManager(r *resource, subresource string) (*managedfields.FieldManager, error) {
	if m := r.managers[subresource]; m != nil {
		return m, nil
	}
	gv := r.gvk.GroupVersion()
	var m *managedfields.FieldManager
	var err error
	reset := resetFields(r, subresource)
	if r.custom == nil {
		m, err = managedfields.NewDefaultFieldManager(s.typed, s.scheme, defaulter{}, s.scheme, r.gvk, gv, subresource, reset)
	} else {
		converter, convErr := customConverter(r)
		if convErr != nil {
			return nil, convErr
		}
		m, err = managedfields.NewDefaultCRDFieldManager(converter, sameVersion{}, sameVersion{}, sameVersion{}, r.gvk, gv, subresource, reset)
	}
	if err != nil {
		return nil, fmt.Errorf("manage fields of %s: %w", r.plural, err)
	}
	r.managers[subresource] = m
	return m, nil
}

// trackUpdate writes into next who manages which field after a create, update or patch.
func (s *Server) trackUpdate(r *resource, subresource string, live, next runtime.Object, manager string) (runtime.Object, error) {
	m, err := s.fieldManager(r, subresource)
	if err != nil {
		return nil, err
	}
	next.GetObjectKind().SetGroupVersionKind(r.gvk)
	live.GetObjectKind().SetGroupVersionKind(r.gvk)
	return m.UpdateNoErrors(live, next, manager), nil
}

func (s *Server) trackApply(r *resource, subresource string, live runtime.Object, applied *unstructured.Unstructured, o options) (runtime.Object, error) {
	m, err := s.fieldManager(r, subresource)
	if err != nil {
		return nil, err
	}
	live.GetObjectKind().SetGroupVersionKind(r.gvk)
	merged, err := m.Apply(live.DeepCopyObject(), applied, o.manager, o.force)
	if err != nil {
		return nil, err
	}
	u, ok := merged.(*unstructured.Unstructured)
	if !ok || r.custom != nil {
		merged.GetObjectKind().SetGroupVersionKind(r.gvk)
		return merged, nil
	}
	typed := s.newObject(r)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, typed); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return typed, nil
}

// defaulter lets the field manager see the defaults that are filled in, so that they conflict with nobody.
type defaulter struct{}

func (defaulter) Default(obj runtime.Object) { setDefaults(obj) }

// sameVersion converts custom resources, all of whose versions have one schema here, and makes empty ones.
type sameVersion struct{}

func (sameVersion) Default(runtime.Object) {}

func (sameVersion) New(kind schema.GroupVersionKind) (runtime.Object, error) {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetGroupVersionKind(kind)
	return u, nil
}

func (sameVersion) Convert(in, out, _ any) error {
	from, ok := in.(*unstructured.Unstructured)
	to, ok2 := out.(*unstructured.Unstructured)
	if !ok || !ok2 {
		return errors.New("convert: only custom resources are converted")
	}
	to.Object = from.DeepCopy().Object
	return nil
}

func (sameVersion) ConvertToVersion(in runtime.Object, gv runtime.GroupVersioner) (runtime.Object, error) {
	kind, ok := gv.KindForGroupVersionKinds([]schema.GroupVersionKind{in.GetObjectKind().GroupVersionKind()})
	if !ok {
		return nil, fmt.Errorf("convert %s: no such version", in.GetObjectKind().GroupVersionKind())
	}
	out := in.DeepCopyObject()
	out.GetObjectKind().SetGroupVersionKind(kind)
	return out, nil
}

func (sameVersion) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

// customConverter merges custom resources by their definition's schema.
func customConverter(r *resource) (managedfields.TypeConverter, error) {
	if r.custom.version.Schema == nil || r.custom.version.Schema.OpenAPIV3Schema == nil {
		return managedfields.NewDeducedTypeConverter(), nil
	}
	raw, err := json.Marshal(r.custom.version.Schema.OpenAPIV3Schema)
	if err != nil {
		return nil, fmt.Errorf("schema of %s: %w", r.plural, err)
	}
	root := &spec.Schema{}
	if err := json.Unmarshal(raw, root); err != nil {
		return nil, fmt.Errorf("schema of %s: %w", r.plural, err)
	}
	if root.Properties == nil {
		return managedfields.NewDeducedTypeConverter(), nil
	}
	root.Properties["apiVersion"] = *spec.StringProperty()
	root.Properties["kind"] = *spec.StringProperty()
	metaSchema := spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
	metaSchema.AddExtension("x-kubernetes-preserve-unknown-fields", true)
	metaSchema.Properties = map[string]spec.Schema{
		"labels":      *spec.MapProperty(spec.StringProperty()),
		"annotations": *spec.MapProperty(spec.StringProperty()),
		"finalizers":  setOfStrings(),
	}
	root.Properties["metadata"] = metaSchema
	root.AddExtension("x-kubernetes-group-version-kind", []any{map[string]any{"group": r.gvk.Group, "version": r.gvk.Version, "kind": r.gvk.Kind}})
	return managedfields.NewTypeConverter(map[string]*spec.Schema{r.gvk.Kind: root}, true)
}

func setOfStrings() spec.Schema {
	list := *spec.ArrayProperty(spec.StringProperty())
	list.AddExtension("x-kubernetes-list-type", "set")
	return list
}
