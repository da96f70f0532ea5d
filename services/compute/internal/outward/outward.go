// Package outward makes calls to addresses that tenants name: where a metric or an image is. What answers there is not
// trusted, and the call is made from inside the platform, so redirections are the caller's to follow or not, and link-local
// addresses are refused: clouds serve their machines' credentials there (169.254.169.254).
package outward

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// connectTimeout bounds the time to connect, and to the first line of an answer.
const connectTimeout = 10 * time.Second

// Client makes a client. Each call takes timeout at most; 0 means as long as data come. It follows up to redirections,
// each to an address that is looked at like the first.
func Client(timeout time.Duration, redirections int) *http.Client {
	dialer := &net.Dialer{Timeout: connectTimeout, Control: refuse}
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			DialContext: dialer.DialContext, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 2,
			TLSHandshakeTimeout: connectTimeout, ResponseHeaderTimeout: connectTimeout,
		},
		CheckRedirect: func(_ *http.Request, via []*http.Request) error {
			if len(via) > redirections {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
}

// refuse refuses addresses that no service of a tenant has.
func refuse(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("read the address %s: %w", address, err)
	}
	if ip := at.Addr().Unmap(); ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return fmt.Errorf("%s is no address that may be asked", address)
	}
	return nil
}
