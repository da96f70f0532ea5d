// Package rest is the plumbing of the simulated OpenStack services: one lock and one agenda for all of them,
// routing, authentication, and the turning of values and errors into the HTTP of each service.
//
// A call goes: route, token, latency (control.Enter), lock, agenda (what is due happens), handler, agenda,
// unlock, encode. Handlers therefore see and change the whole cloud consistently and never sleep. A value that a
// handler returns is encoded after the lock is gone, so it must not share maps or slices that are changed in
// place: objects replace their maps and slices instead.
package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/control"
	"github.com/weftcloud/weft/services/sandbox/internal/world"
)

// World is what all services of one simulated OpenStack share.
type World struct {
	Clock   world.Clock
	Journal *world.Journal
	Control *control.Control
	Agenda  world.Agenda // under the lock

	mu sync.Mutex
}

// Do runs f under the lock of the world, after everything that is due has happened; what f made due at once
// happens before Do returns.
func (w *World) Do(f func(now time.Time)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.Clock().UTC()
	w.Agenda.Run(now)
	f(now)
	w.Agenda.Run(now)
}

// Later has do called once the state latency named by key has passed.
func (w *World) Later(now time.Time, key string) time.Time {
	return now.Add(w.Control.StateLatency(key))
}

// Token is who calls, in which project, with which roles.
type Token struct {
	ID          string
	UserID      string
	UserName    string
	ProjectID   string
	ProjectName string
	Roles       []string
}

// Admin says whether the token has the admin role.
func (t *Token) Admin() bool { return t != nil && slices.Contains(t.Roles, "admin") }

// Request is one call as a handler sees it.
type Request struct {
	HTTP   *http.Request
	Token  *Token
	Params map[string]string // path parameters
	Query  url.Values
	Body   []byte
	Now    time.Time
	Base   string // scheme and host, "http://127.0.0.1:1234"
	Minor  int    // negotiated microversion, where the service has them
}

// JSON decodes the body.
func (r *Request) JSON(into any) error {
	if err := json.Unmarshal(r.Body, into); err != nil {
		return &Error{Status: http.StatusBadRequest, Kind: "HTTPBadRequest", Message: "The server could not comply with the request since it is either malformed or otherwise incorrect."}
	}
	return nil
}

// Response is what a handler answers. A nil Body sends no body.
type Response struct {
	Status      int
	Body        any
	Header      map[string]string
	Raw         []byte // sent as it is, with ContentType
	ContentType string
}

// OK answers 200 with a JSON body.
func OK(body any) (*Response, error) { return &Response{Status: http.StatusOK, Body: body}, nil }

// Status answers with a status and a JSON body, or none when body is nil.
func Status(status int, body any) (*Response, error) {
	return &Response{Status: status, Body: body}, nil
}

// Error is a refusal. Kind is Neutron's error type; other services ignore it.
type Error struct {
	Status  int
	Kind    string
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("%d %s: %s", e.Status, e.Kind, e.Message) }

// Errorf makes a refusal.
func Errorf(status int, kind, format string, args ...any) *Error {
	return &Error{Status: status, Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// Handler answers one call under the lock of the world.
type Handler func(*Request) (*Response, error)

// Route is one operation of a service. Pattern segments in braces are parameters; a last segment "{x...}" takes
// the rest of the path.
type Route struct {
	Method, Pattern string
	Operation       string // "server.create"; the service name is put before it
	Handler         Handler
	Public          bool // needs no token
	Stream          bool // the handler reads HTTP.Body itself and is called without the lock

	segments []string
}

// Service is one simulated service below a path prefix.
type Service struct {
	Name   string // as in control: compute, network, volume, image, identity
	Prefix string // "/compute"
	World  *World
	Routes []Route
	// Authenticate finds the token; nil when it is unknown or expired. It is called under the lock.
	Authenticate func(id string, now time.Time) *Token
	// WriteError answers in the dialect of the service. kind may be empty.
	WriteError func(w http.ResponseWriter, r *http.Request, status int, kind, message string)
	// Unauthorized answers 401; nil: WriteError does.
	Unauthorized func(w http.ResponseWriter, r *http.Request)
	// Negotiate looks at headers before the handler runs and may set response headers; nil: nothing to do.
	Negotiate func(w http.ResponseWriter, r *Request) error
	// NoRoute answers a path that the service does not have; nil: WriteError does.
	NoRoute func(w http.ResponseWriter, r *http.Request, status int, kind, message string)
	// Clean changes the path before routing; nil: nothing to do.
	Clean func(path string) string
}

// Dialect answers a fault of package control like the service would.
func (s *Service) Dialect(w http.ResponseWriter, r *http.Request, status int, message string) {
	s.WriteError(w, r, status, "", message)
}

// Prepare compiles the routes. It must be called once before ServeHTTP.
func (s *Service) Prepare() {
	for i := range s.Routes {
		s.Routes[i].segments = split(s.Routes[i].Pattern)
	}
}

func split(path string) []string {
	path = strings.Trim(path, "/")
	if path == "" {
		return nil
	}
	return strings.Split(path, "/")
}

func (s *Service) match(method string, path []string) (*Route, map[string]string, bool) {
	known := false
	var best *Route
	var bestParams map[string]string
	bestFixed := -1
	for i := range s.Routes {
		route := &s.Routes[i]
		params, fixed, ok := fit(route.segments, path)
		if !ok {
			continue
		}
		known = true
		if route.Method == method && fixed > bestFixed {
			best, bestParams, bestFixed = route, params, fixed
		}
	}
	return best, bestParams, known
}

// fit matches a path; fixed counts the segments that matched literally.
func fit(pattern, path []string) (params map[string]string, fixed int, ok bool) {
	if len(pattern) != len(path) {
		return nil, 0, false
	}
	for i, want := range pattern {
		if strings.HasPrefix(want, "{") {
			if params == nil {
				params = map[string]string{}
			}
			params[want[1:len(want)-1]] = path[i]
			continue
		}
		if want != path[i] {
			return nil, 0, false
		}
		fixed++
	}
	return params, fixed, true
}

// maxBody bounds what is read of a JSON request.
const maxBody = 8 << 20

// ServeHTTP answers one call.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.EscapedPath(), s.Prefix)
	if s.Clean != nil {
		path = s.Clean(path)
	}
	segments := split(path)
	for i, seg := range segments {
		if plain, err := url.PathUnescape(seg); err == nil {
			segments[i] = plain
		}
	}
	route, params, known := s.match(r.Method, segments)
	req := &Request{HTTP: r, Params: params, Query: r.URL.Query(), Base: "http://" + r.Host}
	if route == nil || !route.Public {
		if !s.authenticate(req) {
			s.unauthorized(w, r)
			return
		}
	}
	if s.Negotiate != nil {
		if err := s.Negotiate(w, req); err != nil {
			s.fail(w, r, err)
			return
		}
	}
	if route == nil {
		s.noRoute(w, r, known)
		return
	}
	if err := control.Enter(r.Context(), s.Name+"."+route.Operation); err != nil {
		return
	}
	resp, err := s.run(route, req)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	send(w, resp)
}

func (s *Service) run(route *Route, req *Request) (*Response, error) {
	if route.Stream {
		return route.Handler(req)
	}
	body, err := io.ReadAll(io.LimitReader(req.HTTP.Body, maxBody))
	if err != nil {
		return nil, Errorf(http.StatusBadRequest, "HTTPBadRequest", "read request: %v", err)
	}
	req.Body = body
	var resp *Response
	s.World.Do(func(now time.Time) {
		req.Now = now
		resp, err = route.Handler(req)
	})
	return resp, err
}

func (s *Service) authenticate(req *Request) bool {
	id := req.HTTP.Header.Get("X-Auth-Token")
	if id == "" {
		return false
	}
	s.World.Do(func(now time.Time) { req.Token = s.Authenticate(id, now) })
	if req.Token == nil {
		return false
	}
	project := req.Token.ProjectName
	control.Identify(req.HTTP.Context(), project, req.Token.UserName)
	return true
}

func (s *Service) unauthorized(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Www-Authenticate", fmt.Sprintf("Keystone uri=%q", "http://"+r.Host+"/identity"))
	if s.Unauthorized != nil {
		s.Unauthorized(w, r)
		return
	}
	WriteJSON(w, http.StatusUnauthorized, map[string]any{"error": map[string]any{
		"code": 401, "title": "Unauthorized", "message": "The request you have made requires authentication.",
	}})
}

func (s *Service) noRoute(w http.ResponseWriter, r *http.Request, known bool) {
	if known {
		s.WriteError(w, r, http.StatusMethodNotAllowed, "HTTPMethodNotAllowed", "The server could not comply with the request since it is either malformed or otherwise incorrect.")
		return
	}
	write := s.WriteError
	if s.NoRoute != nil {
		write = s.NoRoute
	}
	write(w, r, http.StatusNotFound, "HTTPNotFound", "The resource could not be found.")
}

func (s *Service) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := &Error{}
	if !errors.As(err, &e) {
		e = &Error{Status: http.StatusInternalServerError, Kind: "HTTPInternalServerError", Message: err.Error()}
	}
	s.WriteError(w, r, e.Status, e.Kind, e.Message)
}

func send(w http.ResponseWriter, resp *Response) {
	for k, v := range resp.Header {
		w.Header().Set(k, v)
	}
	if resp.Raw != nil {
		w.Header().Set("Content-Type", resp.ContentType)
		w.WriteHeader(resp.Status)
		// The client may be gone; nobody else is there to tell.
		if _, err := w.Write(resp.Raw); err != nil {
			return
		}
		return
	}
	if resp.Body == nil {
		w.WriteHeader(resp.Status)
		return
	}
	WriteJSON(w, resp.Status, resp.Body)
}

// WriteJSON answers with a JSON body.
func WriteJSON(w http.ResponseWriter, status int, body any) {
	data, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// See send.
	if _, err := w.Write(data); err != nil {
		return
	}
}

// M is a JSON object.
type M = map[string]any

// Identify is used by services that learn who calls only from the body (identity).
func Identify(ctx context.Context, t *Token) { control.Identify(ctx, t.ProjectName, t.UserName) }
