// Package proxy is a TCP proxy that breaks the network between two processes in the ways that networks break.
//
// # What it imitates
//
//	delay       what is sent arrives later, in order, and nothing is lost
//	black hole  nothing arrives any more, in either direction, and nobody is told: connections stay open, new ones can
//	            be made and stay silent. When the hole is mended what was sent arrives, as TCP sends it again
//	refusal     new connections are reset at once, as by a machine on which nothing listens
//	reset       the connections that there are end at once; what was under way is lost, and it is not known how much of
//	            it arrived
//
// A proxy can lead to several servers, as the balancer before the replicas of a service does: a new connection goes to
// the first that takes it.
package proxy

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Fault says how the network is broken. The zero value is a network that works.
type Fault struct {
	// Delay is how much later everything arrives, in each direction.
	Delay time.Duration
	// BlackHole swallows everything until it is mended.
	BlackHole bool
	// Refuse resets new connections.
	Refuse bool
}

const (
	// chunk is how much is read at once, in bytes.
	chunk = 32 << 10
	// window is how many chunks may be on their way in one direction of a connection.
	window = 256
	// dialTimeout bounds the wait for one of the servers.
	dialTimeout = time.Second
)

// Proxy is one listener and the connections through it.
type Proxy struct {
	listener  net.Listener
	upstreams []string
	working   sync.WaitGroup

	mu      sync.Mutex
	fault   Fault
	changed chan struct{} // closed at the next change of the fault
	pairs   map[*pair]bool
	held    int // bytes that clients have sent and that have not been delivered
	closed  bool
}

// pair is one connection through the proxy: the client's half and the server's.
type pair struct {
	client, server net.Conn
	over           chan struct{} // closed when it has ended
	once           sync.Once
}

// Listen starts a proxy at an address, host:port, in front of servers.
func Listen(address string, upstreams ...string) (*Proxy, error) {
	if len(upstreams) == 0 {
		return nil, errors.New("a proxy needs a server to lead to")
	}
	lis, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for a proxy: %w", err)
	}
	p := &Proxy{listener: lis, upstreams: upstreams, changed: make(chan struct{}), pairs: map[*pair]bool{}}
	p.working.Go(p.accept)
	return p, nil
}

// Addr is the address, host:port, that it listens on.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Set breaks the network as said, or mends it with the zero value. It holds for what is on its way already, too.
func (p *Proxy) Set(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
	close(p.changed)
	p.changed = make(chan struct{})
}

// Held is how many bytes clients have sent that have not been delivered. What was on connections that have ended counts no
// more.
func (p *Proxy) Held() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held
}

func (p *Proxy) hold(bytes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held += bytes
}

// Reset ends all connections at once, and tells how many there were.
func (p *Proxy) Reset() int {
	p.mu.Lock()
	pairs := make([]*pair, 0, len(p.pairs))
	for c := range p.pairs {
		pairs = append(pairs, c)
	}
	p.mu.Unlock()
	for _, c := range pairs {
		c.end(true)
	}
	return len(pairs)
}

// Close ends it, and waits until nothing of it is at work.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	err := p.listener.Close()
	p.Reset()
	p.working.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return // it was closed
		}
		p.working.Go(func() { p.serve(conn) })
	}
}

// now gives the fault, and a channel that is closed when another holds.
func (p *Proxy) now() (Fault, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fault, p.changed
}

// serve leads one connection through.
func (p *Proxy) serve(client net.Conn) {
	c := &pair{client: client, over: make(chan struct{})}
	if f, _ := p.now(); f.Refuse {
		c.end(true)
		return
	}
	if c.server = p.dial(); c.server == nil || !p.enter(c) {
		c.end(true)
		return
	}
	var both sync.WaitGroup
	both.Go(func() { p.carry(c, client, c.server, p.hold) })
	both.Go(func() { p.carry(c, c.server, client, func(int) {}) })
	both.Wait()
	p.mu.Lock()
	delete(p.pairs, c)
	p.mu.Unlock()
}

// enter counts a connection among those that there are; false if the proxy is closed.
func (p *Proxy) enter(c *pair) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.pairs[c] = true
	return true
}

// dial connects to the first server that takes it; nil if none does.
func (p *Proxy) dial() net.Conn {
	for _, address := range p.upstreams {
		conn, err := net.DialTimeout("tcp", address, dialTimeout)
		if err == nil {
			return conn
		}
	}
	return nil
}

// end ends both halves, with a reset if the network broke and not with the end of what was sent.
func (c *pair) end(reset bool) {
	c.once.Do(func() {
		close(c.over)
		for _, half := range []net.Conn{c.client, c.server} {
			if half == nil {
				continue
			}
			if tcp, ok := half.(*net.TCPConn); ok && reset {
				if err := tcp.SetLinger(0); err != nil {
					continue // it has ended
				}
			}
			if err := half.Close(); err != nil {
				continue // the other side was quicker
			}
		}
	})
}

// parcel is what was read, and when.
type parcel struct {
	data []byte
	read time.Time
}

// carry moves what comes from one half to the other until either ends. Then the connection has ended: none of those that
// this proxy is for closes only one direction. hold is told what is taken in and, less than 0, what is let go.
func (p *Proxy) carry(c *pair, from, to net.Conn, hold func(bytes int)) {
	queue := make(chan parcel, window)
	var delivering sync.WaitGroup
	delivering.Go(func() {
		for next := range queue {
			passes := p.pass(c, next.read)
			hold(-len(next.data))
			if !passes {
				continue
			}
			if _, err := to.Write(next.data); err != nil {
				c.end(true)
			}
		}
	})
	for {
		data := make([]byte, chunk)
		n, err := from.Read(data)
		if n > 0 {
			hold(n)
			select {
			case queue <- parcel{data[:n], time.Now()}:
			case <-c.over:
				hold(-n)
			}
		}
		if err != nil {
			break
		}
	}
	close(queue)
	delivering.Wait()
	c.end(false)
}

// pass waits until what was read at a time may arrive; false if the connection has ended before.
func (p *Proxy) pass(c *pair, read time.Time) bool {
	for {
		f, changed := p.now()
		wait := time.Until(read.Add(f.Delay))
		if !f.BlackHole && wait <= 0 {
			return true
		}
		var due <-chan time.Time
		if !f.BlackHole {
			due = time.After(wait)
		}
		select {
		case <-due:
		case <-changed:
		case <-c.over:
			return false
		}
	}
}
