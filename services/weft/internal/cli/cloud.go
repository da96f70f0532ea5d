package cli

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"sigs.k8s.io/yaml"

	"github.com/weftcloud/weft/pkg/fault"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

func (a *tool) cloudCommand() *cobra.Command {
	return group("cloud", "Register clouds and see what they can do", a.cloudAdd(), a.cloudProbe(), a.cloudPause(), a.cloudResume(), a.listOf("cloud"))
}

// access is what is needed to register a cloud.
type access struct {
	driver, osCloud, endpoint, region, caFile          string
	username, passwordFile, project                    string
	userDomain, projectDomain                          string
	applicationCredential, applicationCredentialSecret string
	tenants                                            []string
}

func (a *tool) cloudAdd() *cobra.Command {
	var in access
	cmd := &cobra.Command{
		Use: "add NAME --driver openstack (--os-cloud NAME | --endpoint URL …)", Short: "Register a cloud, or change a registered one",
		Long: `Register a cloud, or change a registered one.

Of a registered one only where it is, its credentials and, if given, the tenants change; one that is paused stays so.
All tenants may use it unless --only-for names some; --only-for "" opens it to all again.
The credentials become the secret cloud-NAME of the tenant, and are never shown again. With --os-cloud they are read from
clouds.yaml: $OS_CLIENT_CONFIG_FILE, else ./clouds.yaml, else ~/.config/openstack/clouds.yaml.`,
		Example: "  weft cloud add lab --driver openstack --os-cloud lab",
		Args:    takes(1, 1, "a name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if in.driver != "openstack" {
				return misused(cmd, "--driver %q: the driver that there is is openstack", in.driver)
			}
			if (in.osCloud == "") == (in.endpoint == "") {
				return misused(cmd, "give either --os-cloud or --endpoint")
			}
			if len(in.tenants) > 1 && slices.Contains(in.tenants, "") {
				return misused(cmd, `--only-for "" opens the cloud to all tenants; give it without another --only-for`)
			}
			spec, data, err := a.credentials(in)
			if err != nil {
				return err
			}
			return a.with(func(c *client) error {
				parent, err := c.parent()
				if err != nil {
					return err
				}
				secret := "cloud-" + args[0]
				if _, err := a.putSecret(cmd, c, secret, data); err != nil {
					return err
				}
				spec.Driver, spec.Credentials = in.driver, parent+"/secrets/"+secret
				fields := []string{"spec.driver", "spec.endpoint", "spec.region", "spec.credentials"}
				if cmd.Flags().Changed("only-for") {
					fields = append(fields, "spec.tenants")
					spec.Tenants = tenantNames(in.tenants)
				}
				op, err := a.put(cmd, c, "cloud", args[0], &orchestratorv1.Cloud{Spec: spec}, fields...)
				if err != nil {
					return err
				}
				return a.print(op, func() string {
					return fmt.Sprintf("%s cloud %s at %s\n  ask what it can do: weft cloud probe %s\n", a.style(a.p.OutIsTerminal).green("ready:"), args[0], spec.GetEndpoint(), args[0])
				})
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&in.driver, "driver", "openstack", "the driver")
	f.StringVar(&in.osCloud, "os-cloud", "", "the cloud's `NAME` in clouds.yaml")
	f.StringVar(&in.endpoint, "endpoint", "", "the identity endpoint, e.g. https://cloud.example:5000/v3")
	f.StringVar(&in.region, "region", "", "the region, if there are several")
	f.StringVar(&in.caFile, "ca-file", "", "who issued the cloud's certificates, as a PEM `FILE`")
	f.StringVar(&in.username, "username", "", "the user")
	f.StringVar(&in.passwordFile, "password-file", "", "the password's `FILE`; - for standard input")
	f.StringVar(&in.project, "project", "", "the project")
	f.StringVar(&in.userDomain, "user-domain", "Default", "the user's domain")
	f.StringVar(&in.projectDomain, "project-domain", "Default", "the project's domain")
	f.StringArrayVar(&in.tenants, "only-for", nil, "a `TENANT` that may use it, where not all may; may be given again; \"\" for all")
	f.StringVar(&in.applicationCredential, "application-credential-id", "", "an application credential, instead of a user")
	f.StringVar(&in.applicationCredentialSecret, "application-credential-secret-file", "", "its secret's `FILE`; - for standard input")
	return cmd
}

// tenantNames gives the full names of the tenants that --only-for names; none if it stands alone and empty, for all tenants.
func tenantNames(given []string) []string {
	var names []string
	for _, tenant := range given {
		if tenant != "" {
			names = append(names, "tenants/"+base(tenant))
		}
	}
	return names
}

func (a *tool) cloudPause() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "pause NAME --reason TEXT", Short: "Begin nothing more at a cloud for now; what is under way there is ended",
		Args: takes(1, 1, "a cloud's name"), ValidArgsFunction: a.completeNames("cloud"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return misused(cmd, "say with --reason why")
			}
			return a.holdCloud(cmd, args[0], reason, "paused: cloud "+args[0]+"\n  let work go on: weft cloud resume "+args[0]+"\n")
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; it is shown with the cloud")
	return cmd
}

func (a *tool) cloudResume() *cobra.Command {
	return &cobra.Command{
		Use: "resume NAME", Short: "Let work at a paused cloud go on", Args: takes(1, 1, "a cloud's name"), ValidArgsFunction: a.completeNames("cloud"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.holdCloud(cmd, args[0], "", "work goes on at cloud "+args[0]+"\n")
		},
	}
}

// holdCloud writes why nothing is to be begun at a cloud; empty lets work go on.
func (a *tool) holdCloud(cmd *cobra.Command, name, reason, done string) error {
	return a.with(func(c *client) error {
		op, err := orchestratorv1.NewCloudServiceClient(c.conn).UpdateCloud(cmd.Context(), &orchestratorv1.UpdateCloudRequest{
			Cloud: &orchestratorv1.Cloud{Name: "clouds/" + name, Spec: &orchestratorv1.CloudSpec{Hold: reason}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec.hold"}},
		})
		if err != nil {
			return failed(err, "change cloud %s", name)
		}
		last, err := a.wait(cmd.Context(), c, op)
		if err != nil {
			return failed(err, "change cloud %s", name)
		}
		return a.print(last, func() string { return done })
	})
}

// credentials gathers what the flags say into a cloud's spec and the values of its secret.
func (a *tool) credentials(in access) (*orchestratorv1.CloudSpec, map[string]string, error) {
	if in.osCloud != "" {
		return a.fromCloudsFile(in.osCloud)
	}
	data := map[string]string{}
	for key, value := range map[string]string{
		"username": in.username, "project_name": in.project, "user_domain_name": in.userDomain, "project_domain_name": in.projectDomain,
		"application_credential_id": in.applicationCredential,
	} {
		if value != "" {
			data[key] = value
		}
	}
	for key, path := range map[string]string{"password": in.passwordFile, "application_credential_secret": in.applicationCredentialSecret, "ca_cert": in.caFile} {
		if path == "" {
			continue
		}
		text, err := a.readFile(path)
		if err != nil {
			return nil, nil, err
		}
		data[key] = trimNewline(string(text))
	}
	if in.applicationCredential != "" {
		delete(data, "user_domain_name")
		delete(data, "project_domain_name")
	}
	return &orchestratorv1.CloudSpec{Endpoint: in.endpoint, Region: in.region}, data, nil
}

func trimNewline(s string) string {
	for len(s) > 0 && (s[len(s)-1] == '\n' || s[len(s)-1] == '\r') {
		s = s[:len(s)-1]
	}
	return s
}

// osClouds is the part of clouds.yaml that matters (openstacksdk, "Configuration").
type osClouds struct {
	Clouds map[string]struct {
		Auth struct {
			AuthURL                     string `json:"auth_url"`
			Username                    string `json:"username"`
			Password                    string `json:"password"`
			ProjectName                 string `json:"project_name"`
			UserDomainName              string `json:"user_domain_name"`
			ProjectDomainName           string `json:"project_domain_name"`
			DomainName                  string `json:"domain_name"`
			ApplicationCredentialID     string `json:"application_credential_id"`
			ApplicationCredentialSecret string `json:"application_credential_secret"`
		} `json:"auth"`
		RegionName string `json:"region_name"`
		CACert     string `json:"cacert"`
	} `json:"clouds"`
}

func (a *tool) cloudsFile() string {
	if path := a.p.Getenv("OS_CLIENT_CONFIG_FILE"); path != "" {
		return path
	}
	if _, err := os.Stat("clouds.yaml"); err == nil {
		return "clouds.yaml"
	}
	return filepath.Join(a.p.Getenv("HOME"), ".config", "openstack", "clouds.yaml")
}

func (a *tool) fromCloudsFile(name string) (*orchestratorv1.CloudSpec, map[string]string, error) {
	path := a.cloudsFile()
	text, err := a.readFile(path)
	if err != nil {
		return nil, nil, err
	}
	var file osClouds
	if err := yaml.Unmarshal(text, &file); err != nil {
		return nil, nil, &failure{what: "read " + path, err: fault.New(fault.Invalid, "it is no clouds.yaml")}
	}
	entry, ok := file.Clouds[name]
	if !ok {
		return nil, nil, &failure{what: "read " + path, err: fault.New(fault.NotFound, "there is no cloud %q in it", name), next: fmt.Sprintf("the clouds in it are %v", sortedKeys(file.Clouds))}
	}
	data := map[string]string{}
	for key, value := range map[string]string{
		"username": entry.Auth.Username, "password": entry.Auth.Password, "project_name": entry.Auth.ProjectName,
		"user_domain_name":    cmp.Or(entry.Auth.UserDomainName, entry.Auth.DomainName),
		"project_domain_name": cmp.Or(entry.Auth.ProjectDomainName, entry.Auth.DomainName), "application_credential_id": entry.Auth.ApplicationCredentialID,
		"application_credential_secret": entry.Auth.ApplicationCredentialSecret,
	} {
		if value != "" {
			data[key] = value
		}
	}
	if entry.CACert != "" {
		pem, err := a.readFile(entry.CACert)
		if err != nil {
			return nil, nil, err
		}
		data["ca_cert"] = string(pem)
	}
	return &orchestratorv1.CloudSpec{Endpoint: entry.Auth.AuthURL, Region: entry.RegionName}, data, nil
}

func (a *tool) cloudProbe() *cobra.Command {
	return &cobra.Command{
		Use: "probe NAME", Short: "Ask a cloud what it can do", Args: takes(1, 1, "a name"), ValidArgsFunction: a.completeNames("cloud"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(c *client) error {
				cloud, err := orchestratorv1.NewCloudServiceClient(c.conn).ProbeCloud(cmd.Context(), &orchestratorv1.ProbeCloudRequest{Name: "clouds/" + base(args[0])})
				if err != nil {
					return failed(err, "probe cloud %s", args[0])
				}
				t := &table{header: []string{"SERVICE", "FEATURE", "VALUE", "ASKED"}}
				for _, f := range cloud.GetObserved().GetFeatures() {
					t.add(f.GetService(), f.GetName(), f.GetValue(), age(a.p.Now(), f.GetProbeTime()))
				}
				return a.printTable(cloud, t, "the cloud told nothing")
			})
		},
	}
}
