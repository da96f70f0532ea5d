package openstack

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"sync"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/imagedata"

	"github.com/weftcloud/weft/pkg/fault"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	"github.com/weftcloud/weft/services/compute/internal/outward"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// uploads are the sendings of this process, by image. Nothing of them is kept: whoever goes on after a crash finds the image
// in status queued, and sends anew.
type uploads struct {
	client *http.Client

	mu  sync.Mutex
	all map[string]*upload
}

// upload is one sending.
type upload struct {
	cancel context.CancelFunc

	mu         sync.Mutex
	sent, size int64 // size is -1 if the source does not tell it
	over       bool
	err        error
}

// sourceRedirections is how many redirections a source may have: mirrors use one or two.
const sourceRedirections = 5

func newUploads() *uploads {
	return &uploads{client: outward.Client(0, sourceRedirections), all: map[string]*upload{}}
}

// begin sends an image's data in the background, unless that is done already. It gives why the sending before has failed.
func (u *uploads) begin(ctx context.Context, c *gophercloud.ServiceClient, id string, spec *computev1.ImageSpec) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if former := u.all[id]; former != nil {
		over, err := former.state()
		if !over {
			return nil
		}
		delete(u.all, id)
		if err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	one := &upload{cancel: cancel, size: -1}
	u.all[id] = one
	go func() {
		defer cancel()
		err := u.send(ctx, c, id, spec, one)
		one.mu.Lock()
		defer one.mu.Unlock()
		one.over, one.err = true, err
	}()
	return nil
}

// stop ends the sending of an image, if there is one.
func (u *uploads) stop(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if one := u.all[id]; one != nil {
		one.cancel()
		delete(u.all, id)
	}
}

// progress tells how far a sending has come; false if none goes on.
func (u *uploads) progress(id string) (string, bool) {
	u.mu.Lock()
	one := u.all[id]
	u.mu.Unlock()
	if one == nil {
		return "", false
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.over {
		return "", false
	}
	const mib = 1 << 20
	if one.size <= 0 {
		return fmt.Sprintf("%d MiB so far", one.sent/(64*mib)*64), true // in steps, so that it is not news with each look
	}
	return fmt.Sprintf("%d %% of %d MiB", one.sent*10/one.size*10, max(one.size/mib, 1)), true
}

func (one *upload) state() (over bool, err error) {
	one.mu.Lock()
	defer one.mu.Unlock()
	return one.over, one.err
}

// send streams the source to the image service. What does not bear the format or the checksum that the spec says is broken
// off before its end, so that the service does not take it.
func (u *uploads) send(ctx context.Context, c *gophercloud.ServiceClient, id string, spec *computev1.ImageSpec, one *upload) (err error) {
	body, size, err := u.open(ctx, spec.GetSource().GetUrl())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	one.mu.Lock()
	one.size = size
	one.mu.Unlock()
	data := bufio.NewReaderSize(body, headSize)
	head, err := data.Peek(headSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return fault.New(fault.Unavailable, "read %s: %s", spec.GetSource().GetUrl(), err)
	}
	if err := checkFormat(spec.GetDiskFormat(), head); err != nil {
		return err
	}
	stream := &checked{from: data, hash: sha256.New(), want: spec.GetSource().GetSha256(), size: size, one: one}
	err = cloud.Fault(imagedata.Upload(ctx, c, id, stream).ExtractErr(), "send the data of image %s", id)
	if stream.wrong != nil {
		return stream.wrong
	}
	if fault.Is(err, fault.Conflict) {
		return nil // another replica sends
	}
	return err
}

// open begins to read a source. A source that says that there is nothing to read is Invalid.
func (u *uploads) open(ctx context.Context, address string) (io.ReadCloser, int64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, 0, fault.InField("spec.source.url", "%q is no address: %s", address, err)
	}
	response, err := u.client.Do(request)
	if err != nil {
		return nil, 0, fault.New(fault.Unavailable, "read the image's source: %s", err)
	}
	if response.StatusCode == http.StatusOK {
		return response.Body, response.ContentLength, nil
	}
	if err := response.Body.Close(); err != nil {
		return nil, 0, fault.New(fault.Unavailable, "read the image's source: %s", err)
	}
	if response.StatusCode >= 500 || response.StatusCode == http.StatusTooManyRequests || response.StatusCode == http.StatusRequestTimeout {
		return nil, 0, fault.New(fault.Unavailable, "read the image's source: %s answers %s", address, response.Status)
	}
	return nil, 0, fault.InField("spec.source.url", "%s answers %s; name an address at which the image is", address, response.Status)
}

// checked is a stream that counts, and fails at its end if it is not what it should be.
type checked struct {
	from  io.Reader
	hash  hash.Hash
	want  string
	size  int64
	sent  int64
	one   *upload
	wrong error
}

// Read implements io.Reader.
func (s *checked) Read(p []byte) (int, error) {
	n, err := s.from.Read(p)
	s.hash.Write(p[:n]) // a hash never fails to be written to (package hash)
	s.sent += int64(n)
	s.one.mu.Lock()
	s.one.sent = s.sent
	s.one.mu.Unlock()
	if err == nil {
		return n, nil
	}
	switch got := hex.EncodeToString(s.hash.Sum(nil)); {
	case !errors.Is(err, io.EOF):
		s.wrong = fault.New(fault.Unavailable, "read the image's source: %s", err)
	case s.size >= 0 && s.sent != s.size:
		s.wrong = fault.New(fault.Unavailable, "read the image's source: it ended after %d of %d bytes", s.sent, s.size)
	case s.want != "" && got != s.want:
		s.wrong = fault.InField("spec.source.sha256", "the data have the SHA-256 %s, not %s; correct the one or the other", got, s.want)
	}
	if s.wrong != nil {
		return 0, s.wrong
	}
	return n, err
}
