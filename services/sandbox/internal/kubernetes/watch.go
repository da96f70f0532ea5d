package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// bookmarkEvery is how often a quiet watch that wants bookmarks gets one; a real server does so about once a minute.
const bookmarkEvery = time.Minute

// watcher serves one watch: it follows the store's history from a version on.
type watcher struct {
	server    *Server
	q         *request
	l         *listing
	rv        uint64
	bookmarks bool
	form      form
	headed    bool // the first table had its columns
	out       *http.ResponseController
}

func (s *Server) serveWatch(q *request) error {
	l, err := s.listingOf(q)
	if err != nil {
		return err
	}
	query := q.http.URL.Query()
	wt := &watcher{
		server: s, q: q, l: l, form: acceptedForm(q.http), out: http.NewResponseController(q.w),
		bookmarks: query.Get("allowWatchBookmarks") == "true" || query.Get("allowWatchBookmarks") == "1",
	}
	timeout, err := watchTimeout(query.Get("timeoutSeconds"))
	if err != nil {
		return err
	}
	initial, err := wt.start(query.Get("resourceVersion"), query.Get("sendInitialEvents"), query.Get("resourceVersionMatch"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(q.http.Context(), timeout)
	defer cancel()
	q.w.Header().Set("Content-Type", "application/json")
	if wt.form == formFull {
		q.w.Header().Set("Content-Type", "application/json;stream=watch")
	}
	q.w.WriteHeader(http.StatusOK)
	if err := wt.begin(initial, query.Get("sendInitialEvents") == "true" || query.Get("sendInitialEvents") == "1"); err != nil {
		return nil // the client is gone
	}
	wt.follow(ctx)
	return nil
}

func watchTimeout(text string) (time.Duration, error) {
	if text == "" {
		return 30*time.Minute + rand.N(30*time.Minute), nil
	}
	seconds, err := strconv.Atoi(text)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("timeoutSeconds %q is not a number", text))
	}
	if seconds <= 0 {
		return 30 * time.Minute, nil
	}
	return time.Duration(seconds) * time.Second, nil
}

// start decides from which version the watch goes on and which objects it tells of first.
func (wt *watcher) start(version, sendInitial, match string) ([]*entry, error) {
	wants := sendInitial == "true" || sendInitial == "1"
	if sendInitial != "" && match != "NotOlderThan" {
		return nil, invalidListOptions("resourceVersionMatch", "Forbidden", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
	}
	if sendInitial == "" && match != "" {
		return nil, invalidListOptions("resourceVersionMatch", "Forbidden", "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
	}
	if wants && !wt.bookmarks {
		return nil, invalidListOptions("allowWatchBookmarks", "Forbidden", "sendInitialEvents requires setting allowWatchBookmarks to true")
	}
	var rv uint64
	if version != "" {
		var err error
		if rv, err = strconv.ParseUint(version, 10, 64); err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("Invalid value: %q: %v", version, err))
		}
	}
	if rv == 0 && sendInitial == "" || wants {
		entries, now, err := wt.server.snapshot(wt.q, wt.l)
		wt.rv = now
		return entries, err
	}
	wt.rv = rv
	if rv == 0 {
		wt.server.store.mu.RLock()
		wt.rv = wt.server.store.rv
		wt.server.store.mu.RUnlock()
	}
	return nil, nil
}

func invalidListOptions(field, reason, detail string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid,
		Message: fmt.Sprintf("ListOptions.meta.k8s.io \"\" is invalid: %s: %s: %s", field, reason, detail),
		Details: &metav1.StatusDetails{Group: "meta.k8s.io", Kind: "ListOptions", Causes: []metav1.StatusCause{{Field: field, Message: reason + ": " + detail}}},
	}}
}

func (wt *watcher) begin(initial []*entry, mark bool) error {
	for _, e := range initial {
		if err := wt.send(watch.Added, e); err != nil {
			return err
		}
	}
	if mark {
		if err := wt.bookmark(true); err != nil {
			return err
		}
	}
	return wt.out.Flush()
}

func (wt *watcher) follow(ctx context.Context) {
	ticker := time.NewTicker(bookmarkEvery)
	defer ticker.Stop()
	for {
		st := wt.server.store
		st.mu.RLock()
		changes, ok := st.since(wt.rv)
		changed := st.changed
		st.mu.RUnlock()
		if !ok {
			wt.expire()
			return
		}
		if err := wt.tell(changes); err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-ticker.C:
			if !wt.bookmarks {
				continue
			}
			if err := wt.bookmark(false); err != nil {
				return
			}
			if err := wt.out.Flush(); err != nil {
				return
			}
		}
	}
}

// tell sends the changes that concern this watch. An object that begins or ceases to match the selectors is added or
// deleted for this client.
func (wt *watcher) tell(changes []change) error {
	sent := false
	for _, c := range changes {
		wt.rv = c.rv
		if c.entry.res.storageKey() != wt.q.res.storageKey() || wt.q.namespace != "" && c.entry.namespace != wt.q.namespace {
			continue
		}
		now := !c.removed && wt.l.matches(c.entry)
		before := c.previous != nil && wt.l.matches(c.previous)
		kind := watch.Modified
		if !now && !before {
			continue
		}
		if now && !before {
			kind = watch.Added
		}
		if !now {
			kind = watch.Deleted
		}
		if err := wt.send(kind, c.entry); err != nil {
			return err
		}
		sent = true
	}
	if !sent {
		return nil
	}
	return wt.out.Flush()
}

func (wt *watcher) send(kind watch.EventType, e *entry) error {
	shown, err := wt.server.as(e, wt.q.res)
	if err != nil {
		return err
	}
	raw := shown.raw
	switch wt.form {
	case formTable:
		table, err := wt.server.table(shown.res, []*entry{shown}, wt.q.http.URL.Query().Get("includeObject"), !wt.headed)
		if err != nil {
			return err
		}
		table.ResourceVersion = strconv.FormatUint(e.rv, 10)
		wt.headed = true
		if raw, err = json.Marshal(table); err != nil {
			return err
		}
	case formPartial:
		partial, err := partialOf(shown)
		if err != nil {
			return err
		}
		if raw, err = json.Marshal(partial); err != nil {
			return err
		}
	}
	return wt.frame(kind, raw)
}

func (wt *watcher) frame(kind watch.EventType, raw []byte) error {
	var line bytes.Buffer
	fmt.Fprintf(&line, `{"type":%q,"object":%s}`+"\n", kind, raw)
	_, err := wt.q.w.Write(line.Bytes())
	return err
}

// bookmark tells the version reached; the one that ends the initial events is marked as such.
func (wt *watcher) bookmark(initialEnd bool) error {
	meta := map[string]any{"resourceVersion": strconv.FormatUint(wt.rv, 10), "creationTimestamp": nil}
	if initialEnd {
		meta["annotations"] = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	}
	object := map[string]any{"kind": wt.q.res.gvk.Kind, "apiVersion": wt.q.res.gvk.GroupVersion().String(), "metadata": meta}
	switch wt.form {
	case formPartial:
		object["kind"], object["apiVersion"] = "PartialObjectMetadata", "meta.k8s.io/v1"
	case formTable:
		object = map[string]any{
			"kind": "Table", "apiVersion": "meta.k8s.io/v1", "columnDefinitions": nil, "rows": []any{},
			"metadata": map[string]any{"resourceVersion": meta["resourceVersion"]},
		}
	}
	raw, err := json.Marshal(object)
	if err != nil {
		return err
	}
	return wt.frame(watch.Bookmark, raw)
}

// expire ends a watch whose version is older than the history.
func (wt *watcher) expire() {
	wt.server.store.mu.RLock()
	oldest := wt.server.store.oldest
	wt.server.store.mu.RUnlock()
	status := apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", wt.rv, oldest)).Status()
	status.Kind, status.APIVersion = "Status", "v1"
	raw, err := json.Marshal(status)
	if err != nil {
		return
	}
	if err := wt.frame(watch.Error, raw); err != nil {
		return
	}
	if err := wt.out.Flush(); err != nil {
		return
	}
}
