// Package count counts the calls that come to the services of a cloud: a reverse proxy stands before each, on an address of
// its own. Whoever is sent to these addresses is counted in the same way, be it Weft or the cloud's own orchestration.
package count

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"sync"
	"time"
)

// Call is one call.
type Call struct {
	// Service is the address that the call was passed on to.
	Service string
	// Method is the HTTP method, Path the path with ID in place of what looks like an id, Query the raw query.
	Method, Path, Query string
	// Status is the HTTP status of the answer.
	Status int
	// Agent is the program that called.
	Agent string
}

// String shows what was called, without who called and what for.
func (c Call) String() string { return c.Method + " " + c.Path }

// ids matches the parts of paths that are ids: UUIDs with and without hyphens.
var ids = regexp.MustCompile(`[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}`)

// Counter counts at any number of proxies. It is safe for concurrent use.
type Counter struct {
	mu      sync.Mutex
	fronts  map[string]string // by upstream
	servers []*http.Server
	calls   []Call
}

// New makes a counter without a proxy.
func New() *Counter { return &Counter{fronts: map[string]string{}} }

// Before gives the address of the proxy before an upstream, e.g. http://127.0.0.1:9696. There is one for each upstream.
func (c *Counter) Before(upstream string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if front, ok := c.fronts[upstream]; ok {
		return front, nil
	}
	to, err := url.Parse(upstream)
	if err != nil {
		return "", fmt.Errorf("proxy before %s: %w", upstream, err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("proxy before %s: %w", upstream, err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host // links in answers lead here again
		},
		ModifyResponse: func(answer *http.Response) error {
			c.note(upstream, answer)
			return nil
		},
		// a service may end a connection that is not in use at any time
		Transport: &http.Transport{DisableKeepAlives: true},
	}}
	go func() {
		if err := server.Serve(listener); err != nil && err != http.ErrServerClosed {
			panic(fmt.Sprintf("proxy before %s: %s", upstream, err))
		}
	}()
	c.servers = append(c.servers, server)
	c.fronts[upstream] = "http://" + listener.Addr().String()
	return c.fronts[upstream], nil
}

func (c *Counter) note(upstream string, answer *http.Response) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := answer.Request
	c.calls = append(c.calls, Call{
		Service: upstream, Method: r.Method, Path: ids.ReplaceAllString(r.URL.Path, "ID"), Query: r.URL.RawQuery,
		Status: answer.StatusCode, Agent: r.UserAgent(),
	})
}

// Last is how many calls there were.
func (c *Counter) Last() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls)
}

// Since gives the calls after a number of them.
func (c *Counter) Since(n int) []Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.calls[n:])
}

// Close ends all proxies.
func (c *Counter) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.servers {
		if err := s.Close(); err != nil {
			return fmt.Errorf("close a proxy: %w", err)
		}
	}
	return nil
}
