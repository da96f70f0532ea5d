package driver_test

import (
	"context"
	"errors"
	"testing"

	"github.com/weftcloud/weft/pkg/driver"
)

// TestTell: what is told in a look is known in that look only, as the type that it was told as, and the last word counts.
func TestTell(t *testing.T) {
	look := driver.Remembering(context.Background())
	driver.Tell(look, "a", 1)
	driver.Tell(look, "a", 2)
	driver.Tell(context.Background(), "b", 3)
	for name, c := range map[string]struct {
		look context.Context
		key  string
		want int
		ok   bool
	}{
		"told": {look, "a", 2, true}, "not told": {look, "b", 0, false}, "another look": {driver.Remembering(look), "a", 0, false}, "no look": {context.Background(), "a", 0, false},
	} {
		if got, ok := driver.Recall[int](c.look, c.key); got != c.want || ok != c.ok {
			t.Errorf("%s: %d, %v; want %d, %v", name, got, ok, c.want, c.ok)
		}
	}
	if got, ok := driver.Recall[string](look, "a"); ok {
		t.Errorf("a number is given as the text %q", got)
	}
}

// TestOnce reads once in a look, again after an error, and each time outside of a look.
func TestOnce(t *testing.T) {
	t.Parallel()
	reads, broken := 0, errors.New("no answer")
	var fails error
	read := func() (int, error) {
		reads++
		return reads, fails
	}
	look := driver.Remembering(context.Background())
	fails = broken
	if _, err := driver.Once(look, "quotas of lab", read); !errors.Is(err, broken) {
		t.Errorf("the error is %v", err)
	}
	fails = nil
	for range 3 {
		if n, err := driver.Once(look, "quotas of lab", read); n != 2 || err != nil {
			t.Errorf("got read %d, %v; want the second, kept", n, err)
		}
	}
	if n, err := driver.Once(look, "quotas of another", read); n != 3 || err != nil {
		t.Errorf("another thing is taken for the first: %d, %v", n, err)
	}
	for want := 4; want < 6; want++ {
		if n, err := driver.Once(context.Background(), "quotas of lab", read); n != want || err != nil {
			t.Errorf("outside of a look it is kept: %d, want %d; %v", n, want, err)
		}
	}
}
