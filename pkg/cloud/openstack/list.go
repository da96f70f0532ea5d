package openstack

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"

	"github.com/gophercloud/gophercloud/v2"
)

// idsPerCall bounds how many ids stand in the query of one list call: an id and its name take about 40 bytes, and
// servers refuse addresses longer than 8 KiB or so.
const idsPerCall = 100

// List reads a list with all its pages. path is the address below the service's base, e.g. servers/detail; field is the
// answer's field that holds the items. The links to the next page are followed as nova, cinder and neutron give them.
// A page that fails makes the whole list fail.
func List[T any](ctx context.Context, c *gophercloud.ServiceClient, path, field string, query url.Values) ([]T, error) {
	next := c.ServiceURL(path)
	if len(query) > 0 {
		next += "?" + query.Encode()
	}
	var out []T
	for next != "" {
		page := map[string]json.RawMessage{}
		resp, err := c.Get(ctx, next, &page, nil)
		if err != nil {
			return nil, Fault(err, "list %s", path)
		}
		if err := resp.Body.Close(); err != nil {
			return nil, Fault(err, "list %s", path)
		}
		var items []T
		if err := json.Unmarshal(page[field], &items); err != nil {
			return nil, Fault(err, "list %s: read the answer", path)
		}
		out = append(out, items...)
		if next, err = nextPage(page[field+"_links"], next); err != nil {
			return nil, Fault(err, "list %s: read the link to the next page", path)
		}
	}
	return out, nil
}

// nextPage gives the address of the next page; empty after the last.
func nextPage(links json.RawMessage, current string) (string, error) {
	if links == nil {
		return "", nil
	}
	var parsed []struct{ Rel, Href string }
	if err := json.Unmarshal(links, &parsed); err != nil {
		return "", err
	}
	for _, l := range parsed {
		if l.Rel == "next" && l.Href != current {
			return l.Href, nil
		}
	}
	return "", nil
}

// ListByValues reads the items of a list for which field has one of the values, in as few calls as fit into addresses.
// Further filters may stand in query.
func ListByValues[T any](ctx context.Context, c *gophercloud.ServiceClient, path, field, by string, values []string, query url.Values) ([]T, error) {
	var out []T
	for chunk := range slices.Chunk(values, idsPerCall) {
		q := url.Values{}
		for k, v := range query {
			q[k] = v
		}
		q[by] = chunk
		items, err := List[T](ctx, c, path, field, q)
		if err != nil {
			return nil, err
		}
		out = append(out, items...)
	}
	return out, nil
}
