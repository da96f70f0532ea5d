package heat

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	heat "github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/orchestration/v1/stacks"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
)

// side is one of the two that make the composite.
type side interface {
	// document gives the composite as this side reads it, and late the resource that waits for all others and cannot be made.
	document() string
	late(image string) string
	// make makes a composite and tells whether it stands when this side is done with it, and if not what this side says.
	make(b *testing.B, document string) (said string, ok bool)
	// take takes it away, and returns when this side is done.
	take(b *testing.B)
}

func read(b *testing.B, name string) string {
	b.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		b.Fatal(err)
	}
	return string(text)
}

// withHeat makes it with Heat, which calls the services in the counted region.
type withHeat struct {
	client   *gophercloud.ServiceClient
	text     string
	rollback bool
	id       string
}

func newHeat(b *testing.B, p *place) *withHeat {
	b.Helper()
	network, err := p.Network(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	client, err := heat.NewOrchestrationV1(network.ProviderClient, gophercloud.EndpointOpts{Region: p.Region})
	if err != nil {
		b.Skipf("the cloud of OS_CLOUD has no Heat: %v", err)
	}
	client.MoreHeaders = map[string]string{"X-Region-Name": counted}
	h := &withHeat{client: client, text: read(b, "composite.hot.yaml")}
	b.Cleanup(func() { // what a benchmark leaves that ended in the middle
		if h.id != "" && h.state(b).Status != gone {
			h.take(b)
		}
	})
	return h
}

func (h *withHeat) document() string { return h.text }

func (h *withHeat) late(image string) string {
	return fmt.Sprintf("  late:\n    type: OS::Nova::Server\n    depends_on: [address, disk1, disk2, member1, member2, monitor]\n"+
		"    properties: {image: %s, flavor: m1.tiny, networks: [{network: {get_resource: net}}], security_groups: [{get_resource: wall}]}\n", image)
}

func (h *withHeat) make(b *testing.B, document string) (said string, ok bool) {
	b.Helper()
	off := !h.rollback
	made, err := stacks.Create(b.Context(), h.client, stacks.CreateOpts{
		Name: stackName, DisableRollback: &off, TemplateOpts: &stacks.Template{TE: stacks.TE{Bin: []byte(document)}},
	}).Extract()
	if err != nil {
		b.Fatal(err)
	}
	h.id = made.ID
	s := h.await(b)
	return s.Status + ": " + s.StatusReason, s.Status == "CREATE_COMPLETE"
}

// await waits until Heat works on the stack no more.
func (h *withHeat) await(b *testing.B) *stacks.RetrievedStack {
	b.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(pollEvery) {
		s := h.state(b)
		working := strings.HasSuffix(s.Status, "_IN_PROGRESS") || h.rollback && s.Status == "CREATE_FAILED"
		if !working {
			return s
		}
	}
	b.Fatalf("Heat has not ended within %s", patience)
	return nil
}

// gone is Heat's word for a stack that was deleted.
const gone = "DELETE_COMPLETE"

// state reads the stack.
func (h *withHeat) state(b *testing.B) *stacks.RetrievedStack {
	b.Helper()
	s, err := stacks.Get(context.Background(), h.client, stackName, h.id).Extract()
	if gophercloud.ResponseCodeIs(err, http.StatusNotFound) {
		return &stacks.RetrievedStack{Status: gone}
	}
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func (h *withHeat) take(b *testing.B) {
	b.Helper()
	if err := stacks.Delete(context.Background(), h.client, stackName, h.id).ExtractErr(); err != nil {
		b.Fatal(err)
	}
	if s := h.await(b); s.Status != gone {
		b.Errorf("Heat's deletion ended as %s: %s", s.Status, s.StatusReason)
	}
}

// withWeft makes it with an installation of Weft, whose cloud is the counted region.
type withWeft struct {
	i    *story.Installation
	text string
}

func newWeft(b *testing.B, p *place) *withWeft {
	b.Helper()
	i := story.Start(b, "--no-sandbox")
	(<-i.GoIn(b, []string{"OS_CLIENT_CONFIG_FILE=" + p.clouds}, "cloud", "add", "lab", "--driver", "openstack", "--os-cloud", "lab")).Ok(b)
	w := &withWeft{i: i, text: read(b, "composite.yaml")}
	b.Cleanup(func() { // what a benchmark leaves that ended in the middle
		if i.Weft(b, "get", "stack", stackName).Code == 0 {
			w.take(b)
		}
	})
	return w
}

func (w *withWeft) document() string { return w.text }

func (w *withWeft) late(image string) string {
	return fmt.Sprintf("  late:\n    kind: Server\n    dependsOn: [address, disk1, disk2]\n"+
		"    spec: {image: %s, flavor: m1.tiny, network: net, securityGroups: [wall]}\n", image)
}

func (w *withWeft) make(b *testing.B, document string) (said string, ok bool) {
	b.Helper()
	op := w.await(b, w.i.Must(b, "apply", "-f", w.i.Document(b, "composite.yaml", document), "--no-wait", "-o", "json").Operation(b))
	return op.State() + ": " + op.Long.GetError().GetMessage(), op.Is("DONE")
}

// await waits until Weft works on the stack no more.
func (w *withWeft) await(b *testing.B, op *story.Operation) *story.Operation {
	b.Helper()
	for deadline := time.Now().Add(patience); !op.Long.GetDone(); op = w.i.Op(b, op.ID()) {
		if time.Now().After(deadline) {
			b.Fatalf("Weft has not ended within %s: %v", patience, op)
		}
		time.Sleep(pollEvery)
	}
	if os.Getenv(stepsVariable) != "" {
		b.Logf("%s", w.i.Weft(b, "ops", "get", op.ID()).Out)
	}
	return op
}

func (w *withWeft) take(b *testing.B) {
	b.Helper()
	if op := w.await(b, w.i.Must(b, "destroy", stackName, "--no-wait", "-o", "json").Operation(b)); !op.Is("DONE") {
		b.Errorf("Weft's deletion ended as %s", op.State())
	}
}
