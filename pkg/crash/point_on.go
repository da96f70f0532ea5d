//go:build crash

package crash

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// obeyer counts how often the ordered point was passed. It is a variable of the package, against the house's rule, so that
// a point can stand anywhere without being handed anything; no normal build has it.
var obeyer = struct {
	sync.Mutex
	path  func() string
	order string
	count int
}{path: sync.OnceValue(func() string { return os.Getenv(Orders) })}

// Point kills the process if it was ordered to die here, or stops it.
func Point(name Name) {
	path := obeyer.path()
	if path == "" {
		return
	}
	obeyer.Lock()
	defer obeyer.Unlock()
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		panic(fmt.Sprintf("read the orders to die: %s", err)) // a run without its orders would show nothing
	}
	order, rest, _ := strings.Cut(string(data), "\n")
	if order != obeyer.order {
		obeyer.order, obeyer.count = order, 0
	}
	ordered, what, _ := strings.Cut(order, " ")
	if Name(ordered) != name {
		return
	}
	times, what, _ := strings.Cut(what, " ")
	n, err := strconv.Atoi(times)
	if err != nil || what != "" && what != Stop {
		panic(fmt.Sprintf("the order %q is none: want a point, at which passing, and perhaps %q", order, Stop))
	}
	if obeyer.count++; obeyer.count < n || !take(path, rest) {
		return
	}
	if what == Stop {
		stop()
		return
	}
	die()
}

// take takes the first order out of the file; false if another process was first.
func take(path, rest string) bool {
	if err := os.Rename(path, path+".taken"); err != nil {
		return false
	}
	if rest != "" {
		if err := os.WriteFile(path+".next", []byte(rest), 0o600); err != nil {
			panic(fmt.Sprintf("write the next order to die: %s", err))
		}
		if err := os.Rename(path+".next", path); err != nil {
			panic(fmt.Sprintf("leave the next order to die: %s", err))
		}
	}
	return true
}

// die ends the process at once; nothing that is deferred runs, and no other goroutine gets further than the kernel lets it.
func die() {
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		panic(fmt.Sprintf("die as ordered: %s", err))
	}
	select {}
}

// stop stops the process until it is sent SIGCONT. The signal goes to this very thread, which therefore does nothing more
// before it: sent to the process, it might be another's to take, and this one would get past the point.
func stop() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := syscall.Tgkill(os.Getpid(), syscall.Gettid(), syscall.SIGSTOP); err != nil {
		panic(fmt.Sprintf("stop as ordered: %s", err))
	}
}
