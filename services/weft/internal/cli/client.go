package cli

import (
	"context"
	"crypto/tls"
	"strings"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"google.golang.org/grpc"

	"github.com/weftcloud/weft/pkg/app"
	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/services/weft/internal/contextfile"
)

// client is a connection to an installation, and whom and what the context names.
type client struct {
	conn *grpc.ClientConn
	file *contextfile.File
	// tenant is the id of the tenant to work in; empty if none is named.
	tenant string
}

// path gives the path of the context file.
func (a *tool) path() string {
	for _, path := range []string{a.contextPath, a.p.Getenv("WEFT_CONTEXT")} {
		if path != "" {
			return path
		}
	}
	return contextfile.DefaultPath(a.p.Getenv)
}

func (a *tool) loadContext() (*contextfile.File, error) {
	file, err := contextfile.Load(a.path())
	if fault.Is(err, fault.NotFound) {
		return nil, &failure{what: "find the installation", err: err, next: "start one with weft dev, which writes the file, or name another with --context"}
	}
	return file, failed(err, "read the context")
}

// with connects and hands the connection to do.
func (a *tool) with(do func(c *client) error) (err error) {
	file, err := a.loadContext()
	if err != nil {
		return err
	}
	c, err := connect(file)
	if err != nil {
		return failed(err, "connect to %s", file.Endpoint)
	}
	defer func() {
		if closeErr := c.conn.Close(); err == nil && closeErr != nil {
			err = failed(closeErr, "close the connection to %s", file.Endpoint)
		}
	}()
	c.tenant = strings.TrimPrefix(file.Tenant, "tenants/")
	if a.tenant != "" {
		c.tenant = strings.TrimPrefix(a.tenant, "tenants/")
	}
	return do(c)
}

func connect(file *contextfile.File) (*client, error) {
	cert, err := tls.X509KeyPair([]byte(file.Cert), []byte(file.Key))
	if err != nil {
		return nil, fault.New(fault.Invalid, "the context's certificate and key: %s", err)
	}
	trust, err := auth.ParsePool([]byte(file.CA))
	if err != nil {
		return nil, err
	}
	conn, err := app.Dial(file.Endpoint, app.DialConfig{TLS: auth.ClientTLS(auth.Static(cert), trust, ""), UserAgent: "weft-cli"})
	if err != nil {
		return nil, err
	}
	return &client{conn: conn, file: file}, nil
}

// parent gives the tenant as a full name; a misuse if none is named.
func (c *client) parent() (string, error) {
	if c.tenant == "" {
		return "", &failure{what: "choose the tenant", err: fault.New(fault.Invalid, "neither --tenant nor the context names one"), next: "give --tenant NAME; weft tenant list shows them"}
	}
	return "tenants/" + c.tenant, nil
}

// name gives the full name of something of the tenant; a full name stays as it is.
func (c *client) name(collection, id string) (string, error) {
	if strings.Contains(id, "/") {
		return id, nil
	}
	parent, err := c.parent()
	return parent + "/" + collection + "/" + id, err
}

func (c *client) operations() longrunningpb.OperationsClient {
	return longrunningpb.NewOperationsClient(c.conn)
}

// operation reads an operation.
func (c *client) operation(ctx context.Context, name string) (*longrunningpb.Operation, error) {
	return c.operations().GetOperation(ctx, &longrunningpb.GetOperationRequest{Name: name})
}
