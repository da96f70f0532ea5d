package real

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/gophercloud/gophercloud/v2"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
)

// disks is the document of the story: the volume's size, the server that it is attached to, and what else there is.
const disks = `kind: Stack
name: disks
placement: {cloud: lab}
resources:
  net: {kind: PrivateNetwork, spec: {cidr: 10.97.0.0/24, external: public}}
  wall: {kind: SecurityGroup, spec: {rules: [{protocol: TCP, ports: "80"}]}}
  data: {kind: Volume, spec: {size: %[1]s, type: standard}}
  disk: {kind: VolumeAttachment, spec: {server: %[2]s, volume: data}}
  files: {kind: Bucket, spec: {s3: true, versioning: true}}
%[4]s  door1: {kind: Publication, spec: {target: one, port: 80, via: FLOATING_IP}}
  door2: {kind: Publication, spec: {target: two, port: 80, via: FLOATING_IP}}
%[3]soutputs: {one: "${door1.address}", two: "${door2.address}"}
`

// guest is a server of the story: it tells the checksum of the first 4 MiB of each of its volumes and their sizes in MiB, can
// write to the first, and tells the secret that it was given.
const guest = `  %s:
    kind: Server
    spec:
      image: tiny
      flavor: m1.tiny
      network: net
      securityGroups: [wall]
      userData: |
        #!/bin/sh
        cd /var/www/cgi-bin
        cat > sum <<'Y'
        #!/bin/sh
        printf 'Content-Type: text/plain\r\n\r\n'
        for b in vdb vdc; do
          [ -b /dev/$b ] && echo "$b $(dd if=/dev/$b bs=1M count=4 2>/dev/null | sha256sum | cut -c1-64) $(( $(cat /sys/block/$b/size) / 2048 ))"
        done
        Y
        cat > write <<'Y'
        #!/bin/sh
        printf 'Content-Type: text/plain\r\n\r\n'
        dd if=/dev/urandom of=/dev/vdb bs=1M count=4 conv=fsync 2>&1
        sync
        Y
        chmod +x sum write
        echo '${files.s3_secret_key}' > /var/www/secret
`

// restored is what the last step adds: a snapshot of the volume while it is attached, and a volume of it at the other server.
const restored = `  moment: {kind: VolumeSnapshot, spec: {volume: data, force: true}}
  again: {kind: Volume, spec: {size: 2Gi, snapshot: moment}}
  disk2: {kind: VolumeAttachment, spec: {server: one, volume: again}}
`

// TestDisks writes to a volume at one server, has it grow while it is attached, moves it to another server and restores a
// snapshot of it: what was written is the same everywhere. A bucket's secret output comes to a server's user data as its
// value, and what is written with it by S3 reads back by the object store's own protocol.
func TestDisks(t *testing.T) {
	p := open(t)
	before := p.list(t)
	i := story.Start(t, "--no-sandbox")
	i.Must(t, "cloud", "add", "lab", "--driver", "openstack", "--os-cloud", os.Getenv("OS_CLOUD"))
	path := filepath.Join(t.TempDir(), "disks.yaml")
	apply := func(size, server, more string) {
		t.Helper()
		if err := os.WriteFile(path, fmt.Appendf(nil, disks, size, server, more, fmt.Sprintf(guest, "one")+fmt.Sprintf(guest, "two")), 0o600); err != nil {
			t.Fatal(err)
		}
		i.Must(t, "apply", "-f", path, "--wait", "-o", "json")
	}
	destroyed := false
	t.Cleanup(func() {
		if !destroyed {
			i.Must(t, "destroy", "disks", "--reclaim", "destroy", "--wait", "-o", "json")
		}
	})
	apply("1Gi", "one", "")
	outputs := i.Stack(t, "disks").GetOutputs().GetFields()
	one, two := "http://"+outputs["one"].GetStringValue(), "http://"+outputs["two"].GetStringValue()
	for _, server := range []string{one, two} {
		awaitPage(t, server+"/state", func(text string) bool { return text == "ready" })
	}
	awaitPage(t, one+"/cgi-bin/sum", func(text string) bool { return strings.HasPrefix(text, "vdb ") })
	if _, err := fetch(one + "/cgi-bin/write"); err != nil {
		t.Fatal(err)
	}
	written, err := fetch(one + "/cgi-bin/sum")
	if err != nil || !strings.HasSuffix(written, " 1024") {
		t.Fatalf("written: %q, %v", written, err)
	}
	sum := strings.Fields(written)[1]
	apply("2Gi", "one", "")
	awaitPage(t, one+"/cgi-bin/sum", func(text string) bool { return text == "vdb "+sum+" 2048" })
	apply("2Gi", "two", "")
	awaitPage(t, two+"/cgi-bin/sum", func(text string) bool { return text == "vdb "+sum+" 2048" })
	apply("2Gi", "two", restored)
	awaitPage(t, one+"/cgi-bin/sum", func(text string) bool { return strings.HasSuffix(text, " "+sum+" 2048") })

	t.Run("bucket", func(t *testing.T) { p.bucket(t, i, one) })
	destroyed = true
	i.Must(t, "destroy", "disks", "--reclaim", "destroy", "--wait", "-o", "json")
	await(t, "nothing is left", func() error {
		if after := p.list(t); !slices.Equal(before, after) {
			return fmt.Errorf("something is left:\nbefore %q\nafter  %q", before, after)
		}
		return nil
	})
}

// awaitPage waits until a page of a guest says what it should.
func awaitPage(t *testing.T, url string, good func(string) bool) {
	t.Helper()
	await(t, url, func() error {
		text, err := fetch(url)
		if err == nil && !good(text) {
			err = fmt.Errorf("it says %q", text)
		}
		return err
	})
}

// bucket writes an object with the secret that a server was given, and reads it back.
func (p *place) bucket(t *testing.T, i *story.Installation, server string) {
	secret, err := fetch(server + "/secret")
	if err != nil || len(secret) < 32 || strings.Contains(secret, "weft-secret") {
		t.Fatalf("the server has a secret of %d letters, %v", len(secret), err)
	}
	result := i.Must(t, "get", "bucket", "disks.files", "-o", "json")
	bucket := &storagev1.Bucket{}
	result.Decode(t, bucket)
	o := bucket.GetObserved()
	if strings.Contains(bucket.String(), secret) || o.GetS3SecretKey() == "" {
		t.Errorf("the API tells the secret, or that there is none: %v", o)
	}
	const content = "written by S3"
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, o.GetS3Endpoint()+"/"+o.GetBucket()+"/note", strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256([]byte(content))
	payload := hex.EncodeToString(hash[:])
	r.Header.Set("X-Amz-Content-Sha256", payload)
	if err := v4.NewSigner().SignHTTP(t.Context(), aws.Credentials{AccessKeyID: o.GetS3AccessKey(), SecretAccessKey: secret}, r, payload, "s3", o.GetS3Region(), time.Now()); err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := answer.Body.Close(); err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("put by S3: %s, %v", answer.Status, err)
	}
	c, err := p.cloud.ObjectStorage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	back, err := c.Request(context.Background(), http.MethodGet, o.GetUrl()+"/note", &gophercloud.RequestOpts{OkCodes: []int{200}, KeepResponseBody: true})
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(back.Body)
	if closed := back.Body.Close(); err != nil || closed != nil || string(text) != content {
		t.Errorf("read back %q, %v, %v", text, err, closed)
	}
}
