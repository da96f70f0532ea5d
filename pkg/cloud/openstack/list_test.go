package openstack_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/weftcloud/weft/pkg/cloud/openstack"
	"github.com/weftcloud/weft/pkg/fault"
)

// paged is a service with two pages of volumes. So many times the last of the first page is gone when it is asked for the
// second, and it answers with status.
type paged struct {
	url    string
	gone   int
	status int
	asked  int
}

func (p *paged) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.asked++
	w.Header().Set("Content-Type", "application/json")
	body := `{"volumes": [{"id": "b"}]}`
	switch {
	case r.URL.Query().Get("marker") == "":
		body = fmt.Sprintf(`{"volumes": [{"id": "a"}], "volumes_links": [{"rel": "next", "href": "%s/volumes/detail?marker=a"}]}`, p.url)
	case p.gone > 0:
		p.gone--
		w.WriteHeader(p.status)
		body = `{"itemNotFound": {"code": 404, "message": "Volume a could not be found."}}`
	}
	if _, err := w.Write([]byte(body)); err != nil {
		return // the client is gone
	}
}

func TestListWhoseMarkerIsGone(t *testing.T) {
	for name, c := range map[string]struct {
		gone, status, asked int
		want                fault.Kind
	}{
		"nothing moves":       {asked: 2},
		"once, as cinder":     {gone: 1, status: http.StatusNotFound, asked: 4},
		"once, as nova":       {gone: 1, status: http.StatusBadRequest, asked: 4},
		"it never stays":      {gone: 1000, status: http.StatusNotFound, asked: 10, want: fault.Unavailable},
		"another thing fails": {gone: 1, status: http.StatusForbidden, asked: 2, want: fault.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			service := &paged{gone: c.gone, status: c.status}
			server := httptest.NewServer(service)
			t.Cleanup(server.Close)
			service.url = server.URL
			client := &gophercloud.ServiceClient{ProviderClient: &gophercloud.ProviderClient{}, Endpoint: server.URL + "/"}
			got, err := openstack.List[struct{ ID string }](t.Context(), client, "volumes/detail", "volumes", nil)
			if c.want != "" {
				if !fault.Is(err, c.want) {
					t.Errorf("error %v, want %v", err, c.want)
				}
			} else if ids := []string{"a", "b"}; err != nil || !slices.Equal(ids, []string{got[0].ID, got[len(got)-1].ID}) {
				t.Errorf("listed %v, %v, want %v", got, err, ids)
			}
			if service.asked != c.asked {
				t.Errorf("asked %d times, want %d", service.asked, c.asked)
			}
		})
	}
}
