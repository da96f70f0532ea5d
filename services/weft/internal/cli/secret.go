package cli

import (
	"fmt"
	"strings"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"github.com/weftcloud/weft/pkg/fault"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

func (a *tool) secretCommand() *cobra.Command {
	return group("secret", "Write secrets; their values can never be read back", a.secretPut(), a.listOf("secret"), a.secretDelete())
}

func (a *tool) secretPut() *cobra.Command {
	var files []string
	var stdin bool
	cmd := &cobra.Command{
		Use: "put NAME [KEY=VALUE…] [--from-file KEY=PATH] [--from-stdin]", Short: "Write a secret, over the former one if there is one",
		Long: `Write a secret, over the former one if there is one.

Arguments are seen by everyone on this machine: give what must stay secret by --from-file, or by --from-stdin as YAML
(KEY: VALUE lines).`,
		Example: "  weft secret put kube --from-file kubeconfig=$KUBECONFIG\n  pass show db | weft secret put db user=shop --from-file password=-",
		Args:    takes(1, 1<<10, "a name"), ValidArgsFunction: a.completeNames("secret"),
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := a.secretData(cmd, args[1:], files, stdin)
			if err != nil {
				return err
			}
			if len(data) == 0 {
				return misused(cmd, "give at least one value: KEY=VALUE, --from-file or --from-stdin")
			}
			return a.with(func(c *client) error {
				op, err := a.putSecret(cmd, c, args[0], data)
				if err != nil {
					return err
				}
				return a.print(op, func() string {
					return fmt.Sprintf("%s secret %s\n", a.style(a.p.OutIsTerminal).green("ready:"), args[0])
				})
			})
		},
	}
	cmd.Flags().StringArrayVar(&files, "from-file", nil, "a value from a file, `KEY=PATH`; - as the path is standard input; may be given again")
	cmd.Flags().BoolVar(&stdin, "from-stdin", false, "values from standard input, as YAML")
	return cmd
}

func (a *tool) secretData(cmd *cobra.Command, pairs, files []string, stdin bool) (map[string]string, error) {
	data := map[string]string{}
	if stdin {
		text, err := a.readFile("-")
		if err != nil {
			return nil, err
		}
		if err := yaml.UnmarshalStrict(text, &data); err != nil {
			return nil, &failure{what: "read standard input", err: fault.New(fault.Invalid, "it is no YAML of KEY: VALUE lines")}
		}
	}
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, misused(cmd, "an argument is not KEY=VALUE")
		}
		data[key] = value
	}
	for _, pair := range files {
		key, path, ok := strings.Cut(pair, "=")
		if !ok || key == "" || path == "" {
			return nil, misused(cmd, "--from-file %s: give KEY=PATH", pair)
		}
		text, err := a.readFile(path)
		if err != nil {
			return nil, err
		}
		data[key] = string(text)
	}
	return data, nil
}

// putSecret writes a secret whether it exists or not, and waits until it is written.
func (a *tool) putSecret(cmd *cobra.Command, c *client, id string, data map[string]string) (*longrunningpb.Operation, error) {
	return a.put(cmd, c, "secret", id, &orchestratorv1.Secret{Spec: &orchestratorv1.SecretSpec{Data: data}})
}

// put creates a resource, or updates the one that there is, of that only the fields given, if any; and waits until it is done.
func (a *tool) put(cmd *cobra.Command, c *client, kind, id string, m proto.Message, fields ...string) (*longrunningpb.Operation, error) {
	x, err := apiNamed(kind)
	if err != nil {
		return nil, err
	}
	op, err := x.create(cmd, c, id, m)
	if fault.Is(err, fault.Exists) {
		op, err = x.update(cmd, c, id, m, fields...)
	}
	if err != nil {
		return nil, failed(err, "write %s %s", kind, id)
	}
	last, err := a.wait(cmd.Context(), c, op)
	return last, failed(err, "write %s %s", kind, id)
}

// listOf makes a command that lists the resources of a kind.
func (a *tool) listOf(kind string) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the " + kind + "s", Args: takes(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			x, err := apiNamed(kind)
			if err != nil {
				return err
			}
			return a.with(func(c *client) error {
				response, items, err := x.list(cmd.Context(), c, "")
				if err != nil {
					return err
				}
				return a.printTable(response, a.resourceTable(x, items), "there are no "+x.plural)
			})
		},
	}
}

func (a *tool) secretDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a secret", Args: takes(1, 1, "a name"), ValidArgsFunction: a.completeNames("secret"),
		RunE: func(cmd *cobra.Command, args []string) error {
			x, err := apiNamed("secret")
			if err != nil {
				return err
			}
			return a.with(func(c *client) error { return a.remove(cmd, c, x, args[0], "", waiting{wait: true}) })
		},
	}
}
