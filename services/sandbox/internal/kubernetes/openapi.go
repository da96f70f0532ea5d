package kubernetes

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// OpenAPI.
//
// The documents are derived from the Go types of the API: property names from JSON tags, merge keys from the patch tags,
// descriptions from the types' own documentation, model names from OpenAPIModelName. Paths stand for each resource with
// the kind and the parameters by which kubectl knows that the server validates fields.

// schemas makes the documents on first use and keeps the last ones.
type schemas struct {
	server *Server
	cached map[string][]byte
}

func newSchemas(s *Server) *schemas { return &schemas{server: s, cached: map[string][]byte{}} }

// forget drops the documents: a custom resource definition has changed. The caller holds the store's lock.
func (d *schemas) forget() { d.cached = map[string][]byte{} }

func (s *Server) serveOpenAPI(q *request, rest []string) error {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	path := strings.Join(rest, "/")
	switch {
	case path == "v3":
		return s.openapi.index(q)
	case path == "v2":
		return s.openapi.second(q)
	case strings.HasPrefix(path, "v3/"):
		return s.openapi.third(q, strings.TrimPrefix(path, "v3/"))
	}
	return errNoPath()
}

func versionPath(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "api/" + gv.Version
	}
	return "apis/" + gv.String()
}

func (d *schemas) index(q *request) error {
	paths := map[string]any{}
	for _, g := range d.server.catalog.groupVersions() {
		for _, v := range g.Versions {
			path := versionPath(schema.GroupVersion{Group: g.Name, Version: v.Version})
			paths[path] = map[string]string{"serverRelativeURL": "/openapi/v3/" + path}
		}
	}
	writeJSON(q.w, http.StatusOK, map[string]any{"paths": paths})
	return nil
}

// third answers the OpenAPI 3 document of one group and version.
func (d *schemas) third(q *request, path string) error {
	raw, known := d.cached[path]
	if !known {
		models := newModels(d.server.scheme, "#/components/schemas/")
		paths := map[string]any{}
		for _, r := range d.server.catalog.sorted() {
			if versionPath(r.gvk.GroupVersion()) == path {
				models.addResource(r, paths, true)
			}
		}
		if len(paths) == 0 {
			return errNoPath()
		}
		var err error
		raw, err = json.Marshal(map[string]any{
			"openapi": "3.0.0", "info": map[string]string{"title": "Kubernetes", "version": serverVersion().GitVersion},
			"paths": paths, "components": map[string]any{"schemas": models.all},
		})
		if err != nil {
			return err
		}
		d.cached[path] = raw
	}
	if strings.Contains(q.http.Header.Get("Accept"), "application/com.github.proto-openapi.spec.v3") && !strings.Contains(q.http.Header.Get("Accept"), "json") {
		return unsupportedMedia("", "application/json")
	}
	writeRaw(q.w, http.StatusOK, "application/json", raw)
	return nil
}

// second answers the OpenAPI 2 document of everything, as JSON or in the protobuf that clients ask for.
func (d *schemas) second(q *request) error {
	raw, known := d.cached["v2"]
	if !known {
		models := newModels(d.server.scheme, "#/definitions/")
		paths := map[string]any{}
		for _, r := range d.server.catalog.sorted() {
			models.addResource(r, paths, false)
		}
		var err error
		raw, err = json.Marshal(map[string]any{
			"swagger": "2.0", "info": map[string]string{"title": "Kubernetes", "version": serverVersion().GitVersion},
			"paths": paths, "definitions": models.all,
		})
		if err != nil {
			return err
		}
		d.cached["v2"] = raw
	}
	if !strings.Contains(q.http.Header.Get("Accept"), "proto-openapi") {
		writeRaw(q.w, http.StatusOK, "application/json", raw)
		return nil
	}
	document, err := openapi_v2.ParseDocument(raw)
	if err != nil {
		return fmt.Errorf("encode OpenAPI: %w", err)
	}
	encoded, err := proto.Marshal(document)
	if err != nil {
		return fmt.Errorf("encode OpenAPI: %w", err)
	}
	writeRaw(q.w, http.StatusOK, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf", encoded)
	return nil
}

// models collects the schemas of Go types.
type models struct {
	scheme *runtime.Scheme
	prefix string
	all    map[string]any
}

func newModels(scheme *runtime.Scheme, prefix string) *models {
	return &models{scheme: scheme, prefix: prefix, all: map[string]any{}}
}

func (m *models) addResource(r *resource, paths map[string]any, third bool) {
	name := m.kind(r)
	collection := "/" + versionPath(r.gvk.GroupVersion())
	if r.namespaced {
		collection += "/namespaces/{namespace}"
	}
	collection += "/" + r.plural
	kind := map[string]string{"group": r.gvk.Group, "version": r.gvk.Version, "kind": r.gvk.Kind}
	paths[collection] = map[string]any{"post": m.operation(name, kind, "post", third), "get": m.operation(name, kind, "list", third)}
	paths[collection+"/{name}"] = map[string]any{
		"get": m.operation(name, kind, "get", third), "put": m.operation(name, kind, "put", third),
		"patch": m.operation(name, kind, "patch", third), "delete": m.operation(name, kind, "delete", third),
	}
}

func (m *models) operation(name string, kind map[string]string, action string, third bool) map[string]any {
	parameter := func(name, in string) map[string]any {
		if third {
			return map[string]any{"name": name, "in": in, "schema": map[string]any{"type": "string"}}
		}
		return map[string]any{"name": name, "in": in, "type": "string"}
	}
	op := map[string]any{
		"x-kubernetes-group-version-kind": kind, "x-kubernetes-action": action,
		"responses": map[string]any{"200": m.response(name, third)},
	}
	if action == "post" || action == "put" || action == "patch" {
		op["parameters"] = []any{parameter("dryRun", "query"), parameter("fieldManager", "query"), parameter("fieldValidation", "query")}
	}
	return op
}

func (m *models) response(name string, third bool) map[string]any {
	ref := map[string]any{"$ref": m.prefix + name}
	if !third {
		return map[string]any{"description": "OK", "schema": ref}
	}
	return map[string]any{"description": "OK", "content": map[string]any{"application/json": map[string]any{"schema": ref}}}
}

// kind adds the model of a resource and yields its name.
func (m *models) kind(r *resource) string {
	if r.custom != nil {
		return m.customKind(r)
	}
	t := m.scheme.AllKnownTypes()[r.gvk]
	name := m.reference(t)
	if model, ok := m.all[name].(map[string]any); ok {
		model["x-kubernetes-group-version-kind"] = []any{map[string]string{"group": r.gvk.Group, "version": r.gvk.Version, "kind": r.gvk.Kind}}
	}
	return name
}

func (m *models) customKind(r *resource) string {
	parts := strings.Split(r.gvk.Group, ".")
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	name := strings.Join(parts, ".") + "." + r.gvk.Version + "." + r.gvk.Kind
	model := map[string]any{"type": "object"}
	if v := r.custom.version.Schema; v != nil && v.OpenAPIV3Schema != nil {
		raw, err := json.Marshal(v.OpenAPIV3Schema)
		if err == nil {
			err = json.Unmarshal(raw, &model)
		}
		if err != nil {
			model = map[string]any{"type": "object"}
		}
	}
	properties, ok := model["properties"].(map[string]any)
	if !ok {
		properties = map[string]any{}
		model["properties"] = properties
	}
	properties["apiVersion"] = map[string]any{"type": "string"}
	properties["kind"] = map[string]any{"type": "string"}
	properties["metadata"] = map[string]any{"$ref": m.prefix + m.reference(reflect.TypeFor[metav1.ObjectMeta]())}
	model["x-kubernetes-group-version-kind"] = []any{map[string]string{"group": r.gvk.Group, "version": r.gvk.Version, "kind": r.gvk.Kind}}
	m.all[name] = model
	return name
}

// reference adds the model of a struct and yields its name.
func (m *models) reference(t reflect.Type) string {
	name := strings.NewReplacer("/", ".").Replace(t.PkgPath()) + "." + t.Name()
	if named, ok := reflect.New(t).Interface().(interface{ OpenAPIModelName() string }); ok {
		name = named.OpenAPIModelName()
	}
	if _, known := m.all[name]; known {
		return name
	}
	model := map[string]any{"type": "object"}
	m.all[name] = model // before the fields, for types that refer to themselves
	docs := map[string]string{}
	if documented, ok := reflect.New(t).Interface().(interface{ SwaggerDoc() map[string]string }); ok {
		docs = documented.SwaggerDoc()
	}
	if docs[""] != "" {
		model["description"] = docs[""]
	}
	properties := map[string]any{}
	m.fields(t, docs, properties)
	if len(properties) > 0 {
		model["properties"] = properties
	}
	return name
}

func (m *models) fields(t reflect.Type, docs map[string]string, properties map[string]any) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() {
			continue
		}
		if name == "" && f.Anonymous {
			inner := docs
			if documented, ok := reflect.New(f.Type).Interface().(interface{ SwaggerDoc() map[string]string }); ok {
				inner = documented.SwaggerDoc()
			}
			m.fields(f.Type, inner, properties)
			continue
		}
		property := m.property(f.Type)
		if docs[name] != "" {
			property["description"] = docs[name]
		}
		if ref, isRef := property["$ref"]; isRef && docs[name] != "" && strings.HasPrefix(m.prefix, "#/components") {
			delete(property, "$ref")
			property["allOf"] = []any{map[string]any{"$ref": ref}}
		}
		if v := f.Tag.Get("patchStrategy"); v != "" {
			property["x-kubernetes-patch-strategy"] = v
		}
		if v := f.Tag.Get("patchMergeKey"); v != "" {
			property["x-kubernetes-patch-merge-key"] = v
		}
		properties[name] = property
	}
}

func (m *models) property(t reflect.Type) map[string]any {
	switch t {
	case reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.MicroTime]():
		return map[string]any{"type": "string", "format": "date-time"}
	case reflect.TypeFor[apiresource.Quantity](), reflect.TypeFor[metav1.Duration]():
		return map[string]any{"type": "string"}
	case reflect.TypeFor[intstr.IntOrString]():
		return map[string]any{"type": "string", "format": "int-or-string"}
	case reflect.TypeFor[metav1.FieldsV1](), reflect.TypeFor[runtime.RawExtension]():
		return map[string]any{"type": "object"}
	case reflect.TypeFor[[]byte]():
		return map[string]any{"type": "string", "format": "byte"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return m.property(t.Elem())
	case reflect.Slice:
		return map[string]any{"type": "array", "items": m.property(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": m.property(t.Elem())}
	case reflect.Struct:
		return map[string]any{"$ref": m.prefix + m.reference(t)}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int64:
		return map[string]any{"type": "integer", "format": "int64"}
	case reflect.Int32, reflect.Int, reflect.Uint8, reflect.Uint32:
		return map[string]any{"type": "integer", "format": "int32"}
	case reflect.Float64:
		return map[string]any{"type": "number", "format": "double"}
	case reflect.Interface:
		return map[string]any{}
	}
	return map[string]any{"type": "string"}
}
