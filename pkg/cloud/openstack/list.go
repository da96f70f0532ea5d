package openstack

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/weftcloud/weft/pkg/fault"
)

// idsPerCall bounds how many ids stand in the query of one list call: an id and its name take about 40 bytes, and
// servers refuse addresses longer than 8 KiB or so.
const idsPerCall = 100

// listTries is how often a list is begun whose pages move away while it is read.
const listTries = 5

// List reads a list with all its pages. path is the address below the service's base, e.g. servers/detail; field is the
// answer's field that holds the items. The links to the next page are followed as nova, cinder and neutron give them.
// A page that fails makes the whole list fail.
//
// A link names the last item of its page. If that is deleted before the link is followed, the service says that it does
// not exist: 404 (cinder, neutron) or 400 (nova). That tells nothing of what was looked for, so the list is begun again; if
// it never comes to its end the error is Unavailable.
func List[T any](ctx context.Context, c *gophercloud.ServiceClient, path, field string, query url.Values) ([]T, error) {
	var err error
	for range listTries {
		var out []T
		var moved bool
		if out, moved, err = pages[T](ctx, c, path, field, query); !moved {
			return out, err
		}
	}
	return nil, fault.New(fault.Unavailable, "what is listed changes faster than it can be read: %s", err)
}

// pages reads the pages of a list. moved says that the error came of a link that leads on from what is gone.
func pages[T any](ctx context.Context, c *gophercloud.ServiceClient, path, field string, query url.Values) (out []T, moved bool, err error) {
	next := c.ServiceURL(path)
	if len(query) > 0 {
		next += "?" + query.Encode()
	}
	for first := true; next != ""; first = false {
		page := map[string]json.RawMessage{}
		resp, err := c.Get(ctx, next, &page, nil)
		if err != nil {
			gone := gophercloud.ResponseCodeIs(err, http.StatusNotFound) || gophercloud.ResponseCodeIs(err, http.StatusBadRequest)
			return nil, !first && gone, Fault(err, "list %s", path)
		}
		if err := resp.Body.Close(); err != nil {
			return nil, false, Fault(err, "list %s", path)
		}
		var items []T
		if err := json.Unmarshal(page[field], &items); err != nil {
			return nil, false, Fault(err, "list %s: read the answer", path)
		}
		out = append(out, items...)
		if next, err = nextPage(page[field+"_links"], next); err != nil {
			return nil, false, Fault(err, "list %s: read the link to the next page", path)
		}
	}
	return out, false, nil
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
