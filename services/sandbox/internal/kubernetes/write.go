package kubernetes

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"sort"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

const maxBody = 3 << 20 // bytes, the limit of a real API server

// options are the query parameters of a write.
type options struct {
	dryRun     bool
	manager    string
	validation string // Strict, Warn or Ignore
	force      bool
}

func (s *Server) optionsOf(q *request) (options, error) {
	query := q.http.URL.Query()
	o := options{manager: query.Get("fieldManager"), validation: query.Get("fieldValidation"), force: query.Get("force") == "true"}
	for _, v := range query["dryRun"] {
		if v != "All" {
			return o, apierrors.NewInvalid(schema.GroupKind{Group: "meta.k8s.io", Kind: kindOfOptions(q.verb)}, "", field.ErrorList{
				field.NotSupported[string](field.NewPath("dryRun"), query["dryRun"], []string{"All"}),
			})
		}
		o.dryRun = true
	}
	switch o.validation {
	case "":
		o.validation = "Warn"
	case "Strict", "Warn", "Ignore":
	default:
		return o, apierrors.NewInvalid(schema.GroupKind{Group: "meta.k8s.io", Kind: kindOfOptions(q.verb)}, "", field.ErrorList{
			field.NotSupported(field.NewPath("fieldValidation"), o.validation, []string{"Ignore", "Strict", "Warn"}),
		})
	}
	if o.manager == "" {
		o.manager = managerFromAgent(q.http.UserAgent())
	}
	return o, nil
}

func kindOfOptions(verb string) string {
	return strings.ToUpper(verb[:1]) + verb[1:] + "Options"
}

// managerFromAgent names the field manager of a client that named none: the agent up to the first slash.
func managerFromAgent(agent string) string {
	name, _, _ := strings.Cut(agent, "/")
	if len(name) > 128 {
		name = name[:128]
	}
	if name == "" {
		return "unknown"
	}
	return name
}

func readBody(q *request) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(q.http.Body, maxBody+1))
	if err != nil {
		return nil, apierrors.NewBadRequest("read request body: " + err.Error())
	}
	if len(raw) > maxBody {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
	}
	return raw, nil
}

// mediaType yields the type of the request's body, JSON when nothing is said.
func mediaType(q *request) (string, error) {
	header := q.http.Header.Get("Content-Type")
	if header == "" {
		return "application/json", nil
	}
	media, _, err := mime.ParseMediaType(header)
	if err != nil {
		return "", apierrors.NewBadRequest("Content-Type: " + err.Error())
	}
	return media, nil
}

func unsupportedMedia(media string, accepted ...string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
		Message: fmt.Sprintf("the body of the request was in an unknown format - accepted media types include: %s", strings.Join(accepted, ", ")) + mediaSuffix(media),
	}}
}

func mediaSuffix(media string) string {
	if media == "" {
		return ""
	}
	return " (got " + media + ")"
}

// decodeBody reads an object of the wanted kind. Unknown and doubled fields are handled as o.validation says.
func (s *Server) decodeBody(q *request, raw []byte, want schema.GroupVersionKind, into runtime.Object, o options) (runtime.Object, error) {
	media, err := mediaType(q)
	if err != nil {
		return nil, err
	}
	switch media {
	case "application/vnd.kubernetes.protobuf":
		obj, gvk, err := protobuf.NewSerializer(s.scheme, s.scheme).Decode(raw, &want, into)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return obj, checkKind(*gvk, want)
	case "application/yaml":
		if raw, err = yaml.YAMLToJSON(raw); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	case "application/json":
	default:
		return nil, unsupportedMedia(media, "application/json", "application/yaml", "application/vnd.kubernetes.protobuf")
	}
	return s.decodeJSON(q, raw, want, into, o)
}

func (s *Server) decodeJSON(q *request, raw []byte, want schema.GroupVersionKind, into runtime.Object, o options) (runtime.Object, error) {
	if u, ok := into.(*unstructured.Unstructured); ok {
		return s.decodeCustom(q, raw, want, u, o)
	}
	strict := kjson.NewSerializerWithOptions(kjson.DefaultMetaFactory, s.scheme, s.scheme, kjson.SerializerOptions{Strict: true})
	obj, gvk, err := strict.Decode(raw, &want, into)
	if gvk != nil && gvk.Kind != "" {
		if mismatch := checkKind(*gvk, want); mismatch != nil {
			return nil, mismatch
		}
	}
	if gvk == nil && err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s)", want.Kind, err, excerpt(raw)))
	}
	return obj, s.judgeStrict(q, err, want, o)
}

// excerpt shows the beginning of a body that cannot be read, in hexadecimal when it does not look like JSON.
func excerpt(raw []byte) string {
	const limit = 30
	if len(raw) == 0 {
		return "<empty>"
	}
	text, width := string(raw), limit
	if raw[0] != '{' {
		text, width = fmt.Sprintf("%x", raw), 2*limit
	}
	if len(text) > width {
		return text[:width] + " ..."
	}
	return text
}

// judgeStrict turns a strict decoding error into a refusal, a warning or nothing.
func (s *Server) judgeStrict(q *request, err error, kind schema.GroupVersionKind, o options) error {
	if err == nil {
		return nil
	}
	strictErr, isStrict := runtime.AsStrictDecodingError(err)
	if !isStrict || o.validation == "Strict" {
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", kind.Kind, kind.Version, kind.Kind, err))
	}
	if o.validation == "Warn" {
		for _, each := range strictErr.Errors() {
			q.w.Header().Add("Warning", fmt.Sprintf("299 - %q", each.Error()))
		}
	}
	return nil
}

func checkKind(got, want schema.GroupVersionKind) error {
	if got.GroupVersion() != want.GroupVersion() {
		return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)",
			got.GroupVersion(), want.GroupVersion()))
	}
	if got.Kind != want.Kind {
		group, _, _ := strings.Cut(want.Group, ".")
		if group == "" {
			group = "core"
		}
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: converting (%s.%s) to (%s.%s): unknown conversion",
			got.Kind, got.Version, want.Kind, got.Version, got.Kind, group, want.Kind))
	}
	return nil
}

func (s *Server) serveCreate(q *request) error {
	if handled, err := s.serveReview(q); handled {
		return err
	}
	o, err := s.optionsOf(q)
	if err != nil {
		return err
	}
	raw, err := readBody(q)
	if err != nil {
		return err
	}
	obj, err := s.decodeBody(q, raw, q.res.gvk, s.newObject(q.res), o)
	if err != nil {
		return err
	}
	s.store.mu.Lock()
	e, err := s.create(q.res, q.namespace, obj, o)
	s.store.mu.Unlock()
	if err != nil {
		return err
	}
	return s.writeEntry(q, http.StatusCreated, e)
}

func newUID() types.UID { return types.UID(uuidString()) }

// create stores a new object. The caller holds the lock.
func (s *Server) create(r *resource, namespace string, obj runtime.Object, o options) (*entry, error) {
	acc, err := meta.Accessor(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if acc.GetNamespace() != "" && acc.GetNamespace() != namespace {
		return nil, apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	if acc.GetResourceVersion() != "" {
		return nil, errors.New("resourceVersion should not be set on objects to be created") // a 500 at a real server, too
	}
	obj.GetObjectKind().SetGroupVersionKind(r.gvk)
	if err := s.checkNamespace(r, namespace, acc); err != nil {
		return nil, err
	}
	s.fillMetadata(r, namespace, acc)
	if err := s.prepareCreate(r, obj); err != nil {
		return nil, err
	}
	if errs := s.validate(r, obj, nil); len(errs) > 0 {
		return nil, apierrors.NewInvalid(r.gvk.GroupKind(), acc.GetName(), errs)
	}
	if s.store.get(objectKey{r.storageKey(), namespace, acc.GetName()}) != nil {
		return nil, apierrors.NewAlreadyExists(r.groupResource(), acc.GetName())
	}
	if err := s.admit(r, obj); err != nil {
		return nil, err
	}
	if err := s.allocate(obj, nil, o.dryRun); err != nil {
		return nil, err
	}
	if o.manager != "" && acc.GetManagedFields() == nil {
		if obj, err = s.trackUpdate(r, "", s.newObject(r), obj, o.manager); err != nil {
			return nil, err
		}
	}
	if o.dryRun {
		return s.unstored(r, obj)
	}
	return s.store.put(r, obj)
}

// unstored makes the entry that a dry run answers with; nothing is kept.
func (s *Server) unstored(r *resource, obj runtime.Object) (*entry, error) {
	acc, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	had := acc.GetResourceVersion()
	if had == "" {
		acc.SetResourceVersion("0")
	}
	e, err := newEntry(r, obj)
	if err != nil {
		return nil, err
	}
	if had == "" {
		acc.SetResourceVersion("")
		e.raw, err = encodeObject(obj)
	}
	return e, err
}

func (s *Server) fillMetadata(r *resource, namespace string, acc metav1.Object) {
	if acc.GetName() == "" && acc.GetGenerateName() != "" {
		base := acc.GetGenerateName()
		if len(base) > 58 {
			base = base[:58]
		}
		acc.SetName(base + utilrand.String(5))
	}
	if r.namespaced {
		acc.SetNamespace(namespace)
	}
	acc.SetUID(newUID())
	acc.SetCreationTimestamp(metav1.NewTime(s.config.Now().UTC().Truncate(1e9)))
	acc.SetDeletionTimestamp(nil)
	acc.SetDeletionGracePeriodSeconds(nil)
	acc.SetSelfLink("")
	acc.SetGeneration(0)
	if r.generation {
		acc.SetGeneration(1)
	}
}

// checkNamespace demands that the namespace of a new object stands and is not going.
func (s *Server) checkNamespace(r *resource, namespace string, acc metav1.Object) error {
	if !r.namespaced {
		return nil
	}
	ns := s.store.get(objectKey{"namespaces", "", namespace})
	if ns == nil {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, namespace)
	}
	if !ns.deleting {
		return nil
	}
	name := acc.GetName()
	if name == "" {
		name = acc.GetGenerateName()
	}
	err := apierrors.NewForbidden(r.groupResource(), name, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", namespace))
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: "NamespaceTerminating", Message: fmt.Sprintf("namespace %s is being terminated", namespace), Field: "metadata.namespace",
	})
	return err
}

func (s *Server) serveUpdate(q *request) error {
	o, err := s.optionsOf(q)
	if err != nil {
		return err
	}
	raw, err := readBody(q)
	if err != nil {
		return err
	}
	if q.subresource == "scale" {
		return s.updateScale(q, raw, o)
	}
	obj, err := s.decodeBody(q, raw, q.res.gvk, s.newObject(q.res), o)
	if err != nil {
		return err
	}
	acc, err := meta.Accessor(obj)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if acc.GetName() != "" && acc.GetName() != q.name {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", acc.GetName(), q.name))
	}
	if acc.GetNamespace() != "" && acc.GetNamespace() != q.namespace {
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	acc.SetName(q.name)
	acc.SetNamespace(q.namespace)
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	old, err := s.find(q)
	if err != nil {
		if createsOnUpdate(q) && apierrors.IsNotFound(err) {
			return s.createByUpdate(q, obj, o)
		}
		return err
	}
	e, err := s.update(q.res, old, obj, q.subresource, o, func(live, next runtime.Object) (runtime.Object, error) {
		return s.trackUpdate(q.res, q.subresource, live, next, o.manager)
	})
	if err != nil {
		return err
	}
	return s.writeEntry(q, http.StatusOK, e)
}

// createsOnUpdate names the resources whose PUT makes what is not there, as a real server does.
func createsOnUpdate(q *request) bool {
	if q.subresource != "" {
		return false
	}
	switch q.res.storageKey() {
	case "leases.coordination.k8s.io", "endpoints", "events", "limitranges", "clusterroles.rbac.authorization.k8s.io",
		"roles.rbac.authorization.k8s.io", "rolebindings.rbac.authorization.k8s.io", "clusterrolebindings.rbac.authorization.k8s.io":
		return true
	}
	return false
}

func (s *Server) createByUpdate(q *request, obj runtime.Object, o options) error {
	e, err := s.create(q.res, q.namespace, obj, o)
	if err != nil {
		return err
	}
	return s.writeEntry(q, http.StatusCreated, e)
}

// tracker writes the managed fields of an update.
type tracker func(live, next runtime.Object) (runtime.Object, error)

// update replaces old by next and returns the entry that stands afterwards: old itself when nothing changed, the last
// state when the update took the last finalizer away. The caller holds the lock.
func (s *Server) update(r *resource, old *entry, next runtime.Object, subresource string, o options, track tracker) (*entry, error) {
	live, err := s.decode(old)
	if err != nil {
		return nil, err
	}
	liveAcc, nextAcc, err := accessors(live, next)
	if err != nil {
		return nil, err
	}
	if err := s.checkVersion(r, old, nextAcc); err != nil {
		return nil, err
	}
	keepMetadata(liveAcc, nextAcc)
	if err := s.prepareUpdate(r, next, live, subresource); err != nil {
		return nil, err
	}
	if errs := s.validate(r, next, live); len(errs) > 0 {
		return nil, apierrors.NewInvalid(r.gvk.GroupKind(), old.name, errs)
	}
	if err := s.allocate(next, live, o.dryRun); err != nil {
		return nil, err
	}
	if track != nil {
		if next, err = track(live, next); err != nil {
			return nil, err
		}
	}
	return s.commit(r, old, live, next, o)
}

func accessors(live, next runtime.Object) (metav1.Object, metav1.Object, error) {
	a, err := meta.Accessor(live)
	if err != nil {
		return nil, nil, err
	}
	b, err := meta.Accessor(next)
	return a, b, err
}

// commit stores an update unless it changes nothing, and finishes a deletion that waited for it.
func (s *Server) commit(r *resource, old *entry, live, next runtime.Object, o options) (*entry, error) {
	nextAcc, err := meta.Accessor(next)
	if err != nil {
		return nil, err
	}
	nextAcc.SetResourceVersion(strconv.FormatUint(old.rv, 10))
	same, err := sameExceptTimes(live, next)
	if err != nil {
		return nil, err
	}
	if same {
		return old, nil
	}
	if o.dryRun {
		return s.unstored(r, next)
	}
	if deletable(next) {
		return s.store.remove(old, next)
	}
	return s.store.put(r, next)
}

// sameExceptTimes compares two objects without the times of managed fields, which change on every apply.
func sameExceptTimes(live, next runtime.Object) (bool, error) {
	var raws [2][]byte
	for i, obj := range []runtime.Object{live, next} {
		clone := obj.DeepCopyObject()
		acc, err := meta.Accessor(clone)
		if err != nil {
			return false, err
		}
		fields := acc.GetManagedFields()
		for j := range fields {
			fields[j].Time = nil
		}
		sort.SliceStable(fields, func(a, b int) bool {
			return fields[a].Manager+fields[a].Subresource < fields[b].Manager+fields[b].Subresource
		})
		acc.SetManagedFields(fields)
		if raws[i], err = encodeObject(clone); err != nil {
			return false, err
		}
	}
	return bytes.Equal(raws[0], raws[1]), nil
}

func (s *Server) checkVersion(r *resource, old *entry, next metav1.Object) error {
	if next.GetUID() != "" && next.GetUID() != old.uid {
		return apierrors.NewConflict(r.groupResource(), old.name, fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", next.GetUID(), old.uid))
	}
	version := next.GetResourceVersion()
	if version == "" || version == "0" {
		if r.needsRV || r.custom != nil {
			return apierrors.NewInvalid(r.gvk.GroupKind(), old.name, field.ErrorList{
				field.Invalid(field.NewPath("metadata").Child("resourceVersion"), uint64(0), "must be specified for an update"),
			})
		}
		return nil
	}
	if version != strconv.FormatUint(old.rv, 10) {
		return conflict(r, old.name)
	}
	return nil
}

func conflict(r *resource, name string) error {
	return apierrors.NewConflict(r.groupResource(), name, errors.New(optimisticLock))
}

const optimisticLock = "the object has been modified; please apply your changes to the latest version and try again"

// keepMetadata carries over what a client cannot change.
func keepMetadata(live, next metav1.Object) {
	next.SetUID(live.GetUID())
	next.SetCreationTimestamp(live.GetCreationTimestamp())
	next.SetDeletionTimestamp(live.GetDeletionTimestamp())
	next.SetDeletionGracePeriodSeconds(live.GetDeletionGracePeriodSeconds())
	next.SetGeneration(live.GetGeneration())
	next.SetGenerateName(live.GetGenerateName())
	next.SetSelfLink("")
}
