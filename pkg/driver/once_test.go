package driver_test

import (
	"context"
	"errors"
	"testing"

	"github.com/weftcloud/weft/pkg/driver"
)

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
