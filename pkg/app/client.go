package app

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/weftcloud/weft/pkg/fault"
)

// readers are the beginnings of the names of methods that change nothing.
var readers = []string{"Get", "List", "Query", "Plan", "Resolve", "Expand", "Preflight"}

// serviceConfig says which calls are tried again when the answer is Unavailable (gRPC A6, client retries): those that
// only read. Others may have had an effect, and whoever made them decides. What no server ever saw gRPC repeats anyway.
func serviceConfig() (string, error) {
	type name struct {
		Service string `json:"service"`
		Method  string `json:"method"`
	}
	names := []name{{Service: "google.longrunning.Operations", Method: "GetOperation"}, {Service: "google.longrunning.Operations", Method: "ListOperations"}}
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(file.Package()), "weft.") {
			return true
		}
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				reads := func(prefix string) bool { return strings.HasPrefix(string(m.Name()), prefix) }
				if slices.ContainsFunc(readers, reads) {
					names = append(names, name{Service: string(service.FullName()), Method: string(m.Name())})
				}
			}
		}
		return true
	})
	config, err := json.Marshal(map[string]any{"methodConfig": []any{map[string]any{
		"name": names,
		"retryPolicy": map[string]any{
			"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "2s", "backoffMultiplier": 2,
			"retryableStatusCodes": []string{"UNAVAILABLE"},
		},
	}}})
	return string(config), err
}

// InProcess is a listener that is reached only from within the process. TLS goes on top of it like on any other, so
// that whoever calls must still show who it is.
type InProcess struct{ *bufconn.Listener }

// NewInProcess makes a listener within the process.
func NewInProcess() *InProcess { return &InProcess{bufconn.Listen(1 << 20)} }

// Listen listens on host:port, or on a socket as unix:/path. A socket that nobody listens on any more is replaced; it
// can be used by its owner only.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	path, isSocket := strings.CutPrefix(addr, "unix:")
	if !isSocket {
		lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
		return lis, fault.Wrap(fault.As(fault.Unavailable, err), "listen on %s", addr)
	}
	if conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path); err == nil {
		return nil, fault.Wrap(fault.As(fault.Exists, conn.Close()), "listen on %s, where someone listens already", addr)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fault.Wrap(err, "listen on %s", addr)
	}
	lis, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fault.Wrap(fault.As(fault.Unavailable, err), "listen on %s", addr)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, fault.Wrap(err, "protect %s", path)
	}
	return lis, nil
}

// DialConfig is what a connection to a service is made of.
type DialConfig struct {
	// TLS is required; see auth.ClientTLS. For InProcess its ServerName must be set, see auth.ServerName.
	TLS *tls.Config
	// InProcess is the listener of the server, when it is in this process; then the target is for messages only.
	InProcess *InProcess
	// UserAgent says who calls; empty means gRPC's own.
	UserAgent string
	// Options are further options.
	Options []grpc.DialOption
}

// Dial makes a connection to host:port, unix:/path or any other target that gRPC knows. It returns at once; the
// connection is made with the first call and again when it breaks.
func Dial(target string, cfg DialConfig) (*grpc.ClientConn, error) {
	if cfg.TLS == nil {
		return nil, fault.New(fault.Internal, "a connection to %s without TLS is not made: give DialConfig.TLS", target)
	}
	config, err := serviceConfig()
	if err != nil {
		return nil, fault.Wrap(err, "connect to %s", target)
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(cfg.TLS)),
		grpc.WithDefaultServiceConfig(config),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
	}
	if cfg.InProcess != nil {
		target = "passthrough:///" + target
		options = append(options, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return cfg.InProcess.DialContext(ctx)
		}))
	}
	if cfg.UserAgent != "" {
		options = append(options, grpc.WithUserAgent(cfg.UserAgent))
	}
	conn, err := grpc.NewClient(target, append(options, cfg.Options...)...)
	return conn, fault.Wrap(fault.As(fault.Invalid, err), "connect to %s", target)
}
