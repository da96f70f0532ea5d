package openstack_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/weftcloud/weft/pkg/cloud/openstack"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
)

// project is a service that lists its servers from the last to the first, in pages, and gives each by itself.
type project struct {
	url    string
	ids    []string // the oldest first
	hidden []string // what lists leave out
	most   int      // the largest page that it gives
	broken string   // the call that fails
	asked  []string
}

type item struct {
	ID string `json:"id"`
}

func (p *project) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	call := "list " + r.URL.Query().Get("limit")
	one, single := strings.CutPrefix(r.URL.Path, "/servers/")
	if single = single && one != "detail"; single {
		call = "get " + one
	}
	p.asked = append(p.asked, call)
	w.Header().Set("Content-Type", "application/json")
	if call == p.broken {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	var answer any
	switch {
	case single && (slices.Contains(p.ids, one) || slices.Contains(p.hidden, one)):
		answer = map[string]any{"server": item{one}}
	case single:
		w.WriteHeader(http.StatusNotFound)
		return
	default:
		answer = p.page(r)
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		return // the client is gone
	}
}

func (p *project) page(r *http.Request) any {
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil {
		limit = p.most
	}
	limit = min(limit, p.most)
	newest := slices.Clone(p.ids)
	slices.Reverse(newest)
	newest = newest[slices.Index(newest, r.URL.Query().Get("marker"))+1:]
	answer := map[string]any{}
	if len(newest) >= limit {
		newest = newest[:limit]
		answer["servers_links"] = []map[string]string{{"rel": "next", "href": fmt.Sprintf("%s/servers/detail?limit=%d&marker=%s", p.url, limit, newest[limit-1])}}
	}
	items := []item{}
	for _, id := range newest {
		items = append(items, item{id})
	}
	answer["servers"] = items
	return answer
}

// TestByIDs: what is young is read with one page, however much there is; what is not on it, or on no list, is asked for, never
// taken for gone.
func TestByIDs(t *testing.T) {
	var ids []string
	for i := range 2500 {
		ids = append(ids, "s"+strconv.Itoa(i))
	}
	newest := func(n int) []string { return ids[len(ids)-n:] }
	for name, c := range map[string]struct {
		old    bool // they are asked for as of any age
		stand  []string
		most   int
		want   []string
		absent []string
		hidden []string
		broken string
		asked  []string
		fault  fault.Kind
	}{
		"none":                    {stand: ids},
		"one":                     {stand: ids, want: ids[:1], asked: []string{"get s0"}},
		"one that does not exist": {stand: ids, absent: []string{"x"}, asked: []string{"get x"}},
		"some young ones":         {stand: ids, want: newest(3), asked: []string{"list 36"}},
		"young ones and an old":   {stand: ids, want: append(newest(2), "s7"), asked: []string{"list 36", "get s7"}},
		"one of them is gone":     {stand: ids, want: newest(2), absent: []string{"x"}, asked: []string{"list 36", "get x"}},
		"all that there is":       {stand: ids[:20], want: ids[:10], absent: []string{"x", "y"}, asked: []string{"list 54", "get x", "get y"}},
		"a list that hides some":  {stand: ids[:20], want: append([]string{"a", "b", "c", "d"}, ids[:6]...), hidden: []string{"a", "b", "c", "d"}, absent: []string{"x"}, asked: []string{"list 52", "get a", "get b", "get c", "get d", "get x"}},
		"a long list that does":   {stand: ids, want: append([]string{"a", "b"}, ids[:20]...), hidden: []string{"a", "b"}, asked: []string{"list 74", "list 1000", "list 1000", "list 1000", "get a", "get b"}},
		"what was hidden fails":   {stand: ids[:20], want: append([]string{"a"}, ids[:6]...), hidden: []string{"a"}, broken: "get a", asked: []string{"list 44", "get a"}, fault: fault.Unavailable},
		"many old ones":           {stand: ids, want: ids[:20], absent: []string{"x"}, asked: []string{"list 72", "list 1000", "list 1000", "list 1000", "get x"}},
		"many":                    {stand: ids, want: ids[:300], asked: []string{"list 1000", "list 1000", "list 1000"}},
		"some of any age":         {old: true, stand: ids, want: newest(3), asked: []string{"list 36"}},
		"many of any age":         {old: true, stand: ids, want: ids[:20], absent: []string{"x"}, asked: []string{"get x", "list 1000", "list 1000", "list 1000"}},
		"all, of any age":         {old: true, stand: ids[:20], want: ids[:10], absent: []string{"x", "y"}, asked: []string{"get x", "get y", "list 1000"}},
		"one of any age":          {old: true, stand: ids, want: ids[:1], asked: []string{"get s0"}},
		"small pages":             {stand: ids[:9], most: 4, want: ids[7:9], asked: []string{"list 34"}},
		"older than a small page": {stand: ids[:9], most: 4, want: ids[:2], asked: []string{"list 34", "get s0", "get s1"}},
		"the page fails":          {stand: ids, want: newest(3), broken: "list 36", asked: []string{"list 36"}, fault: fault.Unavailable},
		"one cannot be asked for": {stand: ids, want: append(newest(2), "s7"), broken: "get s7", asked: []string{"list 36", "get s7"}, fault: fault.Unavailable},
		"the whole list fails":    {stand: ids, want: ids[:300], broken: "list 1000", asked: []string{"list 1000"}, fault: fault.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			service := &project{ids: c.stand, hidden: c.hidden, most: 1000, broken: c.broken}
			if c.most > 0 {
				service.most = c.most
			}
			server := httptest.NewServer(service)
			t.Cleanup(server.Close)
			service.url = server.URL
			client := &gophercloud.ServiceClient{ProviderClient: &gophercloud.ProviderClient{}, Endpoint: server.URL + "/"}
			ctx := t.Context()
			if c.old {
				ctx = driver.OfAnyAge(ctx)
			}
			got, err := openstack.ByIDs(ctx, client, openstack.Collection[item]{
				Path: "servers/detail", Field: "servers", ID: func(i item) string { return i.ID },
				One: func(ctx context.Context, id string) (item, error) {
					var answer struct{ Server item }
					resp, err := client.Get(ctx, client.ServiceURL("servers", id), &answer, nil)
					if err != nil {
						return item{}, openstack.Fault(err, "read server %s", id)
					}
					return answer.Server, resp.Body.Close()
				},
			}, append(slices.Clone(c.want), c.absent...))
			slices.Sort(service.asked)
			slices.Sort(c.asked)
			if !slices.Equal(service.asked, c.asked) {
				t.Errorf("asked %q, want %q", service.asked, c.asked)
			}
			if c.fault != "" {
				if !fault.Is(err, c.fault) || got != nil {
					t.Errorf("read %v, %v; want the fault %v alone", got, err, c.fault)
				}
				return
			}
			if err != nil || len(got) != len(c.want) {
				t.Fatalf("read %d, %v; want %d", len(got), err, len(c.want))
			}
			for _, id := range c.want {
				if got[id].ID != id {
					t.Errorf("%s is not among what was read", id)
				}
			}
		})
	}
}
