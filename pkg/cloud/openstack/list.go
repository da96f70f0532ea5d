package openstack

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/weftcloud/weft/pkg/driver"
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

// First reads the first page of a list as the service gives it to who asks for nothing in particular.
func First[T any](ctx context.Context, c *gophercloud.ServiceClient, path, field string) ([]T, error) {
	items, _, err := onePage[T](ctx, c, path, field, addressOf(c, path, nil))
	return items, Fault(err, "list %s", path)
}

// pages reads the pages of a list. moved says that the error came of a link that leads on from what is gone.
func pages[T any](ctx context.Context, c *gophercloud.ServiceClient, path, field string, query url.Values) (out []T, moved bool, err error) {
	next := addressOf(c, path, query)
	for first := true; next != ""; first = false {
		items, following, err := onePage[T](ctx, c, path, field, next)
		if err != nil {
			gone := gophercloud.ResponseCodeIs(err, http.StatusNotFound) || gophercloud.ResponseCodeIs(err, http.StatusBadRequest)
			return nil, !first && gone, Fault(err, "list %s", path)
		}
		out, next = append(out, items...), following
	}
	return out, false, nil
}

// addressOf gives the address of a list's first page.
func addressOf(c *gophercloud.ServiceClient, path string, query url.Values) string {
	if len(query) == 0 {
		return c.ServiceURL(path)
	}
	return c.ServiceURL(path) + "?" + query.Encode()
}

// onePage reads one page of a list, and gives the address of the next one, empty after the last. The error is the client
// library's.
func onePage[T any](ctx context.Context, c *gophercloud.ServiceClient, path, field, at string) (items []T, next string, err error) {
	page := map[string]json.RawMessage{}
	resp, err := c.Get(ctx, at, &page, nil)
	if err != nil {
		return nil, "", err
	}
	if err := resp.Body.Close(); err != nil {
		return nil, "", err
	}
	if err := json.Unmarshal(page[field], &items); err != nil {
		return nil, "", fmt.Errorf("read the answer: %w", err)
	}
	if next, err = nextPage(page[field+"_links"], at); err != nil {
		return nil, "", fmt.Errorf("read the link to the next page: %w", err)
	}
	return items, next, nil
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

// Collection is a list that cannot be asked for items by several ids, as nova's servers and cinder's volumes.
type Collection[T any] struct {
	// Path is the list's address below the service's base, Field the answer's field that holds the items.
	Path, Field string
	// ID gives the id of an item.
	ID func(T) string
	// One reads one item by itself. The error is NotFound if it does not exist.
	One func(ctx context.Context, id string) (T, error)
}

const (
	// fewIDs is how many items are asked for one by one rather than with the whole list.
	fewIDs = 3
	// manyWanted is from how many items on the whole list is read at once.
	manyWanted = 200
	// margin is how many items more than are wanted the first page has: others are as young.
	margin = 30
	// wholePage is the size of a page of the whole list: the most that nova and cinder give unless told otherwise
	// (max_limit, osapi_max_limit).
	wholePage = 1000
)

// ByIDs reads items of a list by id; what does not exist is absent. What is asked for so is most often young: it was made a
// moment ago, and is looked at until it is ready. Both services list the newest first if nothing else is asked for (API
// reference: nova "List Servers Detailed", sort_key, whose default is created_at, and sort_dir; cinder "List accessible volumes
// with details", sort), so one page holds it, however much the project has. What does not stand there is asked for by itself,
// or, if that is much, by the whole list. That the order is another, or that items are old, costs calls and is no mistake. More than a few that
// are asked for as of any age (package driver) are not looked for on such a page.
//
// No list is taken for the proof that an item is gone, not even a whole one: nova leaves the servers of a cell whose database does
// not answer out of a list with a page or a filter, without a word (API guide, "Handling Down Cells"; nova.conf,
// [api]list_records_by_skipping_down_cells, which is the default). Only that the item itself is not found says so. That is one call
// for each that is missing: few are, once each as it is deleted, and many only in such an outage.
func ByIDs[T any](ctx context.Context, c *gophercloud.ServiceClient, from Collection[T], ids []string) (map[string]T, error) {
	out := make(map[string]T, len(ids))
	missing := map[string]bool{}
	for _, id := range ids {
		missing[id] = true
	}
	note := func(items []T) {
		for _, item := range items {
			if id := from.ID(item); missing[id] {
				out[id] = item
				delete(missing, id)
			}
		}
	}
	whole := false // the page was the whole list
	if n := len(missing); n > 1 && n < manyWanted && (n <= fewIDs || !driver.IsOfAnyAge(ctx)) {
		at := addressOf(c, from.Path, url.Values{"limit": {strconv.Itoa(2*n + margin)}})
		items, next, err := onePage[T](ctx, c, from.Path, from.Field, at)
		if err != nil {
			return nil, Fault(err, "list %s", from.Path)
		}
		note(items)
		whole = next == ""
	}
	if len(missing) > fewIDs && !whole {
		all, err := List[T](ctx, c, from.Path, from.Field, url.Values{"limit": {strconv.Itoa(wholePage)}})
		if err != nil {
			return nil, err
		}
		note(all)
	}
	for id := range missing { // what a list does not hold is not yet gone
		item, err := from.One(ctx, id)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return nil, err
		}
		if err == nil {
			out[id] = item
		}
	}
	return out, nil
}
