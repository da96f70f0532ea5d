// Package chaos kills real processes at named points (package crash) and shows that nothing is lost or doubled, that
// nothing is left behind, and that nothing stands still. `make chaos` runs it; an ordinary `go test` passes it over,
// since it takes its time.
//
// # A run
//
// A stack of nine resources, or for the points at a driver's calls one with every kind of the catalog, is applied on the sandbox (forward), or applied and refused at its last step, so that it is
// undone (undo). Somewhere on the way the process kills itself at the point; it is started again, and the operation must
// end as it would have without that. Then the cloud holds one object for each resource and the ledger says the same; after
// the destroy, or the undo, the cloud holds what it held before.
//
// # What is counted
//
//	lost      an operation or a resource that should be there and is not, or ended otherwise than it should
//	doubled   objects more than resources
//	orphans   objects, or records, that nobody's stack holds
//	stuck     operations that do not end
//
// A point that is never reached fails the run, as it shows nothing.
//
// # Who watches the watchers
//
// The same runs are made with programs that were broken on purpose (broken_test.go). Each must be found out.
package chaos

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
)

var (
	repeat    = flag.Int("repeat", 0, "how often each point is tried in each direction, at another passing each time; 0 runs nothing")
	only      = flag.String("points", "", "regular expression that the points must match")
	tablePath = flag.String("table", "", "file that the table is also written to")
	workers   = flag.Int("workers", 2, "how many installations of one process run at once; 0 runs none of these trials")
	withFleet = flag.Bool("fleet", false, "also kill single processes of an installation of several")
	wideAt    = flag.String("wide", "^loop/", "regular expression of the points that are tried with the stack of all kinds")
	breaking  = flag.String("broken", ".", "regular expression that the broken programs must match")
)

// TestMain builds the sound program once, with its points, and runs the command line from it, too.
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
	if *repeat == 0 {
		return m.Run(), nil
	}
	// They mostly wait, and a worker that is not begun is none.
	if err := flag.Set("test.parallel", fmt.Sprint(*workers+1)); err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "weft-chaos-")
	if err != nil {
		return 0, err
	}
	defer func() {
		if removeErr := os.RemoveAll(dir); err == nil {
			err = removeErr
		}
	}()
	if err := build(filepath.Join(dir, "weft"), weft); err != nil {
		return 0, err
	}
	if err := os.Setenv(story.Binary, filepath.Join(dir, "weft")); err != nil {
		return 0, err
	}
	return m.Run(), nil
}
