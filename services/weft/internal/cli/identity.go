package cli

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/services/weft/internal/contextfile"
)

func (a *tool) identityCommand() *cobra.Command {
	return group("identity", "Let people and programs in", a.identityIssue())
}

func (a *tool) identityIssue() *cobra.Command {
	var role, dir, out string
	var lifetime time.Duration
	cmd := &cobra.Command{
		Use: "issue NAME --role operator|editor|viewer --ca-dir DIR --out FILE", Short: "Issue a certificate and write a context file with it",
		Long: `Issue a certificate and write a context file with it, for --context or WEFT_CONTEXT.

It needs the folder of the installation's CA (weft dev: ca in its data folder), so it is for whoever runs the
installation. Editors and viewers belong to the tenant given by --tenant or the context.`,
		Example: "  weft identity issue anna --role editor --tenant acme --ca-dir ~/.local/share/weft/ca --out anna.yaml",
		Args:    takes(1, 1, "a name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if dir == "" || out == "" {
				return misused(cmd, "give the CA's folder with --ca-dir and the file to write with --out")
			}
			file, err := a.loadContext()
			if err != nil {
				return err
			}
			if a.tenant != "" {
				file.Tenant = a.tenant
			}
			id := auth.Identity{Class: auth.Class(role), Name: args[0]}
			if id.Class == auth.Editor || id.Class == auth.Viewer {
				id.Tenant = base(file.Tenant)
			}
			return failed(a.issue(file, id, dir, out, lifetime), "issue a certificate to %s", args[0])
		},
	}
	cmd.Flags().StringVar(&role, "role", "editor", "operator, editor or viewer")
	cmd.Flags().StringVar(&dir, "ca-dir", "", "the CA's `folder`")
	cmd.Flags().StringVar(&out, "out", "", "the context `file` to write")
	cmd.Flags().DurationVar(&lifetime, "lifetime", auth.DefaultLifetime, "how long the certificate is valid")
	return cmd
}

func (a *tool) issue(file *contextfile.File, id auth.Identity, dir, out string, lifetime time.Duration) error {
	if err := id.Validate(); err != nil {
		return err
	}
	if id.Class == auth.Service {
		return misused(a.running, "--role service: services get their certificates from the installation")
	}
	if err := mustExist(filepath.Join(dir, "ca.pem")); err != nil {
		return err
	}
	ca, err := auth.OpenCA(dir)
	if err != nil {
		return err
	}
	cert, err := ca.Issue(id, auth.IssueOptions{Lifetime: lifetime})
	if err != nil {
		return err
	}
	certPEM, keyPEM, err := auth.EncodePEM(cert)
	if err != nil {
		return err
	}
	issued := &contextfile.File{Endpoint: file.Endpoint, Tenant: base(file.Tenant), CA: string(ca.PEM()), Cert: string(certPEM), Key: string(keyPEM), NATS: file.NATS}
	if err := contextfile.Save(out, issued); err != nil {
		return err
	}
	a.note("%s is in %s, valid until %s\n  use it: weft --context %s …", fmt.Sprint(id), out, cert.Leaf.NotAfter.Local().Format(time.RFC1123), out)
	return nil
}
