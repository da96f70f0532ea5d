package secret_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/secret"
)

const name = "tenants/acme/secrets/db"

func sealer(t *testing.T, fill byte) *secret.Sealer {
	t.Helper()
	s, err := secret.NewSealer(bytes.Repeat([]byte{fill}, secret.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func seal(t *testing.T, s *secret.Sealer, value string) string {
	t.Helper()
	sealed, err := s.Seal(name, "password", value)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func TestSealAndOpen(t *testing.T) {
	s := sealer(t, 1)
	for _, value := range []string{"", "hunter2", strings.Repeat("x", 100_000), "sealed:v1:looks like it"} {
		sealed := seal(t, s, value)
		if !secret.Sealed(sealed) || value != "" && strings.Contains(sealed, value) {
			t.Errorf("sealed = %.60s", sealed)
		}
		if opened, err := s.Open(name, "password", sealed); err != nil || opened != value {
			t.Errorf("opened = %.60s, %v", opened, err)
		}
	}
	if first, second := seal(t, s, "hunter2"), seal(t, s, "hunter2"); first == second {
		t.Error("the same value is sealed the same way twice: who reads the store sees which secrets are equal")
	}
}

func TestOpenRefuses(t *testing.T) {
	s := sealer(t, 1)
	sealed := seal(t, s, "hunter2")
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(sealed, "sealed:v1:"))
	if err != nil {
		t.Fatal(err)
	}
	flipped := func(i int) string {
		changed := bytes.Clone(raw)
		changed[(i+len(changed))%len(changed)] ^= 1
		return "sealed:v1:" + base64.StdEncoding.EncodeToString(changed)
	}
	for what, c := range map[string]struct {
		sealer            *secret.Sealer
		name, key, sealed string
	}{
		"under another name":    {s, "tenants/evil/secrets/db", "password", sealed},
		"under another key":     {s, name, "user", sealed},
		"with another key":      {sealer(t, 2), name, "password", sealed},
		"a changed nonce":       {s, name, "password", flipped(0)},
		"a changed value":       {s, name, "password", flipped(14)},
		"a changed tag":         {s, name, "password", flipped(-1)},
		"cut short":             {s, name, "password", "sealed:v1:" + base64.StdEncoding.EncodeToString(raw[:5])},
		"nothing":               {s, name, "password", ""},
		"in the open":           {s, name, "password", "hunter2"},
		"without the mark":      {s, name, "password", strings.TrimPrefix(sealed, "sealed:v1:")},
		"name and key run over": {s, name + "\x00pass", "word", sealed},
	} {
		opened, err := c.sealer.Open(c.name, c.key, c.sealed)
		if !fault.Is(err, fault.Internal) || opened != "" {
			t.Errorf("%s: %q, %v", what, opened, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error tells the value: %v", what, err)
		}
	}
	if _, err := secret.NewSealer([]byte("short")); !fault.Is(err, fault.Internal) {
		t.Errorf("a short key: %v", err)
	}
}

func admit(t *testing.T, s *secret.Sealer, next *orchestratorv1.Secret, former *orchestratorv1.Secret) error {
	t.Helper()
	kind := secret.Kind(s, func(_ context.Context, tenant string) error {
		if tenant != "acme" {
			return fault.New(fault.NotFound, "there is no tenant %s", tenant)
		}
		return nil
	})
	var was *resource.Object
	if former != nil {
		o := resource.Wrap(former)
		was = &o
	}
	return kind.Local.Admit(t.Context(), resource.Wrap(next), was)
}

func TestAdmit(t *testing.T) {
	s := sealer(t, 1)
	first := &orchestratorv1.Secret{Name: name, Spec: &orchestratorv1.SecretSpec{Data: map[string]string{"password": "hunter2", "user": "root"}}}
	if err := admit(t, s, first, nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"password", "user"}, first.GetObserved().GetKeys()); diff != "" {
		t.Error(diff)
	}
	kept := first.GetSpec().GetData()["user"]
	second := &orchestratorv1.Secret{Name: name, Spec: &orchestratorv1.SecretSpec{Data: map[string]string{"password": "swordfish", "user": kept}}}
	if err := admit(t, s, second, first); err != nil {
		t.Fatal(err)
	}
	if second.GetSpec().GetData()["user"] != kept {
		t.Error("a value that was carried over was sealed twice")
	}
	opened, err := secret.Open(s, second)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"password": "swordfish", "user": "root"}, opened); diff != "" {
		t.Error(diff)
	}
	forged := &orchestratorv1.Secret{Name: name, Spec: &orchestratorv1.SecretSpec{Data: map[string]string{"password": seal(t, s, "x")}}}
	if err := admit(t, s, forged, nil); err != nil {
		t.Fatal(err)
	}
	if opened, err := secret.Open(s, forged); err != nil || !secret.Sealed(opened["password"]) {
		t.Errorf("a value that looks sealed was taken for one: %v, %v", opened, err)
	}
	if err := admit(t, s, &orchestratorv1.Secret{Name: name}, nil); fault.Field(err) != "spec.data" {
		t.Errorf("no values: %v", err)
	}
	if err := admit(t, s, &orchestratorv1.Secret{Name: "tenants/other/secrets/s"}, nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("no tenant: %v", err)
	}
}
