package reconcile

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/resource"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
)

const (
	bucket    = "tenants/acme/buckets/shop.files"
	bucketKey = "01936b5e-0000-7000-8000-00000000000b"
)

// safe is a source of secrets: by resource, key and field.
type safe struct {
	values map[string]string
	err    error
}

func (s safe) Secret(_ context.Context, name, key, field string) (string, error) {
	if s.err != nil {
		return "", s.err
	}
	v, ok := s.values[name+" "+key+" "+field]
	if !ok {
		return "", fault.New(fault.NotFound, "%s has no %s", name, field)
	}
	return v, nil
}

// TestSecretsAreOpened puts a secret into a server's user data: only in what is handed to the provider, and only if it is the
// tenant's own.
func TestSecretsAreOpened(t *testing.T) {
	handle := func(name, field string) string { return resource.SecretHandle(name, bucketKey, field).String() }
	full := safe{values: map[string]string{bucket + " " + bucketKey + " s3_secret_key": "s3cret"}}
	for what, c := range map[string]struct {
		userData string
		secrets  Secrets
		want     string
		failure  fault.Kind
	}{
		"none":                      {userData: "plain", secrets: full, want: "plain"},
		"one, twice":                {userData: handle(bucket, "s3_secret_key") + "/" + handle(bucket, "s3_secret_key"), secrets: full, want: "s3cret/s3cret"},
		"another tenant's":          {userData: handle("tenants/bert/buckets/shop.files", "s3_secret_key"), secrets: full, failure: fault.Denied},
		"one that does not exist":   {userData: handle(bucket, "other"), secrets: full, failure: fault.Precondition},
		"one that cannot be had":    {userData: handle(bucket, "s3_secret_key"), secrets: safe{err: fault.New(fault.Unavailable, "away")}, failure: fault.Unavailable},
		"no one who could be asked": {userData: handle(bucket, "s3_secret_key"), failure: fault.Unsupported},
	} {
		t.Run(what, func(t *testing.T) {
			spec := &computev1.ServerSpec{UserData: c.userData}
			e := &record.Entry{
				ID:     record.ID{Name: "tenants/acme/servers/shop.web"},
				Object: resource.Wrap(&computev1.Server{Metadata: &kindv1.Metadata{}, Spec: spec}),
				Record: &participantv1.Record{},
			}
			r, values, err := (&Loop{Config: Config{Secrets: c.secrets}}).opened(t.Context(), e, nil)
			if fault.KindOf(err) != c.failure {
				t.Fatalf("%v, want %q", err, c.failure)
			}
			if spec.GetUserData() != c.userData {
				t.Errorf("what is kept was changed to %q", spec.GetUserData())
			}
			if err != nil {
				return
			}
			if got := r.Spec.(*computev1.ServerSpec).GetUserData(); got != c.want {
				t.Errorf("the provider is handed %q, want %q", got, c.want)
			}
			if told := discreet(fault.New(fault.Invalid, "user data %q is bad", r.Spec.(*computev1.ServerSpec).GetUserData()), values); len(values) > 0 && strings.Contains(told.Error(), "s3cret") {
				t.Errorf("what the provider says of it is told as %q", told)
			}
		})
	}
}

// TestHandlesStandForSecrets has a driver observe that a bucket has a secret: the record gets the text that stands for it, and
// nothing for an output that is no secret.
func TestHandlesStandForSecrets(t *testing.T) {
	observed := &storagev1.BucketObserved{S3SecretKey: "secret", S3AccessKey: "AKIA"}
	handles(record.ID{Name: bucket, Key: bucketKey}, observed)
	if want := resource.SecretHandle(bucket, bucketKey, "s3_secret_key").String(); observed.GetS3SecretKey() != want || observed.GetS3AccessKey() != "AKIA" {
		t.Errorf("it is kept as %v", observed)
	}
	handles(record.ID{}, nil)
}

// TestSecretsAreAsTheyWere has a round see what has a secret: that is as it was while there is one, without a look at its
// record, and not when the secret, or anything else, is another.
func TestSecretsAreAsTheyWere(t *testing.T) {
	id := record.ID{Name: bucket, Key: bucketKey}
	kept := &storagev1.BucketObserved{S3SecretKey: driver.SecretHere, S3AccessKey: "AKIA"}
	handles(id, kept)
	r := recorded{id: id, sum: sumOf(kept, nil)}
	for what, c := range map[string]struct {
		observed *storagev1.BucketObserved
		want     bool
	}{
		"as it was":      {observed: &storagev1.BucketObserved{S3SecretKey: driver.SecretHere, S3AccessKey: "AKIA"}, want: true},
		"without secret": {observed: &storagev1.BucketObserved{S3AccessKey: "AKIA"}},
		"another key":    {observed: &storagev1.BucketObserved{S3SecretKey: driver.SecretHere, S3AccessKey: "AKIB"}},
	} {
		if got := r.asItWas(driver.Observation[proto.Message]{State: driver.Ready, Observed: c.observed}); got != c.want {
			t.Errorf("%s: %v, want %v", what, got, c.want)
		}
	}
}
