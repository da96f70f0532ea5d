package openstack

import (
	"context"
	"net/url"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/weftcloud/weft/pkg/fault"
)

// Whose says in words whose an object is, as far as the cloud tells: the Weft resource that it belongs to, or its name
// and project. what says what else is known of it, e.g. by which port.
func (s *Session) Whose(resource, name, project string, what ...string) string {
	if resource != "" {
		return strings.Join(append([]string{"the Weft resource " + resource}, what...), ", ")
	}
	var parts []string
	if name != "" {
		parts = append(parts, name)
	}
	switch project {
	case "":
	case s.ProjectID:
		parts = append(parts, "not made by Weft, in this project")
	default:
		parts = append(parts, "in project "+project)
	}
	if len(parts) == 0 {
		parts = append(parts, "somebody unknown")
	}
	return strings.Join(append(parts, what...), ", ")
}

// Holder is a server that holds something, e.g. by a port or an attached volume.
type Holder struct {
	// ID, Name and ProjectID are the cloud's.
	ID, Name, ProjectID string
	// Key and Resource are those of the Weft resource that the server is; empty if it is none.
	Key, Resource string
}

// holder is a server as the compute service tells of it.
type holder struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	ProjectID string            `json:"tenant_id"`
	Metadata  map[string]string `json:"metadata"`
}

func (h holder) known() Holder {
	key, name, _ := ParseMetadata(h.Metadata)
	return Holder{ID: h.ID, Name: h.Name, ProjectID: h.ProjectID, Key: key, Resource: name}
}

// Holders reads servers by id: one by itself, several by one list, since the compute service cannot filter by several
// ids. Servers that do not exist, or that these credentials may not see, are absent.
func (s *Session) Holders(ctx context.Context, ids []string) (map[string]Holder, error) {
	out := map[string]Holder{}
	wanted := slices.Compact(slices.Sorted(slices.Values(ids)))
	if len(wanted) == 0 {
		return out, nil
	}
	c, err := s.Compute(ctx)
	if fault.Is(err, fault.Unsupported) {
		return out, nil // a cloud without a compute service has no servers
	}
	if err != nil {
		return nil, err
	}
	var found []holder
	if len(wanted) == 1 {
		var one holder
		if err = Fault(servers.Get(ctx, c, url.PathEscape(wanted[0])).ExtractInto(&one), "read server %s", wanted[0]); err == nil {
			found = []holder{one}
		}
	} else {
		found, err = List[holder](ctx, c, "servers/detail", "servers", url.Values{"limit": {"1000"}})
	}
	if err != nil && !hidden(err) {
		return nil, err
	}
	for _, h := range found {
		if slices.Contains(wanted, h.ID) {
			out[h.ID] = h.known()
		}
	}
	return out, nil
}

// hidden tells an answer by which a service says that there is nothing that these credentials may see. Ids of devices are
// whatever somebody wrote, so one that can be no server's may be answered as Invalid.
func hidden(err error) bool {
	return fault.Is(err, fault.NotFound) || fault.Is(err, fault.Denied) || fault.Is(err, fault.Invalid)
}
