// Package testkit gives tests real peers in the process, etcd and NATS, and a way to wait for what takes its time.
package testkit

import (
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weftcloud/weft/pkg/embed"
	"github.com/weftcloud/weft/pkg/store/etcdstore"
)

// Etcd runs etcd for a test, without fsync.
func Etcd(t testing.TB) *embed.EtcdServer {
	t.Helper()
	s, err := embed.EtcdWith(embed.EtcdConfig{Dir: t.TempDir(), Logger: Logger(t), NoSync: true})
	if err != nil {
		t.Fatalf("start etcd: %v", err)
	}
	t.Cleanup(func() { closed(t, "etcd", s.Close()) })
	return s
}

// EtcdStore runs etcd for a test and gives a store over it.
func EtcdStore(t testing.TB) *etcdstore.Store {
	t.Helper()
	s := Etcd(t).Store()
	t.Cleanup(func() { closed(t, "the store", s.Close()) })
	return s
}

// EtcdAddr lets an etcd server be reached over loopback and gives the address, for tests with connections or processes.
func EtcdAddr(t testing.TB, s *embed.EtcdServer) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen for etcd: %v", err)
	}
	s.Serve(listener)
	return listener.Addr().String()
}

// NATS runs NATS with JetStream for a test.
func NATS(t testing.TB) *embed.NATSServer {
	t.Helper()
	s, err := embed.NATS(embed.NATSConfig{Dir: t.TempDir(), Logger: Logger(t)})
	if err != nil {
		t.Fatalf("start NATS: %v", err)
	}
	t.Cleanup(func() { closed(t, "NATS", s.Close()) })
	return s
}

// NATSConn gives a connection to a NATS server for a test.
func NATSConn(t testing.TB, s *embed.NATSServer) *nats.Conn {
	t.Helper()
	conn, err := s.Connect()
	if err != nil {
		t.Fatalf("connect to NATS: %v", err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// Logger gives a logger that writes warnings and errors to the test's log, until the test ends.
func Logger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// closed reports what went wrong when something was closed.
func closed(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("close %s: %v", what, err)
	}
}

// The waits of Await between two tries: short at first, since most things are nearly done.
const (
	firstWait = 2 * time.Millisecond
	longest   = 100 * time.Millisecond
)

// Await tries until check gives nil, or fails the test after timeout with the last error. It logs an error only when it
// differs from the one before. It is for what real processes and sockets do; what this process does by itself is
// better awaited by a channel or testing/synctest.
func Await(t testing.TB, timeout time.Duration, check func() error) {
	t.Helper()
	start, last := time.Now(), ""
	for wait := firstWait; ; wait = min(wait*2, longest) {
		err := check()
		if err == nil {
			return
		}
		if text := err.Error(); text != last {
			t.Logf("await, after %s: %s", time.Since(start).Round(time.Millisecond), text)
			last = text
		}
		if time.Since(start) >= timeout {
			t.Fatalf("after %s still: %v", timeout, err)
		}
		time.Sleep(wait)
	}
}
