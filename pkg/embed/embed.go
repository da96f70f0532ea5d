// Package embed runs etcd and NATS inside the process, for a platform on one machine and for tests. Both keep their data
// in a directory of their own, survive kill -9, and are up in a fraction of a second.
//
// etcd has no listener at all: the store calls the server's functions, which costs half of what a connection does, and
// leaves no port or socket behind. NATS has none either, unless it is told to listen for subscribers from outside.
package embed

import (
	"errors"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"

	"github.com/weftcloud/weft/pkg/fault"
)

// dirLock keeps other processes out of a directory.
type dirLock struct {
	release chan struct{}
	closed  chan error
}

// lockDir makes dir, readable for nobody else, and keeps other processes out of it until the lock is closed. The
// lock is the kernel's: it goes with the process, however that ends.
func lockDir(dir string) (*dirLock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.Wrap(fault.As(fault.Invalid, err), "make the data directory %s", dir)
	}
	file, err := fileutil.TryLockFile(filepath.Join(dir, ".lock"), os.O_WRONLY|os.O_CREATE, 0o600)
	if errors.Is(err, fileutil.ErrLocked) {
		return nil, fault.New(fault.Precondition, "the data directory %s is in use by another process: stop that, or choose another directory", dir)
	}
	if err != nil {
		return nil, fault.Wrap(err, "lock the data directory %s", dir)
	}
	lock := &dirLock{release: make(chan struct{}), closed: make(chan error, 1)}
	// The goroutine holds the file: the collector would close it, and with it the lock, under a server that runs on
	// though nobody holds its handle any more.
	go func() {
		<-lock.release
		lock.closed <- file.Close()
	}()
	return lock, nil
}

// Close lets others into the directory.
func (l *dirLock) Close() error {
	close(l.release)
	return <-l.closed
}
