package dev

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/weftcloud/weft/pkg/fault"
)

// TestTokenFile: the file can be used as it stands, e.g. by curl, and the token outlives a start of the next version.
func TestTokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sandbox.token")
	made, err := tokenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(made) {
		t.Errorf("the token is %q", made)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != made+"\n" {
		t.Errorf("the file holds %q, %v", text, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode: %v, %v", info.Mode(), err)
	}
	if again, err := tokenFile(path); err != nil || again != made {
		t.Errorf("at the second start %q, %v; want %q", again, err, made)
	}
}

func TestTokenFileOfBefore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sandbox.token")
	tests := map[string]struct {
		holds, want string
		kind        fault.Kind
	}{
		"bytes":         {"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\xff", "000102030405060708090a0b0c0d0eff", ""},
		"text":          {"000102030405060708090a0b0c0d0eff", "000102030405060708090a0b0c0d0eff", ""},
		"cut":           {"000102", "", fault.Invalid},
		"no hex digits": {"this is not a token of 16 bytes!", "", fault.Invalid},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(test.holds), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := tokenFile(path)
			if got != test.want || (err != nil) != (test.kind != "") || err != nil && !fault.Is(err, test.kind) {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}
