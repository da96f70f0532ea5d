package dev

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/weftcloud/weft/pkg/fault"
)

// ports are the ports that the parts of an installation were found at last, so that it comes back at the same ones: URLs
// of the sandbox stand in records.
type ports struct {
	NATS       int `json:"nats,omitempty"`
	OpenStack  int `json:"openstack,omitempty"`
	Kubernetes int `json:"kubernetes,omitempty"`
}

func readPorts(path string) (ports, error) {
	p := ports{}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, fault.Wrap(err, "read %s", path)
	}
	return p, fault.As(fault.Internal, fault.Wrap(json.Unmarshal(data, &p), "read %s", path))
}

func (p ports) write(path string) error {
	data, err := json.Marshal(p)
	if err != nil {
		return fault.Wrap(err, "write %s", path)
	}
	return fault.Wrap(os.WriteFile(path, data, 0o600), "write %s", path)
}

// free gives the loopback address of a port, if nobody listens there, else of any port.
func (p ports) free(port int) string {
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		return "127.0.0.1:0"
	}
	if err := lis.Close(); err != nil || port == 0 {
		return "127.0.0.1:0"
	}
	return addr
}

// portOf gives the port in an address or URL; 0 if it has none.
func portOf(addr string) int {
	_, rest, found := strings.Cut(addr, "://")
	if !found {
		rest = addr
	}
	rest, _, _ = strings.Cut(rest, "/")
	_, port, err := net.SplitHostPort(rest)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return 0
	}
	return n
}
