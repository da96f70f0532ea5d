// Package e2e tells the stories of whole installations: the real binary, several processes, seen from outside.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
)

// TestMain builds the binary once. Stories mostly wait, so more of them run at a time than there are cores.
func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if flag.Lookup("test.parallel").Value.String() == fmt.Sprint(defaultParallel()) {
		if err := flag.Set("test.parallel", "3"); err != nil {
			return 0, err
		}
	}
	dir, err := os.MkdirTemp("", "weft-e2e-")
	if err != nil {
		return 0, err
	}
	defer func() {
		if removeErr := os.RemoveAll(dir); err == nil {
			err = removeErr
		}
	}()
	binary, err := story.Build(dir)
	if err != nil {
		return 0, err
	}
	if err := os.Setenv(story.Binary, binary); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// defaultParallel is what the flag -parallel says when nobody set it.
func defaultParallel() int { return runtime.GOMAXPROCS(0) }
