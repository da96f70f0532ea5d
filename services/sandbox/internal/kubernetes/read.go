package kubernetes

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
)

func (s *Server) find(q *request) (*entry, error) {
	e := s.store.get(objectKey{q.res.storageKey(), q.namespace, q.name})
	if e == nil {
		return nil, apierrors.NewNotFound(q.res.groupResource(), q.name)
	}
	return s.as(e, q.res)
}

// as shows an entry as another served version of the same custom resource.
func (s *Server) as(e *entry, r *resource) (*entry, error) {
	if e.res.gvk == r.gvk {
		return e, nil
	}
	obj, err := s.decodeRaw(r, e.raw)
	if err != nil {
		return nil, err
	}
	return newEntry(r, obj)
}

func (s *Server) serveGet(q *request) error {
	s.store.mu.RLock()
	e, err := s.find(q)
	s.store.mu.RUnlock()
	if err != nil {
		return err
	}
	if q.subresource == "scale" {
		scale, err := s.scaleOf(e)
		if err != nil {
			return err
		}
		return s.writeObject(q, http.StatusOK, scale)
	}
	return s.writeEntry(q, http.StatusOK, e)
}

// listing is the query of a list or watch.
type listing struct {
	labels labels.Selector
	fields fields.Selector
	limit  int
	cont   *continuation
}

// continuation is what a continue token holds: the version of the first page and the last key it gave.
type continuation struct {
	RV    uint64 `json:"rv"`
	After string `json:"after"`
	At    int64  `json:"at"`
}

// tokenLife is how long a continue token is good for: a real server's etcd compacts after five minutes.
const tokenLife = 5 * time.Minute

func (s *Server) listingOf(q *request) (*listing, error) {
	query := q.http.URL.Query()
	l := &listing{}
	var err error
	if l.labels, err = labels.Parse(query.Get("labelSelector")); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if l.fields, err = fields.ParseSelector(query.Get("fieldSelector")); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	for _, requirement := range l.fields.Requirements() {
		if !selectable(q.res, requirement.Field) {
			if len(q.res.fields) > 0 {
				return nil, apierrors.NewBadRequest(fmt.Sprintf("field label not supported: %s", requirement.Field))
			}
			return nil, apierrors.NewBadRequest(fmt.Sprintf("%q is not a known field selector: only \"metadata.name\", \"metadata.namespace\"", requirement.Field))
		}
	}
	if q.name != "" {
		l.fields = fields.AndSelectors(l.fields, fields.OneTermEqualSelector("metadata.name", q.name))
	}
	if text := query.Get("limit"); text != "" {
		if l.limit, err = strconv.Atoi(text); err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("limit %q is not a number", text))
		}
	}
	if token := query.Get("continue"); token != "" {
		if l.cont, err = parseContinue(token); err != nil {
			return nil, err
		}
		if s.config.Now().Sub(time.Unix(l.cont.At, 0)) > tokenLife {
			return nil, apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result.")
		}
	}
	return l, nil
}

func parseContinue(token string) (*continuation, error) {
	raw, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return nil, apierrors.NewBadRequest("continue key is not valid: " + err.Error())
	}
	c := &continuation{}
	if err := json.Unmarshal(raw, c); err != nil {
		return nil, apierrors.NewBadRequest("continue key is not valid: " + err.Error())
	}
	return c, nil
}

func selectable(r *resource, field string) bool {
	if field == "metadata.name" || field == "metadata.namespace" && r.namespaced {
		return true
	}
	for _, f := range r.fields {
		if f == field {
			return true
		}
	}
	return false
}

func splitPath(path string) []string { return strings.Split(strings.TrimPrefix(path, "."), ".") }

func (l *listing) matches(e *entry) bool {
	if !l.labels.Empty() && !l.labels.Matches(labels.Set(e.labels)) {
		return false
	}
	if l.fields.Empty() {
		return true
	}
	set := fields.Set{"metadata.name": e.name, "metadata.namespace": e.namespace}
	for k, v := range e.fields {
		set[k] = v
	}
	return l.fields.Matches(set)
}

// snapshot yields the entries that a list asks for, and the version of the store.
func (s *Server) snapshot(q *request, l *listing) ([]*entry, uint64, error) {
	s.store.mu.RLock()
	all := s.store.list(q.res.storageKey(), q.namespace)
	rv := s.store.rv
	s.store.mu.RUnlock()
	matching := all[:0]
	for _, e := range all {
		if !l.matches(e) {
			continue
		}
		shown, err := s.as(e, q.res)
		if err != nil {
			return nil, 0, err
		}
		matching = append(matching, shown)
	}
	return matching, rv, nil
}

func (s *Server) serveList(q *request) error {
	l, err := s.listingOf(q)
	if err != nil {
		return err
	}
	if err := s.checkListVersion(q); err != nil {
		return err
	}
	entries, rv, err := s.snapshot(q, l)
	if err != nil {
		return err
	}
	page := metav1.ListMeta{ResourceVersion: strconv.FormatUint(rv, 10)}
	if l.cont != nil {
		page.ResourceVersion = strconv.FormatUint(l.cont.RV, 10)
		rv = l.cont.RV
		entries = entries[sort.Search(len(entries), func(i int) bool { return pageKey(entries[i]) > l.cont.After }):]
	}
	if l.limit > 0 && len(entries) > l.limit {
		left := int64(len(entries) - l.limit)
		entries = entries[:l.limit]
		token, err := json.Marshal(continuation{RV: rv, After: pageKey(entries[l.limit-1]), At: s.config.Now().Unix()})
		if err != nil {
			return err
		}
		page.Continue = base64.RawURLEncoding.EncodeToString(token)
		if l.labels.Empty() && l.fields.Empty() {
			page.RemainingItemCount = &left
		}
	}
	return s.writeList(q, entries, page)
}

// checkListVersion refuses a list that names a version the store has not reached.
func (s *Server) checkListVersion(q *request) error {
	text := q.http.URL.Query().Get("resourceVersion")
	if text == "" || text == "0" {
		return nil
	}
	rv, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("Invalid value: %q: %v", text, err))
	}
	s.store.mu.RLock()
	current, oldest := s.store.rv, s.store.oldest
	s.store.mu.RUnlock()
	if rv > current {
		late := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", rv, current), 1)
		late.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version"}}
		return late
	}
	if q.http.URL.Query().Get("resourceVersionMatch") == "Exact" && rv < oldest {
		return apierrors.NewResourceExpired(fmt.Sprintf("The provided resource version %d is too old to display a consistent list result", rv))
	}
	return nil
}

func pageKey(e *entry) string { return e.namespace + "\x00" + e.name }

func (s *Server) writeList(q *request, entries []*entry, page metav1.ListMeta) error {
	switch acceptedForm(q.http) {
	case formTable:
		table, err := s.table(q.res, entries, q.http.URL.Query().Get("includeObject"), true)
		if err != nil {
			return err
		}
		table.ListMeta = page
		writeJSON(q.w, http.StatusOK, table)
		return nil
	case formPartial:
		list := metav1.PartialObjectMetadataList{ListMeta: page, Items: []metav1.PartialObjectMetadata{}}
		list.TypeMeta = metav1.TypeMeta{Kind: "PartialObjectMetadataList", APIVersion: "meta.k8s.io/v1"}
		for _, e := range entries {
			item, err := partialOf(e)
			if err != nil {
				return err
			}
			list.Items = append(list.Items, *item)
		}
		writeJSON(q.w, http.StatusOK, list)
		return nil
	}
	meta, err := json.Marshal(page)
	if err != nil {
		return err
	}
	var body bytes.Buffer
	fmt.Fprintf(&body, `{"kind":%q,"apiVersion":%q,"metadata":%s,"items":[`, q.res.gvk.Kind+"List", q.res.gvk.GroupVersion().String(), meta)
	for i, e := range entries {
		if i > 0 {
			body.WriteByte(',')
		}
		body.Write(listItem(e))
	}
	body.WriteString("]}\n")
	writeRaw(q.w, http.StatusOK, "application/json", body.Bytes())
	return nil
}

// listItem is the object as it stands in a list: items of built-in types bear neither kind nor apiVersion there, so
// that clients which rely on them are found out.
func listItem(e *entry) []byte {
	if e.res.custom != nil {
		return e.raw
	}
	head := fmt.Sprintf(`{"kind":%q,"apiVersion":%q,`, e.res.gvk.Kind, e.res.gvk.GroupVersion().String())
	if rest, ok := bytes.CutPrefix(e.raw, []byte(head)); ok {
		return append([]byte("{"), rest...)
	}
	return e.raw
}
