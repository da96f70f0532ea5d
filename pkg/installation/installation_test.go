package installation_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/weftcloud/weft/pkg/installation"
	"github.com/weftcloud/weft/pkg/store/memstore"
)

func TestName(t *testing.T) {
	s, other := memstore.New(), memstore.New()
	name, err := installation.Name(t.Context(), s)
	if err != nil || len(name) != 8 {
		t.Fatalf("%q, %v", name, err)
	}
	again, err := installation.Name(t.Context(), s)
	if err != nil || again != name {
		t.Errorf("%q and then %q, %v", name, again, err)
	}
	foreign, err := installation.Name(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	last := ""
	for range 100 {
		key := installation.NewKey(name)
		if id, err := uuid.Parse(key); err != nil || id.Version() != 7 || id.Variant() != uuid.RFC4122 {
			t.Fatalf("%s is no UUIDv7: %v", key, err)
		}
		if key <= last || !installation.Owns(name, key) || installation.Owns(foreign, key) || !installation.Owns("", key) {
			t.Fatalf("key %s of %s, after %s; %s is another", key, name, last, foreign)
		}
		last = key
	}
}
