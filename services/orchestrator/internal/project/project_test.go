package project

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/participant"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/record/recordtest"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/store/memstore"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/secret"
)

// used is a credential that was put in use at a minute, for a life of an hour.
func used(number int64, minute int) *orchestratorv1.ProjectKey {
	at := time.Unix(int64(minute)*60, 0)
	return &orchestratorv1.ProjectKey{Credential: &orchestratorv1.ProjectCredential{
		Number: number, Id: "id", UseTime: timestamppb.New(at), ExpireTime: timestamppb.New(at.Add(time.Hour)),
	}}
}

func TestNext(t *testing.T) {
	begun := &orchestratorv1.ProjectKey{Credential: &orchestratorv1.ProjectCredential{Number: 2}}
	for name, c := range map[string]struct {
		spec, want *orchestratorv1.ProjectSpec
		keys       []*orchestratorv1.ProjectKey
		minute     int
	}{
		"nothing yet":        {&orchestratorv1.ProjectSpec{Credential: 1}, &orchestratorv1.ProjectSpec{Credential: 1}, nil, 500},
		"young":              {&orchestratorv1.ProjectSpec{Credential: 1}, &orchestratorv1.ProjectSpec{Credential: 1}, []*orchestratorv1.ProjectKey{used(1, 0)}, 29},
		"half of its life":   {&orchestratorv1.ProjectSpec{Credential: 1}, &orchestratorv1.ProjectSpec{Credential: 2}, []*orchestratorv1.ProjectKey{used(1, 0)}, 30},
		"being rotated":      {&orchestratorv1.ProjectSpec{Credential: 2}, &orchestratorv1.ProjectSpec{Credential: 2}, []*orchestratorv1.ProjectKey{used(1, 0), begun}, 50},
		"within the grace":   {&orchestratorv1.ProjectSpec{Credential: 2}, &orchestratorv1.ProjectSpec{Credential: 2}, []*orchestratorv1.ProjectKey{used(1, 0), used(2, 30)}, 39},
		"the grace is over":  {&orchestratorv1.ProjectSpec{Credential: 2}, &orchestratorv1.ProjectSpec{Credential: 2, Oldest: 2}, []*orchestratorv1.ProjectKey{used(1, 0), used(2, 30)}, 40},
		"both at once":       {&orchestratorv1.ProjectSpec{Credential: 2}, &orchestratorv1.ProjectSpec{Credential: 3, Oldest: 2}, []*orchestratorv1.ProjectKey{used(1, 0), used(2, 30)}, 70},
		"the former is gone": {&orchestratorv1.ProjectSpec{Credential: 2, Oldest: 2}, &orchestratorv1.ProjectSpec{Credential: 2, Oldest: 2}, []*orchestratorv1.ProjectKey{used(2, 30)}, 50},
	} {
		t.Run(name, func(t *testing.T) {
			got := Next(c.spec, &orchestratorv1.ProjectKeys{Keys: c.keys}, time.Unix(int64(c.minute)*60, 0), time.Hour, 10*time.Minute)
			if diff := cmp.Diff(c.want, got, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestGivenUpIsTriedAgain: a rotation that failed is tried again at the next look, and what is under way is let be.
func TestGivenUpIsTriedAgain(t *testing.T) {
	begun := &orchestratorv1.ProjectKey{Credential: &orchestratorv1.ProjectCredential{Number: 2}}
	for name, c := range map[string]struct {
		keys        []*orchestratorv1.ProjectKey
		phase, want kindv1.Phase
	}{
		"its credential could not be made": {[]*orchestratorv1.ProjectKey{used(1, 0), begun}, kindv1.Phase_PHASE_FAILED, kindv1.Phase_PHASE_UPDATING},
		"it could not be looked at":        {[]*orchestratorv1.ProjectKey{used(1, 0), used(2, 30)}, kindv1.Phase_PHASE_FAILED, kindv1.Phase_PHASE_UPDATING},
		"it stands":                        {[]*orchestratorv1.ProjectKey{used(1, 0), used(2, 30)}, kindv1.Phase_PHASE_READY, kindv1.Phase_PHASE_READY},
	} {
		t.Run(name, func(t *testing.T) {
			k, e := keeper(t, c.keys, c.phase)
			if err := k.Look(t.Context()); err != nil {
				t.Fatal(err)
			}
			now, err := k.Book().Current(t.Context(), e.Name)
			if err != nil {
				t.Fatal(err)
			}
			if got := now.Object.Status().GetPhase(); got != c.want {
				t.Errorf("phase %s, want %s", got, c.want)
			}
			if now.Object.Metadata().GetGeneration() != e.Object.Metadata().GetGeneration() {
				t.Error("something else is wanted of it than before")
			}
		})
	}
}

// keeper gives one that looks after a single project, 35 minutes after the beginning.
func keeper(t *testing.T, keys []*orchestratorv1.ProjectKey, phase kindv1.Phase) (*Keeper, *record.Entry) {
	t.Helper()
	sealer, err := secret.NewSealer(bytes.Repeat([]byte{7}, secret.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	kinds, err := resource.NewRegistry(&orchestratorv1.Tenant{}, &orchestratorv1.Project{})
	if err != nil {
		t.Fatal(err)
	}
	mem, now := memstore.New(), func() time.Time { return time.Unix(35*60, 0) }
	book := record.New(record.Config{Service: "orchestrator", Store: mem, Outbox: recordtest.NewBox(mem, "/box/"), Kinds: kinds, Now: now})
	k := &Keeper{
		Book: func() *record.Book { return book }, Vault: &Vault{Store: mem, Sealer: sealer}, Lifetime: time.Hour, Grace: 10 * time.Minute,
		Logger: slog.New(slog.DiscardHandler), Now: now,
	}
	_, err = k.Vault.Change(t.Context(), "k", func(kept *orchestratorv1.ProjectKeys) error { kept.Keys = keys; return nil })
	if err != nil {
		t.Fatal(err)
	}
	var last *record.Entry
	for _, message := range []proto.Message{
		&orchestratorv1.Tenant{Name: "tenants/acme", Spec: &orchestratorv1.TenantSpec{Isolation: orchestratorv1.Isolation_ISOLATION_MULTI_TENANT}},
		&orchestratorv1.Project{Name: "tenants/acme/projects/lab", Cloud: "clouds/lab", Spec: &orchestratorv1.ProjectSpec{Credential: 2}},
	} {
		object := resource.Wrap(message)
		kind, _, err := kinds.Of(object.Name())
		if err != nil {
			t.Fatal(err)
		}
		object.Metadata().Key = "k"
		last = participant.NewEntry(book, kind, object, now())
		object.Status().ProviderId = "project-id"
		participant.SetPhase(last, phase, now())
		if err := book.Add(t.Context(), last, record.Notice{}); err != nil {
			t.Fatal(err)
		}
	}
	return k, last
}

func TestVault(t *testing.T) {
	sealer, err := secret.NewSealer(bytes.Repeat([]byte{7}, secret.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	store := memstore.New()
	v := &Vault{Store: store, Sealer: sealer}
	wrote, err := v.Change(t.Context(), "k", func(k *orchestratorv1.ProjectKeys) error {
		k.Password = "hunter2"
		k.Keys = append(k.Keys, &orchestratorv1.ProjectKey{Credential: &orchestratorv1.ProjectCredential{Number: 1}, Secret: "swordfish"})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	read, err := v.Load(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wrote, read, protocmp.Transform()); diff != "" || read.GetPassword() != "hunter2" || read.GetKeys()[0].GetSecret() != "swordfish" {
		t.Errorf("read %v\n%s", read, diff)
	}
	if _, err := v.Change(t.Context(), "k", func(k *orchestratorv1.ProjectKeys) error { k.ProjectId = "p"; return nil }); err != nil {
		t.Fatal(err)
	}
	if key, found, err := v.Of(t.Context(), "p"); err != nil || key != "k" || found.GetPassword() != "hunter2" {
		t.Errorf("of project p: %q %v, %v", key, found, err)
	}
	if key, found, err := v.Of(t.Context(), "q"); err != nil || key != "" || found.GetPassword() != "" {
		t.Errorf("of project q: %q %v, %v", key, found, err)
	}
	kept, err := store.Get(t.Context(), place("k"))
	if err != nil || strings.Contains(string(kept.Value), "hunter2") || strings.Contains(string(kept.Value), "swordfish") {
		t.Errorf("the store holds %q, %v", kept.Value, err)
	}
	_, err = v.Change(t.Context(), "k", func(*orchestratorv1.ProjectKeys) error {
		_, err := v.Change(t.Context(), "k", func(k *orchestratorv1.ProjectKeys) error { k.UserId = "u"; return nil })
		return err
	})
	if !fault.Is(err, fault.Conflict) {
		t.Errorf("a write over another's: %v, want Conflict", err)
	}
	if err := v.Drop(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	if read, err := v.Load(t.Context(), "k"); err != nil || read.GetPassword() != "" {
		t.Errorf("after it was dropped: %v, %v", read, err)
	}
}
