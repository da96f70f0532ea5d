package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// Duration is a time.Duration that is "200ms" in JSON; a bare number is read as milliseconds.
type Duration time.Duration

// MarshalJSON writes the duration as text.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads "200ms" or a number of milliseconds.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		return err
	}
	switch v := v.(type) {
	case float64:
		*d = Duration(v * float64(time.Millisecond))
		return nil
	case string:
		parsed, err := time.ParseDuration(v)
		if err != nil {
			return fmt.Errorf("duration %q: write it like 200ms or 1.5s", v)
		}
		*d = Duration(parsed)
		return nil
	}
	return fmt.Errorf("duration %s: write it like \"200ms\"", data)
}

// Effects of a fault.
const (
	EffectStatus       = "status"        // answer with status and message; the request is not executed
	EffectDelay        = "delay"         // wait, then go on
	EffectDropResponse = "drop_response" // execute, then cut the connection without an answer
	EffectHang         = "hang"          // never answer, never execute
	EffectConflict     = "conflict"      // answer 409; the request is not executed
	EffectThrottle     = "throttle"      // answer 429 with Retry-After; the request is not executed
	EffectLimit        = "limit"         // let Rate calls a second pass, and throttle those that are more
	EffectCellDown     = "cell_down"     // answer as the compute service does while the database of a cell does not; see Cell
)

// Fault breaks calls that match it. Empty matchers match everything. The matchers are Service ("compute"),
// Method, Path and Body (a substring of the request body).
//
// Path is a glob, matched against the end of the URL path at a slash ("/servers" matches
// /compute/v2.1/servers): * stands for anything inside one segment, ** for anything. If it begins with ^ it is a
// regular expression on the whole URL path.
type Fault struct {
	ID         string   `json:"id"`
	Service    string   `json:"service,omitempty"`
	Method     string   `json:"method,omitempty"`
	Path       string   `json:"path,omitempty"`
	Body       string   `json:"body,omitempty"`
	Times      int      `json:"times"`          // how many calls it strikes; 0 = until it is deleted
	Skip       int      `json:"skip,omitempty"` // how many matching calls it lets pass first
	Effect     string   `json:"effect"`
	Status     int      `json:"status,omitempty"`  // for status: default 500; for throttle: default 429
	Message    string   `json:"message,omitempty"` // what the error says
	Delay      Duration `json:"delay,omitempty"`
	RetryAfter Duration `json:"retryAfter,omitempty"` // sent in whole seconds, rounded up
	Rate       float64  `json:"rate,omitempty"`       // for limit: how many calls a second pass; as many at once after a rest
	Cell       []string `json:"cell,omitempty"`       // for cell_down: the servers in that cell, by id; all if there are none
	Matched    int      `json:"matched"`              // calls that matched, skipped ones included
	Struck     int      `json:"struck"`               // calls it broke

	path   *regexp.Regexp
	tokens float64   // for limit: how many calls may pass now
	filled time.Time // when tokens was counted
}

func (f *Fault) prepare() error {
	switch f.Effect {
	case EffectStatus:
		if f.Status == 0 {
			f.Status = http.StatusInternalServerError
		}
	case EffectConflict:
		f.Status = http.StatusConflict
	case EffectThrottle, EffectLimit:
		if f.Effect == EffectLimit && f.Rate <= 0 {
			return errors.New(`effect limit: give how many calls pass a second, for example "rate": 5`)
		}
		if f.Status == 0 {
			f.Status = http.StatusTooManyRequests
		}
		if f.RetryAfter == 0 {
			f.RetryAfter = Duration(time.Second)
		}
	case EffectDelay:
		if f.Delay <= 0 {
			return errors.New(`effect delay: give a positive delay, for example "delay": "2s"`)
		}
	case EffectCellDown:
		if f.Service != "" && f.Service != "compute" {
			return fmt.Errorf("effect cell_down: only the service compute has cells, not %q", f.Service)
		}
		f.Service = "compute"
	case EffectDropResponse, EffectHang:
	default:
		return fmt.Errorf("effect %q: use status, delay, drop_response, hang, conflict, throttle, limit or cell_down", f.Effect)
	}
	if f.Status != 0 && (f.Status < 200 || f.Status > 599) {
		return fmt.Errorf("status %d: must be between 200 and 599", f.Status)
	}
	if len(f.Cell) > 0 && f.Effect != EffectCellDown {
		return errors.New("cell goes with the effect cell_down only")
	}
	if f.Times < 0 || f.Skip < 0 {
		return errors.New("times and skip must not be negative")
	}
	f.Method = strings.ToUpper(f.Method)
	if f.Path == "" {
		return nil
	}
	expr := f.Path
	if !strings.HasPrefix(expr, "^") {
		expr = globExpr(expr)
	}
	re, err := regexp.Compile(expr)
	if err != nil {
		return fmt.Errorf("path %q: %w", f.Path, err)
	}
	f.path = re
	return nil
}

func globExpr(glob string) string {
	expr := regexp.QuoteMeta(strings.TrimPrefix(glob, "/"))
	expr = strings.ReplaceAll(expr, `\*\*`, `.*`)
	expr = strings.ReplaceAll(expr, `\*`, `[^/]*`)
	return "(^|/)" + expr + "/?$"
}

// maxMatchedBody bounds how much of a request body is looked at for Fault.Body.
const maxMatchedBody = 4 << 20

func (f *Fault) matches(service string, r *http.Request, body func() []byte) bool {
	if f.Times > 0 && f.Struck >= f.Times {
		return false
	}
	if f.Service != "" && f.Service != service || f.Method != "" && f.Method != r.Method {
		return false
	}
	if f.path != nil && !f.path.MatchString(r.URL.Path) {
		return false
	}
	return f.Body == "" || bytes.Contains(body(), []byte(f.Body))
}

// passes takes a call off what a limit allows; false if that is used up.
func (f *Fault) passes(now time.Time) bool {
	most := max(f.Rate, 1)
	if f.filled.IsZero() {
		f.tokens, f.filled = most, now
	}
	f.tokens = min(f.tokens+f.Rate*now.Sub(f.filled).Seconds(), most)
	f.filled = now
	if f.tokens < 1 {
		return false
	}
	f.tokens--
	return true
}

// strike finds the fault for a request and counts it; the copy it yields does not change any more.
func (c *Control) strike(service string, r *http.Request) *Fault {
	c.mu.Lock()
	needBody := false
	for _, f := range c.faults {
		needBody = needBody || f.Body != "" && (f.Service == "" || f.Service == service)
	}
	none := len(c.faults) == 0
	c.mu.Unlock()
	if none {
		return nil
	}
	var body []byte
	if needBody {
		body = peekBody(r)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.faults {
		if !f.matches(service, r, func() []byte { return body }) {
			continue
		}
		f.Matched++
		if f.Matched <= f.Skip || f.Effect == EffectLimit && f.passes(c.clock()) {
			continue
		}
		f.Struck++
		struck := *f
		return &struck
	}
	return nil
}

// peekBody reads the beginning of the body and puts it back.
func peekBody(r *http.Request) []byte {
	if r.Body == nil {
		return nil
	}
	head, err := io.ReadAll(io.LimitReader(r.Body, maxMatchedBody))
	rest := r.Body
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), errReader{err}, rest), rest}
	return head
}

// errReader hands a read error on to the service that reads the body next.
type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) {
	if e.err != nil {
		return 0, e.err
	}
	return 0, io.EOF
}

func (c *Control) addFault(f *Fault) error {
	if err := f.prepare(); err != nil {
		return err
	}
	f.Matched, f.Struck = 0, 0
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.ID == "" {
		c.faultSeq++
		f.ID = fmt.Sprintf("fault-%d", c.faultSeq)
	}
	for _, other := range c.faults {
		if other.ID == f.ID {
			return fmt.Errorf("fault %q exists already: delete it first or choose another id", f.ID)
		}
	}
	c.faults = append(c.faults, f)
	return nil
}
