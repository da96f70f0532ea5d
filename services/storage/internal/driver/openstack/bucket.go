package openstack

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// Headers of containers, as the service answers them (net/http's canonical form).
const (
	headerKey     = "X-Container-Meta-Weft-Key"
	headerName    = "X-Container-Meta-Weft-Name"
	headerKept    = "X-Container-Meta-Weft-Kept"
	headerS3      = "X-Container-Meta-Weft-S3"
	headerTempURL = "X-Container-Meta-Temp-Url-Key"
	headerRead    = "X-Container-Read"
	headerWrite   = "X-Container-Write"
	headerBytes   = "X-Container-Meta-Quota-Bytes"
	headerCount   = "X-Container-Meta-Quota-Count"
	headerVersion = "X-Versions-Enabled"
)

// Buckets is the driver of Bucket: containers of the object store (Swift), which are buckets of the S3 protocol too.
//
// The name of a container is made of the resource's name and its key, which bears the mark: to make one twice has no
// effect, and none of somebody else's can be met. S3 credentials are credentials of the identity service whose access key is
// the resource's key, so that they too are found and made once. Neither their secret nor the key of temporary addresses is
// kept by Weft: both can be read from the cloud by who made them, see OpenSecret.
type Buckets struct{ s *cloud.Session }

// NewBuckets makes the driver.
func NewBuckets(s *cloud.Session) *Buckets { return &Buckets{s} }

var (
	notInBucket   = regexp.MustCompile(`[^a-z0-9]+`)
	bucketPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*-([0-9a-f]{32})$`)
)

// maxBucketName is how much of the resource's name stands in the container's: S3 allows 63 letters, the key takes 33.
const maxBucketName = 30

// bucketName gives the container's name: letters, digits and hyphens, as both protocols take them.
func bucketName(key, name string) string {
	words := strings.Trim(notInBucket.ReplaceAllString(strings.ToLower(cloud.LastPart(name)), "-"), "-")
	words = strings.Trim(words[:min(len(words), maxBucketName)], "-")
	if words == "" {
		words = "bucket"
	}
	return words + "-" + strings.ReplaceAll(key, "-", "")
}

// accessKey gives the access key of the S3 credentials of a container; empty for a container that is not ours. It is in capitals
// so that it is no part of the container's name: s3token, which leads S3 requests to the account, puts the account's name in
// the place of the access key wherever that stands in the path, in the bucket's name too.
func accessKey(container string) string {
	m := bucketPattern.FindStringSubmatch(container)
	if m == nil {
		return ""
	}
	return strings.ToUpper(m[1])
}

// send makes a request of the object store without a body that matters. Answers of the statuses in codes are success.
func (d *Buckets) send(ctx context.Context, method, path string, header map[string]string, codes ...int) (http.Header, error) {
	c, err := d.s.ObjectStorage(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := c.Request(ctx, method, c.ServiceURL(path), &gophercloud.RequestOpts{MoreHeaders: header, OkCodes: codes})
	if err != nil {
		return nil, cloud.Fault(err, "%s container %s", strings.ToLower(method), path)
	}
	return resp.Header, cloud.Fault(resp.Body.Close(), "%s container %s", strings.ToLower(method), path)
}

// head reads the headers of a container. The error is NotFound if there is none.
func (d *Buckets) head(ctx context.Context, container string) (http.Header, error) {
	return d.send(ctx, http.MethodHead, url.PathEscape(container), nil, 200, 204)
}

// Find implements driver.Driver.
func (d *Buckets) Find(ctx context.Context, r driver.Request[*storagev1.BucketSpec]) ([]string, error) {
	if r.Key == "" {
		return nil, fault.New(fault.Internal, "find bucket: no key is given")
	}
	name := bucketName(r.Key, r.Name)
	h, err := d.head(ctx, name)
	if fault.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil || h.Get(headerKey) != r.Key {
		return nil, err
	}
	return []string{name}, nil
}

// wanted gives the headers that a spec asks for; an empty value takes a header off.
func wanted(spec *storagev1.BucketSpec) (map[string]string, error) {
	out := map[string]string{
		headerRead: strings.Join(spec.GetReadAcl(), ","), headerWrite: strings.Join(spec.GetWriteAcl(), ","), headerBytes: "", headerCount: "",
		headerVersion: strconv.FormatBool(spec.GetVersioning()),
	}
	if text := spec.GetQuotaSize(); text != "" {
		size, err := sizeBytes(text)
		if err != nil {
			return nil, err
		}
		out[headerBytes] = strconv.FormatInt(size, 10)
	}
	if n := spec.GetQuotaObjects(); n > 0 {
		out[headerCount] = strconv.FormatInt(n, 10)
	}
	return out, nil
}

// sizeBytes reads a size with a unit. The error is Invalid.
func sizeBytes(text string) (int64, error) {
	for unit, shift := range map[string]int{"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40} {
		number, ok := strings.CutSuffix(text, unit)
		if n, err := strconv.ParseInt(number, 10, 64); ok && err == nil && n > 0 && n < 1<<(62-shift) {
			return n << shift, nil
		}
	}
	return 0, fault.InField("spec.quotaSize", "%q is no size; write it as 500Mi or 20Gi", text)
}

// Create implements driver.Driver. Only what is asked for is sent: a cloud without versions refuses to be told about them.
func (d *Buckets) Create(ctx context.Context, r driver.Request[*storagev1.BucketSpec]) (string, error) {
	all, err := wanted(r.Spec)
	if err != nil {
		return "", err
	}
	header := map[string]string{headerKey: r.Key, headerName: r.Name}
	for k, v := range all {
		if v != "" && v != "false" {
			header[k] = v
		}
	}
	name := bucketName(r.Key, r.Name)
	_, err = d.send(ctx, http.MethodPut, url.PathEscape(name), header, 201, 202)
	return name, err
}

// NeedsUpdate implements driver.TwoStep: keys and credentials are made after the container.
func (d *Buckets) NeedsUpdate() bool { return true }

// Update implements driver.Driver.
func (d *Buckets) Update(ctx context.Context, id string, r driver.Request[*storagev1.BucketSpec]) error {
	all, err := wanted(r.Spec)
	if err != nil {
		return err
	}
	seen, err := d.head(ctx, id)
	if err != nil {
		return err
	}
	change := map[string]string{}
	for k, v := range all {
		if have := seen.Get(k); have != v && (k != headerVersion || strings.EqualFold(have, "true") != (v == "true")) {
			change[k] = v
		}
	}
	if has := seen.Get(headerTempURL) != ""; has != r.Spec.GetTempUrl() {
		if change[headerTempURL], err = secretIf(r.Spec.GetTempUrl()); err != nil {
			return err
		}
	}
	if err := d.credentials(ctx, accessKey(id), r.Spec.GetS3()); err != nil {
		return err
	}
	if has := seen.Get(headerS3) != ""; has != r.Spec.GetS3() {
		change[headerS3] = map[bool]string{true: "yes"}[r.Spec.GetS3()]
	}
	if len(change) == 0 {
		return nil
	}
	_, err = d.send(ctx, http.MethodPost, url.PathEscape(id), change, 202, 204)
	return err
}

// secretIf makes a new secret, if one is wanted.
func secretIf(want bool) (string, error) {
	if !want {
		return "", nil
	}
	b := make([]byte, 30)
	if _, err := rand.Read(b); err != nil {
		return "", fault.As(fault.Internal, fault.Wrap(err, "make a secret"))
	}
	return base64.RawURLEncoding.EncodeToString(b), nil
}

// Observe implements driver.Driver. Each container is asked for itself: lists of containers lag behind, and tell of neither
// mark nor keys.
func (d *Buckets) Observe(ctx context.Context, ids []string) (map[string]driver.Observation[*storagev1.BucketObserved], error) {
	if len(ids) == 0 {
		return nil, ctx.Err()
	}
	c, err := d.s.ObjectStorage(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]driver.Observation[*storagev1.BucketObserved]{}
	for _, id := range ids {
		h, err := d.head(ctx, id)
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		o := &storagev1.BucketObserved{Bucket: id, Url: c.ServiceURL(url.PathEscape(id)), Objects: number(h, "X-Container-Object-Count"), Bytes: number(h, "X-Container-Bytes-Used")}
		if h.Get(headerTempURL) != "" {
			o.TempUrlKey = driver.SecretHere
		}
		if h.Get(headerS3) != "" {
			o.S3Endpoint, o.S3Region, o.S3AccessKey, o.S3SecretKey = s3Endpoint(c.Endpoint), d.region(), accessKey(id), driver.SecretHere
		}
		out[id] = driver.Observation[*storagev1.BucketObserved]{State: driver.Ready, Observed: o}
	}
	return out, nil
}

func number(h http.Header, name string) int64 {
	n, err := strconv.ParseInt(h.Get(name), 10, 64)
	if err != nil {
		return 0 // a service that does not count tells nothing
	}
	return n
}

// s3Endpoint gives the address of the S3 protocol: the same server serves both, S3 where the other one's path begins.
func s3Endpoint(endpoint string) string {
	root, _, _ := strings.Cut(endpoint, "/v1/")
	return root
}

// defaultS3Region is what the object store signs for unless it is told otherwise (s3api's option location).
const defaultS3Region = "us-east-1"

func (d *Buckets) region() string {
	if d.s.Region == "" {
		return defaultS3Region
	}
	return d.s.Region
}

// deletesPerCall is how many objects one call of Delete takes away.
const deletesPerCall = 1000

// Delete implements driver.Driver: objects and their versions first, since the service deletes only what is empty. Of many
// objects some are left; the deletion is then told as one that waits, and is called again.
func (d *Buckets) Delete(ctx context.Context, id string) error {
	h, err := d.head(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return d.credentials(ctx, accessKey(id), false)
	}
	if err != nil {
		return err
	}
	left, err := d.empty(ctx, id, strings.EqualFold(h.Get(headerVersion), "true"))
	if err != nil {
		return err
	}
	if left {
		return fault.New(fault.Conflict, "bucket %s still holds objects; they are being deleted", id)
	}
	if err := d.credentials(ctx, accessKey(id), false); err != nil {
		return err
	}
	_, err = d.send(ctx, http.MethodDelete, url.PathEscape(id), nil, 204)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// object is an object, or one version of it.
type object struct {
	Name      string `json:"name"`
	VersionID string `json:"version_id"`
}

// objects lists objects of a container, versions too if it has them.
func (d *Buckets) objects(ctx context.Context, id string, versions bool, limit int) ([]object, error) {
	c, err := d.s.ObjectStorage(ctx)
	if err != nil {
		return nil, err
	}
	query := url.Values{"format": {"json"}, "limit": {strconv.Itoa(limit)}}
	if versions {
		query.Set("versions", "true")
	}
	var out []object
	resp, err := c.Get(ctx, c.ServiceURL(url.PathEscape(id))+"?"+query.Encode(), &out, &gophercloud.RequestOpts{OkCodes: []int{200, 204}})
	if err != nil {
		return nil, cloud.Fault(err, "list the objects of %s", id)
	}
	return out, cloud.Fault(resp.Body.Close(), "list the objects of %s", id)
}

// empty takes objects away, and tells whether some may be left.
func (d *Buckets) empty(ctx context.Context, id string, versions bool) (left bool, err error) {
	all, err := d.objects(ctx, id, versions, deletesPerCall)
	if err != nil {
		return false, err
	}
	for _, o := range all {
		path := url.PathEscape(id) + "/" + escapeObject(o.Name)
		if o.VersionID != "" {
			path += "?version-id=" + url.QueryEscape(o.VersionID)
		}
		if _, err := d.send(ctx, http.MethodDelete, path, nil, 204); err != nil && !fault.Is(err, fault.NotFound) {
			return false, err
		}
	}
	return len(all) == deletesPerCall, nil
}

// escapeObject gives an object's name as a path.
func escapeObject(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/")
}

// ListMarked implements driver.Lister. Containers that are called as ours are asked whether they bear the mark.
func (d *Buckets) ListMarked(ctx context.Context) ([]driver.Marked, error) {
	c, err := d.s.ObjectStorage(ctx)
	if fault.Is(err, fault.Unsupported) {
		return nil, nil // a cloud without an object store has none
	}
	if err != nil {
		return nil, err
	}
	var out []driver.Marked
	for marker := ""; ; {
		var page []object
		query := url.Values{"format": {"json"}, "marker": {marker}}
		resp, err := c.Get(ctx, strings.TrimSuffix(c.Endpoint, "/")+"?"+query.Encode(), &page, &gophercloud.RequestOpts{OkCodes: []int{200, 204}})
		if err != nil {
			return nil, cloud.Fault(err, "list containers")
		}
		if err := resp.Body.Close(); err != nil {
			return nil, cloud.Fault(err, "list containers")
		}
		if len(page) == 0 {
			return out, nil
		}
		marker = page[len(page)-1].Name
		if out, err = d.marked(ctx, page, out); err != nil {
			return nil, err
		}
	}
}

func (d *Buckets) marked(ctx context.Context, page []object, out []driver.Marked) ([]driver.Marked, error) {
	for _, o := range page {
		if accessKey(o.Name) == "" {
			continue
		}
		h, err := d.head(ctx, o.Name)
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if key := h.Get(headerKey); key != "" {
			out = append(out, driver.Marked{ID: o.Name, Key: key, Name: h.Get(headerName)})
		} else if key := h.Get(headerKept); key != "" {
			out = append(out, driver.Marked{ID: o.Name, Key: key, Name: h.Get(headerName), Kept: true})
		}
	}
	return out, nil
}

// Keep implements driver.Keeper. The credentials go: what is kept is the data.
func (d *Buckets) Keep(ctx context.Context, id, key, name string) error {
	if err := d.credentials(ctx, accessKey(id), false); err != nil {
		return err
	}
	_, err := d.send(ctx, http.MethodPost, url.PathEscape(id), map[string]string{headerKept: key, headerName: name, headerKey: "", headerS3: "", headerTempURL: ""}, 202, 204)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// TakenUp implements driver.Keeper: a kept container is not taken up.
func (d *Buckets) TakenUp(context.Context, string) (bool, error) { return false, nil }

// OpenSecret implements driver.SecretSource.
func (d *Buckets) OpenSecret(ctx context.Context, id, field string) (string, error) {
	switch field {
	case "s3_secret_key":
		_, secret, err := d.credential(ctx, accessKey(id))
		if err == nil && secret == "" {
			err = fault.New(fault.NotFound, "bucket %s has no S3 credentials", id)
		}
		return secret, err
	case "temp_url_key":
		h, err := d.head(ctx, id)
		if err == nil && h.Get(headerTempURL) == "" {
			err = fault.New(fault.NotFound, "bucket %s has no key for temporary addresses", id)
		}
		return h.Get(headerTempURL), err
	}
	return "", fault.New(fault.NotFound, "a bucket has no secret output %s", field)
}

// Check implements driver.Checker: that the cloud can do what is asked for.
func (d *Buckets) Check(ctx context.Context, items []driver.Item[*storagev1.BucketSpec]) ([]driver.Finding, []driver.QuotaUse, error) {
	if !slices.ContainsFunc(items, func(i driver.Item[*storagev1.BucketSpec]) bool {
		return i.Spec != nil && i.Change != kindv1.Change_CHANGE_DELETE
	}) {
		return nil, nil, nil
	}
	info, err := swiftInfo(ctx, d.s)
	if fault.Is(err, fault.Unsupported) {
		return []driver.Finding{{Fault: fault.Wrap(err, "buckets need an object store")}}, nil, nil
	}
	if err != nil || info == nil {
		return nil, nil, err
	}
	var findings []driver.Finding
	for _, i := range items {
		if i.Spec == nil {
			continue
		}
		for _, need := range []struct {
			wanted         bool
			feature, field string
		}{
			{i.Spec.GetS3(), "s3api", "spec.s3"},
			{i.Spec.GetTempUrl(), "tempurl", "spec.tempUrl"},
			{i.Spec.GetVersioning(), "object_versioning", "spec.versioning"},
			{i.Spec.GetQuotaSize() != "" || i.Spec.GetQuotaObjects() > 0, "container_quotas", "spec.quotaSize"},
		} {
			if _, has := info[need.feature]; need.wanted && !has {
				findings = append(findings, driver.Finding{Name: i.Name, Field: need.field, Fault: fault.InField(need.field, "the object store of %s has no %s", d.s.Account, need.feature)})
			}
		}
	}
	return findings, nil, nil
}

// swiftInfo reads what the object store says that it can do; nil if it does not say.
func swiftInfo(ctx context.Context, s *cloud.Session) (map[string]any, error) {
	c, err := s.ObjectStorage(ctx)
	if err != nil {
		return nil, err
	}
	info := map[string]any{}
	resp, err := c.Get(ctx, s3Endpoint(c.Endpoint)+"/info", &info, nil)
	if err = cloud.Fault(err, "ask the object store what it can do"); fault.Is(err, fault.NotFound) || fault.Is(err, fault.Denied) || fault.Is(err, fault.Invalid) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return info, cloud.Fault(resp.Body.Close(), "ask the object store what it can do")
}
