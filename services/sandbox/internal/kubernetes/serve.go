package kubernetes

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/weftcloud/weft/services/sandbox/internal/control"
)

// request is an API request taken apart.
type request struct {
	w    http.ResponseWriter
	http *http.Request

	user        user
	res         *resource
	namespace   string
	name        string
	subresource string
	verb        string
	watch       bool
}

// serve is the way in of every request.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Audit-Id", string(newUID()))
	w.Header().Set("Cache-Control", "no-cache, private")
	path := strings.Trim(r.URL.Path, "/")
	if s.serveOpen(w, path) {
		return
	}
	who, err := s.keys.authenticate(r, s.config.Now())
	if err != nil {
		writeError(w, apierrors.NewUnauthorized("Unauthorized"))
		return
	}
	control.Identify(r.Context(), "", who.name)
	parts := strings.Split(path, "/")
	err = s.route(&request{w: w, http: r, user: who}, parts)
	if errors.Is(err, errPath) {
		writeRaw(w, http.StatusNotFound, "text/plain; charset=utf-8", []byte("404 page not found\n"))
		return
	}
	if err != nil {
		writeError(w, err)
	}
}

// serveOpen answers what needs no credentials.
func (s *Server) serveOpen(w http.ResponseWriter, path string) bool {
	switch path {
	case "healthz", "livez", "readyz":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		write(w, []byte("ok"))
		return true
	case "version":
		writeJSON(w, http.StatusOK, serverVersion())
		return true
	}
	return false
}

func (s *Server) route(q *request, parts []string) error {
	switch parts[0] {
	case "":
		return s.serveRoot(q)
	case "openapi":
		return s.serveOpenAPI(q, parts[1:])
	case "api":
		if len(parts) == 1 {
			return s.serveCoreVersions(q)
		}
		return s.routeGroup(q, "", parts[1], parts[2:])
	case "apis":
		if len(parts) == 1 {
			return s.serveGroups(q)
		}
		if len(parts) == 2 {
			return s.serveGroup(q, parts[1])
		}
		return s.routeGroup(q, parts[1], parts[2], parts[3:])
	}
	return errNoPath()
}

// errPath is answered in plain text, as a real server does for a path that nothing serves.
var errPath = errors.New("404 page not found")

func errNoPath() error { return errPath }

func (s *Server) routeGroup(q *request, group, version string, rest []string) error {
	if len(rest) == 0 {
		return s.serveResources(q, schema.GroupVersion{Group: group, Version: version})
	}
	if rest[0] == "watch" && len(rest) > 1 {
		q.watch = true
		rest = rest[1:]
	}
	if rest[0] == "namespaces" && len(rest) > 2 && !isNamespaceSubresource(rest) {
		q.namespace = rest[1]
		rest = rest[2:]
	}
	s.store.mu.RLock()
	q.res = s.catalog.lookup(group, version, rest[0])
	s.store.mu.RUnlock()
	if q.res == nil && s.serves(schema.GroupVersion{Group: group, Version: version}) {
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
			Message: "the server could not find the requested resource", Details: &metav1.StatusDetails{},
		}}
	}
	if q.res == nil || len(rest) > 3 {
		return errNoPath()
	}
	if len(rest) > 1 {
		q.name = rest[1]
	}
	if len(rest) > 2 {
		q.subresource = rest[2]
	}
	if q.namespace != "" && !q.res.namespaced {
		return errNoPath()
	}
	if q.name != "" && q.res.namespaced && q.namespace == "" {
		return errNoPath()
	}
	return s.dispatch(q)
}

// serves says that some resource of a group and version is served.
func (s *Server) serves(gv schema.GroupVersion) bool {
	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	for gvr := range s.catalog.byGVR {
		if gvr.GroupVersion() == gv {
			return true
		}
	}
	return false
}

func isNamespaceSubresource(rest []string) bool {
	return len(rest) == 3 && (rest[2] == "status" || rest[2] == "finalize")
}

// dispatch decides the verb, checks that it is allowed, and calls its handler.
func (s *Server) dispatch(q *request) error {
	q.verb = q.verbOf()
	if q.verb == "" || (q.subresource == "" && !q.res.allows(q.verb)) {
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusMethodNotAllowed, Reason: metav1.StatusReasonMethodNotAllowed,
			Message: "the server does not allow this method on the requested resource", Details: &metav1.StatusDetails{},
		}}
	}
	operation := Service + "." + q.res.plural + "." + q.verb
	if err := control.Enter(q.http.Context(), operation); err != nil {
		return err
	}
	if err := s.authorize(q.user, q.verb, q.res, q.subresource, q.namespace, q.name); err != nil {
		return err
	}
	if q.subresource != "" && q.subresource != "status" && q.subresource != "scale" {
		return s.serveSubresource(q)
	}
	if q.subresource == "status" && !q.res.status || q.subresource == "scale" && !q.res.scale {
		return errNoPath()
	}
	handlers := map[string]func(*request) error{
		"get": s.serveGet, "list": s.serveList, "watch": s.serveWatch, "create": s.serveCreate, "update": s.serveUpdate,
		"patch": s.servePatch, "delete": s.serveDelete, "deletecollection": s.serveDeleteCollection,
	}
	return handlers[q.verb](q)
}

func (q *request) verbOf() string {
	query := q.http.URL.Query()
	switch q.http.Method {
	case http.MethodGet, http.MethodHead:
		wanted := query.Get("watch")
		if q.watch || wanted == "true" || wanted == "1" {
			return "watch"
		}
		if q.name == "" {
			return "list"
		}
		return "get"
	case http.MethodPost:
		if q.name == "" || q.subresource != "" {
			return "create"
		}
	case http.MethodPut:
		if q.name != "" {
			return "update"
		}
	case http.MethodPatch:
		if q.name != "" {
			return "patch"
		}
	case http.MethodDelete:
		if q.name == "" {
			return "deletecollection"
		}
		return "delete"
	}
	return ""
}

// writeError answers with the metav1.Status of err.
func writeError(w http.ResponseWriter, err error) {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		failed := metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: err.Error()}
		status = &apierrors.StatusError{ErrStatus: failed}
	}
	body := status.Status()
	body.Kind, body.APIVersion = "Status", "v1"
	if body.Details != nil && body.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(body.Details.RetryAfterSeconds))
	}
	writeJSON(w, int(body.Code), body)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeRaw(w, status, "application/json", raw)
}

func writeRaw(w http.ResponseWriter, status int, contentType string, raw []byte) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	write(w, raw)
}

// write sends the body. The client that went away meanwhile is the only reason for an error here, and nobody is left
// to be told.
func write(w http.ResponseWriter, raw []byte) {
	if _, err := w.Write(raw); err != nil {
		return
	}
}

// writeEntry answers with one object in the form that the client accepts.
func (s *Server) writeEntry(q *request, status int, e *entry) error {
	switch form := acceptedForm(q.http); form {
	case formTable:
		table, err := s.table(e.res, []*entry{e}, q.http.URL.Query().Get("includeObject"), true)
		if err != nil {
			return err
		}
		table.ResourceVersion = fmt.Sprint(e.rv)
		writeJSON(q.w, status, table)
	case formPartial:
		partial, err := partialOf(e)
		if err != nil {
			return err
		}
		writeJSON(q.w, status, partial)
	default:
		writeRaw(q.w, status, "application/json", e.raw)
	}
	return nil
}

func (s *Server) writeObject(q *request, status int, obj runtime.Object) error {
	raw, err := encodeObject(obj)
	if err != nil {
		return err
	}
	writeRaw(q.w, status, "application/json", raw)
	return nil
}

// form is the shape in which a client wants objects.
type form int

const (
	formFull form = iota
	formTable
	formPartial
)

// acceptedForm takes the first form of the Accept header that the server has. Protobuf and CBOR are passed over: all
// clients name JSON as well.
func acceptedForm(r *http.Request) form {
	for _, part := range strings.Split(r.Header.Get("Accept"), ",") {
		part = strings.TrimSpace(part)
		if !strings.HasPrefix(part, "application/json") {
			continue
		}
		if strings.Contains(part, "as=Table") && strings.Contains(part, "v=v1;") || strings.Contains(part, "as=Table") && strings.HasSuffix(part, "v=v1") {
			return formTable
		}
		if strings.Contains(part, "as=PartialObjectMetadata") && !strings.Contains(part, "v=v1beta1") {
			return formPartial
		}
		if !strings.Contains(part, "as=") {
			return formFull
		}
	}
	return formFull
}

func partialOf(e *entry) (*metav1.PartialObjectMetadata, error) {
	partial := &metav1.PartialObjectMetadata{}
	if err := json.Unmarshal(e.raw, partial); err != nil {
		return nil, fmt.Errorf("read metadata of %s: %w", e.key(), err)
	}
	partial.TypeMeta = metav1.TypeMeta{Kind: "PartialObjectMetadata", APIVersion: "meta.k8s.io/v1"}
	return partial, nil
}
