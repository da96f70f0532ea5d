package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/services/weft/internal/contextfile"
)

// serviceLifetime is how long a service's certificate is valid when nothing else is asked: it is renewed by whoever runs
// the installation, not by whoever sits before a terminal.
const serviceLifetime = 90 * 24 * time.Hour

func (a *tool) identityCommand() *cobra.Command {
	return group("identity", "Let people, programs and services in", a.identityIssue(), a.identityCA())
}

func (a *tool) identityCA() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "ca --ca-dir DIR", Short: "Make the CA of a new installation",
		Long: `Make the CA of a new installation. weft dev does it by itself.

Whoever reads the folder can pose as anyone: keep it away from the machines that the services run on.`,
		Example: "  weft identity ca --ca-dir /root/weft-ca",
		Args:    takes(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return misused(cmd, "give the folder with --ca-dir")
			}
			if _, err := auth.OpenCA(dir); err != nil {
				return failed(err, "make the CA")
			}
			a.note("the CA is in %s", dir)
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "ca-dir", "", "the CA's `folder`")
	return cmd
}

// issuing is what is asked of the CA.
type issuing struct {
	role, service, dir, out, endpoint, nats string
	hosts                                   []string
	lifetime                                time.Duration
}

func (a *tool) identityIssue() *cobra.Command {
	in := issuing{}
	cmd := &cobra.Command{
		Use:   "issue (NAME --role operator|editor|viewer --out FILE | --service NAME --out DIR) --ca-dir DIR",
		Short: "Issue a certificate to a person, a program or a service",
		Long: `Issue a certificate. It needs the folder of the installation's CA (weft dev: ca in its data folder), so it is for
whoever runs the installation.

For a person or a program it writes a context file, for --context or WEFT_CONTEXT. Editors and viewers belong to the
tenant given by --tenant or the context. The addresses are those of the context, or those of --endpoint and --nats.

For a service it writes tls.crt, tls.key and ca.crt to a folder. etcd and NATS need one each, too. Services read their
files again when they change, so a new certificate can be issued to the same folder at any time.`,
		Example: `  weft identity issue anna --role editor --tenant acme --ca-dir ~/.local/share/weft/ca --out anna.yaml
  weft identity issue --service network --host network.weft.svc --ca-dir /root/weft-ca --out network`,
		Args: takes(0, 1, "a name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if in.dir == "" || in.out == "" {
				return misused(cmd, "give the CA's folder with --ca-dir and what to write with --out")
			}
			if (in.service == "") == (len(args) == 0) {
				return misused(cmd, "give either the name of a person or program, or --service")
			}
			if in.service != "" {
				if !cmd.Flags().Changed("lifetime") {
					in.lifetime = serviceLifetime
				}
				return failed(a.issueService(in), "issue a certificate to the service %s", in.service)
			}
			return failed(a.issuePerson(cmd, args[0], in), "issue a certificate to %s", args[0])
		},
	}
	f := cmd.Flags()
	f.StringVar(&in.role, "role", "editor", "operator, editor or viewer")
	f.StringVar(&in.service, "service", "", "the `NAME` of a service, e.g. network, etcd or nats")
	f.StringArrayVar(&in.hosts, "host", nil, "a name or address that the service is reached by, beside its own name and localhost; may be given again")
	f.StringVar(&in.endpoint, "endpoint", "", "the front door's address, `HOST:PORT`, for the context file")
	f.StringVar(&in.nats, "nats", "", "the `URL` of NATS, for the context file")
	f.StringVar(&in.dir, "ca-dir", "", "the CA's `folder`")
	f.StringVar(&in.out, "out", "", "the context `file`, or a service's folder, to write")
	f.DurationVar(&in.lifetime, "lifetime", auth.DefaultLifetime, "how long the certificate is valid; a service's by default 90 days")
	return cmd
}

// addresses gives the context that a new one takes its addresses from.
func (a *tool) addresses(in issuing) (*contextfile.File, error) {
	if in.endpoint != "" {
		return &contextfile.File{Endpoint: in.endpoint, NATS: in.nats, Tenant: a.tenant}, nil
	}
	file, err := a.loadContext()
	if err != nil {
		return nil, err
	}
	if in.nats != "" {
		file.NATS = in.nats
	}
	if a.tenant != "" {
		file.Tenant = a.tenant
	}
	return file, nil
}

func (a *tool) issuePerson(cmd *cobra.Command, name string, in issuing) error {
	if len(in.hosts) > 0 {
		return misused(cmd, "--host is for services only")
	}
	if auth.Class(in.role) == auth.Service {
		return misused(cmd, "--role service: give the service's name with --service")
	}
	file, err := a.addresses(in)
	if err != nil {
		return err
	}
	id := auth.Identity{Class: auth.Class(in.role), Name: name}
	if id.Class == auth.Editor || id.Class == auth.Viewer {
		id.Tenant = base(file.Tenant)
	}
	p, err := issue(in, id)
	if err != nil {
		return err
	}
	issued := &contextfile.File{Endpoint: file.Endpoint, Tenant: base(file.Tenant), CA: string(p.ca), Cert: string(p.cert), Key: string(p.key), NATS: file.NATS}
	if err := contextfile.Save(in.out, issued); err != nil {
		return err
	}
	a.note("%s is in %s, valid until %s\n  use it: weft --context %s …", fmt.Sprint(id), in.out, p.until.Local().Format(time.RFC1123), in.out)
	return nil
}

func (a *tool) issueService(in issuing) error {
	id := auth.Identity{Class: auth.Service, Name: in.service}
	in.hosts = append(in.hosts, in.service) // where a service is found by its name
	p, err := issue(in, id)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(in.out, 0o700); err != nil {
		return fault.Wrap(err, "make the folder %s", in.out)
	}
	// A service that runs reads the pair again once the certificate has changed: that is written last.
	for _, file := range []struct {
		name string
		data []byte
	}{{"ca.crt", p.ca}, {"tls.key", p.key}, {"tls.crt", p.cert}} {
		path := filepath.Join(in.out, file.name)
		if err := os.WriteFile(path+".new", file.data, 0o600); err != nil {
			return fault.Wrap(err, "write %s", path)
		}
		if err := os.Rename(path+".new", path); err != nil {
			return fault.Wrap(err, "write %s", path)
		}
	}
	a.note("%s is in %s (tls.crt, tls.key, ca.crt), valid until %s", fmt.Sprint(id), in.out, p.until.Local().Format(time.RFC1123))
	return nil
}

// pair is a certificate that was issued, as PEM.
type pair struct {
	ca, cert, key []byte
	until         time.Time
}

// issue issues a certificate. The CA MUST be there: whoever mistypes the folder must not get a new one.
func issue(in issuing, id auth.Identity) (pair, error) {
	if err := id.Validate(); err != nil {
		return pair{}, err
	}
	if err := mustExist(filepath.Join(in.dir, "ca.pem")); err != nil {
		return pair{}, err
	}
	ca, err := auth.OpenCA(in.dir)
	if err != nil {
		return pair{}, err
	}
	cert, err := ca.Issue(id, auth.IssueOptions{Lifetime: in.lifetime, Hosts: in.hosts})
	if err != nil {
		return pair{}, err
	}
	certPEM, keyPEM, err := auth.EncodePEM(cert)
	if err != nil {
		return pair{}, err
	}
	return pair{ca: ca.PEM(), cert: certPEM, key: keyPEM, until: cert.Leaf.NotAfter}, nil
}
