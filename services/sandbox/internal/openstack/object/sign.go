package object

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

func sortBy[T any](items []T, key func(T) string) {
	slices.SortFunc(items, func(a, b T) int { return cmp.Compare(key(a), key(b)) })
}

func mac(new func() hash.Hash, key []byte, text string) []byte {
	h := hmac.New(new, key)
	h.Write([]byte(text)) // a hash takes everything
	return h.Sum(nil)
}

// signed tells whether a request bears a good temporary signature: an HMAC with the container's key over method, end and path.
func (s *Service) signed(r *rest.Request, c *Container) bool {
	key := c.Headers["X-Container-Meta-Temp-Url-Key"]
	sig, ends := r.Query.Get("temp_url_sig"), r.Query.Get("temp_url_expires")
	end, err := strconv.ParseInt(ends, 10, 64)
	if key == "" || sig == "" || err != nil || r.Now.Unix() > end {
		return false
	}
	path := strings.TrimPrefix(r.HTTP.URL.Path, s.Prefix)
	digest := map[int]func() hash.Hash{40: sha1.New, 64: sha256.New, 128: sha512.New}[len(sig)]
	if digest == nil {
		return false
	}
	for _, method := range []string{r.HTTP.Method, map[string]string{"HEAD": "GET"}[r.HTTP.Method]} {
		for _, p := range []string{path, r.HTTP.URL.Path} { // clients sign the path as they see it
			want := hex.EncodeToString(mac(digest, []byte(key), method+"\n"+ends+"\n"+p))
			if method != "" && hmac.Equal([]byte(want), []byte(sig)) {
				return true
			}
		}
	}
	return false
}

// s3 serves requests of the S3 protocol, signed with AWS Signature Version 4 in the Authorization header.
func (s *Service) s3(h rest.Handler) rest.Handler {
	return func(r *rest.Request) (*rest.Response, error) {
		fields := map[string]string{}
		auth, isV4 := strings.CutPrefix(r.HTTP.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
		for _, part := range strings.Split(auth, ",") {
			k, v, _ := strings.Cut(strings.TrimSpace(part), "=")
			fields[k] = v
		}
		scope := strings.Split(fields["Credential"], "/")
		if !isV4 || len(scope) != 5 {
			return nil, rest.Errorf(http.StatusForbidden, "AccessDenied", "Access Denied.")
		}
		secret, token := s.ec2(scope[0], r.Now)
		if token == nil {
			return nil, rest.Errorf(http.StatusForbidden, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
		}
		if !hmac.Equal([]byte(signature(r, secret, scope[1:], fields["SignedHeaders"])), []byte(fields["Signature"])) {
			return nil, rest.Errorf(http.StatusForbidden, "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided.")
		}
		r.Token = token
		r.Params["account"] = "AUTH_" + token.ProjectID
		if s.containers.Get(at(token.ProjectID, r.Params["container"])) == nil {
			return nil, rest.Errorf(http.StatusNotFound, "NoSuchBucket", "The specified bucket does not exist.")
		}
		resp, err := h(r)
		if err != nil && r.HTTP.Method == http.MethodGet {
			return nil, rest.Errorf(http.StatusNotFound, "NoSuchKey", "The specified key does not exist.")
		}
		if err == nil && resp.Status == http.StatusCreated {
			resp.Status = http.StatusOK // S3's word for it
		}
		return resp, err
	}
}

// signature computes Signature Version 4 of a request.
func signature(r *rest.Request, secret string, scope []string, signedHeaders string) string {
	var headers strings.Builder
	for _, name := range strings.Split(signedHeaders, ";") {
		value := strings.Join(strings.Fields(strings.Join(r.HTTP.Header.Values(name), ",")), " ")
		switch name {
		case "host":
			value = r.HTTP.Host
		case "content-length":
			value = strconv.FormatInt(r.HTTP.ContentLength, 10)
		}
		headers.WriteString(name + ":" + value + "\n")
	}
	var query []string
	for k, values := range r.Query {
		for _, v := range values {
			query = append(query, escape(k)+"="+escape(v))
		}
	}
	slices.Sort(query)
	payload := r.HTTP.Header.Get("X-Amz-Content-Sha256")
	canonical := strings.Join([]string{r.HTTP.Method, r.HTTP.URL.EscapedPath(), strings.Join(query, "&"), headers.String(), signedHeaders, payload}, "\n")
	if sum := sha256.Sum256(r.Body); payload != "UNSIGNED-PAYLOAD" && payload != hex.EncodeToString(sum[:]) {
		return "" // the body is not what was signed
	}
	sum := sha256.Sum256([]byte(canonical))
	text := strings.Join([]string{"AWS4-HMAC-SHA256", r.HTTP.Header.Get("X-Amz-Date"), strings.Join(scope, "/"), hex.EncodeToString(sum[:])}, "\n")
	key := []byte("AWS4" + secret)
	for _, part := range scope {
		key = mac(sha256.New, key, part)
	}
	return hex.EncodeToString(mac(sha256.New, key, text))
}

func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// s3List answers the objects of a bucket.
func (s *Service) s3List(r *rest.Request) (*rest.Response, error) {
	var b strings.Builder
	b.WriteString("<?xml version='1.0' encoding='UTF-8'?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>" + r.Params["container"] + "</Name><IsTruncated>false</IsTruncated>")
	all := s.objects.By(byContainer, at(project(r), r.Params["container"]))
	sortBy(all, func(o *Object) string { return o.Name })
	for _, o := range all {
		if o.Latest && !o.Deleted && strings.HasPrefix(o.Name, r.Query.Get("prefix")) {
			b.WriteString("<Contents><Key>" + o.Name + "</Key><ETag>&quot;" + o.ETag + "&quot;</ETag><Size>" + strconv.Itoa(len(o.Data)) + "</Size></Contents>")
		}
	}
	b.WriteString("</ListBucketResult>")
	return &rest.Response{Status: http.StatusOK, Raw: []byte(b.String()), ContentType: "application/xml"}, nil
}
