package proxy_test

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/weftcloud/weft/deploy/e2e/internal/proxy"
)

// patience bounds the wait for what must come.
const patience = 10 * time.Second

// server answers each line with a name and the same line.
func server(t *testing.T, name string) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lis.Close(); err != nil {
			t.Error(err)
		}
	})
	go func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			go func() {
				buffer := make([]byte, 1024)
				for {
					n, err := conn.Read(buffer)
					if err != nil {
						return
					}
					if _, err := conn.Write(append([]byte(name+":"), buffer[:n]...)); err != nil {
						return
					}
				}
			}()
		}
	}()
	return lis.Addr().String()
}

func listen(t *testing.T, upstreams ...string) *proxy.Proxy {
	t.Helper()
	p, err := proxy.Listen("127.0.0.1:0", upstreams...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func dial(t *testing.T, p *proxy.Proxy) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return conn
}

func send(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

// receive gives what comes within a while.
func receive(conn net.Conn, within time.Duration) (string, error) {
	if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		return "", err
	}
	buffer := make([]byte, 1024)
	n, err := conn.Read(buffer)
	return string(buffer[:n]), err
}

// expect fails the test unless a text comes.
func expect(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	if got, err := receive(conn, patience); got != want || err != nil {
		t.Fatalf("there came %q, %v; want %q", got, err, want)
	}
}

func TestPassesOn(t *testing.T) {
	p := listen(t, server(t, "a"))
	conn := dial(t, p)
	send(t, conn, "one")
	expect(t, conn, "a:one")
}

func TestDelay(t *testing.T) {
	p := listen(t, server(t, "a"))
	conn := dial(t, p)
	const delay = 60 * time.Millisecond
	p.Set(proxy.Fault{Delay: delay})
	began := time.Now()
	send(t, conn, "one")
	expect(t, conn, "a:one")
	if took := time.Since(began); took < 2*delay {
		t.Errorf("there and back took %s, with a delay of %s each way", took, delay)
	}
}

func TestBlackHole(t *testing.T) {
	p := listen(t, server(t, "a"))
	conn := dial(t, p)
	send(t, conn, "one")
	expect(t, conn, "a:one")
	p.Set(proxy.Fault{BlackHole: true})
	send(t, conn, "two")
	later := dial(t, p)
	send(t, later, "three")
	for name, c := range map[string]net.Conn{"the connection of before": conn, "a new one": later} {
		if got, err := receive(c, 100*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: there came %q, %v out of the black hole", name, got, err)
		}
	}
	if held := p.Held(); held != len("two")+len("three") {
		t.Errorf("%d bytes are held", held)
	}
	p.Set(proxy.Fault{})
	expect(t, conn, "a:two")
	expect(t, later, "a:three")
	if held := p.Held(); held != 0 {
		t.Errorf("%d bytes are held after all were delivered", held)
	}
}

func TestReset(t *testing.T) {
	p := listen(t, server(t, "a"))
	conn := dial(t, p)
	send(t, conn, "one")
	expect(t, conn, "a:one")
	p.Set(proxy.Fault{BlackHole: true}) // what is on its way is lost
	send(t, conn, "two")
	if n := p.Reset(); n != 1 {
		t.Errorf("%d connections were reset, want 1", n)
	}
	if got, err := receive(conn, patience); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
		t.Errorf("after the reset there came %q, %v", got, err)
	}
	p.Set(proxy.Fault{})
	again := dial(t, p)
	send(t, again, "three")
	expect(t, again, "a:three")
}

func TestRefusal(t *testing.T) {
	p := listen(t, server(t, "a"))
	conn := dial(t, p)
	send(t, conn, "one")
	expect(t, conn, "a:one")
	p.Set(proxy.Fault{Refuse: true})
	if got, err := refused(t, p); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a new connection got %q, %v", got, err)
	}
	send(t, conn, "two") // those that there are go on
	expect(t, conn, "a:two")
}

// refused makes a connection, which may end while it is made, and gives what comes of it.
func refused(t *testing.T, p *proxy.Proxy) (string, error) {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		return "", err
	}
	got, err := receive(conn, patience)
	return got, errors.Join(err, conn.Close())
}

// TestFirstThatTakesIt leads to the second server when nobody listens at the first.
func TestFirstThatTakesIt(t *testing.T) {
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := gone.Addr().String()
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	p := listen(t, address, server(t, "b"))
	conn := dial(t, p)
	send(t, conn, "one")
	expect(t, conn, "b:one")
}

func TestNeedsAServer(t *testing.T) {
	if _, err := proxy.Listen("127.0.0.1:0"); err == nil {
		t.Error("a proxy that leads nowhere was started")
	}
}
