package control

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// Middleware records every call of a service and applies faults and latencies. See the package comment.
func (c *Control) Middleware(service string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin, started := time.Now(), c.clock()
		id := r.Header.Get("X-Openstack-Request-Id")
		if id == "" {
			id = "req-" + uuid.NewString()
		}
		c.mu.Lock()
		record := Call{
			Seq: c.calls.number(), Time: started, Service: service, Method: r.Method, Path: r.URL.Path,
			Query: r.URL.RawQuery, UserAgent: r.UserAgent(), RequestID: id,
		}
		c.mu.Unlock()
		cl := &call{control: c, service: service}
		r = r.WithContext(context.WithValue(r.Context(), callKey{}, cl))
		rec := &recorder{ResponseWriter: w, call: cl, ctx: r.Context()}
		rec.Header().Set("X-Openstack-Request-Id", id)
		defer func() {
			cl.mu.Lock()
			record.Operation, record.Project, record.User = cl.operation, cl.project, cl.user
			cl.mu.Unlock()
			record.Status = rec.status
			record.DurationMS = float64(time.Since(begin).Microseconds()) / 1000
			c.mu.Lock()
			c.calls.add(record)
			c.mu.Unlock()
		}()
		fault := c.strike(service, r)
		if fault != nil {
			record.Fault = fault.ID
		}
		c.serve(fault, rec, r, next)
	})
}

func (c *Control) serve(fault *Fault, rec *recorder, r *http.Request, next http.Handler) {
	if fault == nil {
		run(rec, r, next)
		return
	}
	switch fault.Effect {
	case EffectDelay:
		if sleep(r.Context(), time.Duration(fault.Delay)) == nil {
			run(rec, r, next)
		}
	case EffectCellDown:
		rec.call.mu.Lock()
		rec.call.down, rec.call.cell = true, fault.Cell
		rec.call.mu.Unlock()
		run(rec, r, next)
	case EffectHang:
		// The body has to be read, else the server does not notice that the client is gone.
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			<-r.Context().Done()
		}
		panic(http.ErrAbortHandler)
	case EffectDropResponse:
		run(&recorder{ResponseWriter: &discard{header: http.Header{}}, call: rec.call, ctx: rec.ctx}, r, next)
		panic(http.ErrAbortHandler)
	default:
		if fault.RetryAfter > 0 {
			seconds := (time.Duration(fault.RetryAfter) + time.Second - 1) / time.Second
			rec.Header().Set("Retry-After", strconv.Itoa(int(seconds)))
		}
		c.dialect(rec.call.service)(rec, r, fault.Status, faultMessage(fault))
	}
}

func run(rec *recorder, r *http.Request, next http.Handler) {
	next.ServeHTTP(rec, r)
	if rec.status == 0 {
		rec.WriteHeader(http.StatusOK)
	}
}

func faultMessage(f *Fault) string {
	if f.Message != "" {
		return f.Message
	}
	return fmt.Sprintf("%s (sandbox fault %s)", http.StatusText(f.Status), f.ID)
}

func (c *Control) dialect(service string) ErrorWriter {
	c.mu.Lock()
	defer c.mu.Unlock()
	if write := c.dialects[service]; write != nil {
		return write
	}
	if service == "kubernetes" {
		return writeStatus
	}
	return writePlain
}

func writePlain(w http.ResponseWriter, _ *http.Request, status int, message string) {
	writeJSON(w, status, map[string]any{"error": map[string]any{"code": status, "message": message}})
}

// writeStatus answers like a Kubernetes API server.
func writeStatus(w http.ResponseWriter, _ *http.Request, status int, message string) {
	reasons := map[int]string{
		400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Expired",
		422: "Invalid", 429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout",
	}
	body := map[string]any{
		"kind": "Status", "apiVersion": "v1", "metadata": map[string]any{}, "status": "Failure",
		"message": message, "code": status,
	}
	if reason := reasons[status]; reason != "" {
		body["reason"] = reason
	}
	if seconds, err := strconv.Atoi(w.Header().Get("Retry-After")); err == nil {
		body["details"] = map[string]any{"retryAfterSeconds": seconds}
	}
	writeJSON(w, status, body)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	data, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The client may be gone; there is nobody else to tell.
	if _, err := w.Write(append(data, '\n')); err != nil {
		return
	}
}

// recorder notes the status and holds the answer back until the latency of the request has passed.
type recorder struct {
	http.ResponseWriter
	call   *call
	ctx    context.Context
	status int
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Flush passes http.Flusher on, which watches need.
func (r *recorder) Flush() {
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	if f, ok := r.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

func (r *recorder) WriteHeader(status int) {
	if r.status != 0 {
		return
	}
	if status >= 200 {
		r.status = status
	}
	// A client that went away needs no answer, but the handler may finish.
	if err := r.call.wait(r.ctx); err != nil {
		return
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	return r.ResponseWriter.Write(b)
}

// discard is where the answer of a dropped response goes.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Flush()                      {}
