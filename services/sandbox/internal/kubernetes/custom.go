package kubernetes

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// observeDefinition serves what a CustomResourceDefinition says as soon as it is written. It is called under the lock.
func (s *Server) observeDefinition(c change) {
	if c.entry.res.storageKey() != "customresourcedefinitions.apiextensions.k8s.io" {
		return
	}
	obj, err := s.decode(c.entry)
	if err != nil {
		s.logger.Error("read custom resource definition", "name", c.entry.name, "error", err)
		return
	}
	definition := obj.(*apiextensionsv1.CustomResourceDefinition)
	for gvr, r := range s.catalog.byGVR {
		if r.custom != nil && r.custom.crd == c.entry.name {
			delete(s.catalog.byGVR, gvr)
		}
	}
	s.openapi.forget()
	if c.removed {
		return
	}
	for _, version := range definition.Spec.Versions {
		if !version.Served {
			continue
		}
		r := customOf(definition, version)
		s.catalog.byGVR[r.gvr()] = r
	}
}

func customOf(d *apiextensionsv1.CustomResourceDefinition, version apiextensionsv1.CustomResourceDefinitionVersion) *resource {
	gvk := schema.GroupVersionKind{Group: d.Spec.Group, Version: version.Name, Kind: d.Spec.Names.Kind}
	r := complete(gvk, d.Spec.Names.Plural, resource{
		namespaced: d.Spec.Scope == apiextensionsv1.NamespaceScoped, short: d.Spec.Names.ShortNames, categories: d.Spec.Names.Categories,
		generation: true, custom: &customResource{crd: d.Name, version: version},
	})
	if d.Spec.Names.Singular != "" {
		r.singular = d.Spec.Names.Singular
	}
	if sub := version.Subresources; sub != nil {
		r.status = sub.Status != nil
		r.scale = sub.Scale != nil
	}
	if r.scale {
		r.extra = []extraSubresource{{"scale", schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}, []string{"get", "patch", "update"}}}
	}
	for _, f := range version.SelectableFields {
		r.fields = append(r.fields, strings.TrimPrefix(f.JSONPath, "."))
	}
	return r
}

func (s *Server) validateDefinition(d *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	if want := d.Spec.Names.Plural + "." + d.Spec.Group; d.Name != want {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), d.Name, "must be spec.names.plural+\".\"+spec.group"))
	}
	if d.Spec.Scope != apiextensionsv1.NamespaceScoped && d.Spec.Scope != apiextensionsv1.ClusterScoped {
		errs = append(errs, field.NotSupported(spec.Child("scope"), d.Spec.Scope, []apiextensionsv1.ResourceScope{apiextensionsv1.ClusterScoped, apiextensionsv1.NamespaceScoped}))
	}
	if !strings.Contains(d.Spec.Group, ".") {
		errs = append(errs, field.Invalid(spec.Child("group"), d.Spec.Group, "should be a domain with at least one dot"))
	}
	stored := 0
	for i, v := range d.Spec.Versions {
		if v.Storage {
			stored++
		}
		if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
			errs = append(errs, field.Required(spec.Child("versions").Index(i).Child("schema", "openAPIV3Schema"), "schemas are required"))
		}
	}
	if stored != 1 {
		errs = append(errs, field.Invalid(spec.Child("versions"), len(d.Spec.Versions), "must have exactly one version marked as storage version"))
	}
	return errs
}

// controlDefinition establishes a definition, and empties it of its objects when it is deleted.
func (s *Server) controlDefinition(e *entry, d *apiextensionsv1.CustomResourceDefinition) error {
	storage := d.Spec.Names.Plural + "." + d.Spec.Group
	if e.deleting {
		left := 0
		for _, o := range s.store.list(storage, "") {
			left++
			if !o.deleting {
				if err := s.removeEntry(o); err != nil {
					return err
				}
			}
		}
		if left = len(s.store.list(storage, "")); left > 0 {
			return nil
		}
		return s.dropFinalizer(e, finalizerCRD)
	}
	now := s.now()
	wanted := []apiextensionsv1.CustomResourceDefinitionCondition{
		{Type: apiextensionsv1.NamesAccepted, Status: apiextensionsv1.ConditionTrue, Reason: "NoConflicts", Message: "no conflicts found"},
		{Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionTrue, Reason: "InitialNamesAccepted", Message: "the initial names have been accepted"},
	}
	for i := range wanted {
		wanted[i].LastTransitionTime = now
		for _, old := range d.Status.Conditions {
			if old.Type == wanted[i].Type {
				wanted[i].LastTransitionTime = old.LastTransitionTime
			}
		}
	}
	d.Status.Conditions = wanted
	d.Status.AcceptedNames = d.Spec.Names
	for _, v := range d.Spec.Versions {
		if v.Storage {
			d.Status.StoredVersions = []string{v.Name}
		}
	}
	_, err := s.write(e, d)
	return err
}

// decodeCustom reads a custom resource. Fields that its schema does not have are found, and dropped as a real server
// drops them.
func (s *Server) decodeCustom(q *request, raw []byte, want schema.GroupVersionKind, into *unstructured.Unstructured, o options) (*unstructured.Unstructured, error) {
	into.Object = map[string]any{}
	if err := utiljson.Unmarshal(raw, &into.Object); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if into.GetAPIVersion() == "" && into.GetKind() == "" {
		return nil, apierrors.NewBadRequest("Object 'Kind' is missing in the request body")
	}
	if err := checkKind(into.GroupVersionKind(), want); err != nil {
		return nil, err
	}
	err := s.judgeCustom(q, into, o)
	if err == nil {
		return into, nil
	}
	return nil, apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", want.Kind, want.Version, want.Kind, err))
}

// judgeCustom drops fields that the schema does not have; they are an error, a warning or nothing, as the client wants.
func (s *Server) judgeCustom(q *request, obj runtime.Object, o options) error {
	into, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return nil
	}
	var unknown []string
	if v := q.res.custom.version.Schema; v != nil && v.OpenAPIV3Schema != nil {
		unknown = prune(into.Object, v.OpenAPIV3Schema, "", true)
	}
	sort.Strings(unknown)
	if len(unknown) == 0 || o.validation == "Ignore" {
		return nil
	}
	if o.validation == "Warn" {
		for _, path := range unknown {
			q.w.Header().Add("Warning", fmt.Sprintf("299 - %q", fmt.Sprintf("unknown field %q", path)))
		}
		return nil
	}
	quoted := make([]string, len(unknown))
	for i, path := range unknown {
		quoted[i] = fmt.Sprintf("unknown field %q", path)
	}
	return errors.New("strict decoding error: " + strings.Join(quoted, ", "))
}

// prune drops the fields of an object that its schema does not know, and yields their paths.
func prune(value any, known *apiextensionsv1.JSONSchemaProps, at string, root bool) []string {
	if known == nil || known.XPreserveUnknownFields != nil && *known.XPreserveUnknownFields {
		return nil
	}
	var unknown []string
	switch v := value.(type) {
	case map[string]any:
		for key, child := range v {
			if root && (key == "apiVersion" || key == "kind" || key == "metadata") {
				continue
			}
			path := strings.TrimPrefix(at+"."+key, ".")
			if property, ok := known.Properties[key]; ok {
				unknown = append(unknown, prune(child, &property, path, false)...)
				continue
			}
			if known.AdditionalProperties != nil {
				unknown = append(unknown, prune(child, known.AdditionalProperties.Schema, path, false)...)
				continue
			}
			if len(known.Properties) == 0 && known.Type != "object" || known.XEmbeddedResource {
				continue
			}
			delete(v, key)
			unknown = append(unknown, path)
		}
	case []any:
		if known.Items == nil {
			return nil
		}
		for i, child := range v {
			unknown = append(unknown, prune(child, known.Items.Schema, fmt.Sprintf("%s[%d]", at, i), false)...)
		}
	}
	return unknown
}

// validateCustom holds an object against the types, required fields, enums and bounds of its schema.
func validateCustom(r *resource, u *unstructured.Unstructured) field.ErrorList {
	if r.custom == nil || r.custom.version.Schema == nil || r.custom.version.Schema.OpenAPIV3Schema == nil {
		return nil
	}
	root := r.custom.version.Schema.OpenAPIV3Schema
	var errs field.ErrorList
	for _, name := range root.Required {
		if _, ok := u.Object[name]; !ok {
			errs = append(errs, field.Required(field.NewPath(name), ""))
		}
	}
	for name, property := range root.Properties {
		if child, ok := u.Object[name]; ok && name != "metadata" {
			errs = append(errs, holdAgainst(child, &property, field.NewPath(name))...)
		}
	}
	return errs
}

func holdAgainst(value any, known *apiextensionsv1.JSONSchemaProps, at *field.Path) field.ErrorList {
	if known == nil || known.XIntOrString || value == nil && known.Nullable {
		return nil
	}
	if got := typeName(value); known.Type != "" && got != known.Type && !(known.Type == "number" && got == "integer") {
		return field.ErrorList{field.TypeInvalid(at, value, fmt.Sprintf("%s in body must be of type %s: %q", at, known.Type, got))}
	}
	var errs field.ErrorList
	switch v := value.(type) {
	case map[string]any:
		for _, name := range known.Required {
			if _, ok := v[name]; !ok {
				errs = append(errs, field.Required(at.Child(name), ""))
			}
		}
		for name, child := range v {
			if property, ok := known.Properties[name]; ok {
				errs = append(errs, holdAgainst(child, &property, at.Child(name))...)
			}
		}
	case []any:
		for i, child := range v {
			if known.Items != nil {
				errs = append(errs, holdAgainst(child, known.Items.Schema, at.Index(i))...)
			}
		}
	case int64:
		errs = append(errs, checkBounds(float64(v), known, at)...)
	case float64:
		errs = append(errs, checkBounds(v, known, at)...)
	case string:
		errs = append(errs, checkEnum(v, known, at)...)
	}
	return errs
}

func checkBounds(v float64, known *apiextensionsv1.JSONSchemaProps, at *field.Path) field.ErrorList {
	if known.Minimum != nil && v < *known.Minimum {
		return field.ErrorList{field.Invalid(at, v, fmt.Sprintf("%s in body should be greater than or equal to %v", at, *known.Minimum))}
	}
	if known.Maximum != nil && v > *known.Maximum {
		return field.ErrorList{field.Invalid(at, v, fmt.Sprintf("%s in body should be less than or equal to %v", at, *known.Maximum))}
	}
	return nil
}

func checkEnum(v string, known *apiextensionsv1.JSONSchemaProps, at *field.Path) field.ErrorList {
	if len(known.Enum) == 0 {
		return nil
	}
	var allowed []string
	for _, option := range known.Enum {
		var text string
		if err := utiljson.Unmarshal(option.Raw, &text); err != nil || text == v {
			return nil
		}
		allowed = append(allowed, text)
	}
	return field.ErrorList{field.NotSupported(at, v, allowed)}
}

func typeName(value any) string {
	switch value.(type) {
	case map[string]any:
		return "object"
	case []any:
		return "array"
	case string:
		return "string"
	case bool:
		return "boolean"
	case int64:
		return "integer"
	case float64:
		return "number"
	}
	return "null"
}

// customColumns are the printer columns of a definition, beside the name.
func customColumns(r *resource) []apiextensionsv1.CustomResourceColumnDefinition {
	if r.custom == nil {
		return nil
	}
	if len(r.custom.version.AdditionalPrinterColumns) == 0 {
		return []apiextensionsv1.CustomResourceColumnDefinition{{Name: "Age", Type: "date", JSONPath: ".metadata.creationTimestamp"}}
	}
	return r.custom.version.AdditionalPrinterColumns
}
