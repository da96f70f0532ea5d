package openstack

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
)

// cloudEntry is one cloud in clouds.yaml, as far as Weft uses it. The format is the one of openstacksdk.
type cloudEntry struct {
	Auth       map[string]string `yaml:"auth"`
	RegionName string            `yaml:"region_name"`
	CACert     string            `yaml:"cacert"`
	Verify     *bool             `yaml:"verify"`
}

// credentialKeys are the keys of auth that are taken over.
var credentialKeys = []string{
	"username", "password", "project_name", "project_id", "user_domain_name", "user_domain_id", "project_domain_name",
	"project_domain_id", "application_credential_id", "application_credential_secret",
}

// FromCloudsYAML reads the credentials of one cloud from a clouds.yaml. A file named by cacert is read, relative to
// clouds.yaml, so that the credentials stand alone. The errors are NotFound and Invalid.
func FromCloudsYAML(path, name string) (driver.Credentials, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return driver.Credentials{}, fault.Wrap(fault.As(fault.NotFound, err), "read %s", path)
	}
	var file struct {
		Clouds map[string]cloudEntry `yaml:"clouds"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		return driver.Credentials{}, fault.Wrap(fault.As(fault.Invalid, err), "read %s", path)
	}
	entry, ok := file.Clouds[name]
	if !ok {
		names := make([]string, 0, len(file.Clouds))
		for n := range file.Clouds {
			names = append(names, n)
		}
		return driver.Credentials{}, fault.Wrap(Unknown("os-cloud", "cloud", name, names), "read %s", path)
	}
	c, err := entry.credentials(filepath.Dir(path))
	c.Account = "clouds/" + name
	return c, fault.Wrap(err, "read %s: cloud %s", path, name)
}

func (e cloudEntry) credentials(dir string) (driver.Credentials, error) {
	c := driver.Credentials{Driver: ProviderName, Endpoint: e.Auth["auth_url"], Region: e.RegionName, Data: map[string]string{}}
	if c.Endpoint == "" {
		return c, fault.InField("auth.auth_url", "auth_url is missing")
	}
	for _, key := range credentialKeys {
		if value := e.Auth[key]; value != "" {
			c.Data[key] = value
		}
	}
	// domain_name and domain_id are openstacksdk's short form for user and project at once
	for _, part := range []string{"name", "id"} {
		for _, whose := range []string{"user_domain_", "project_domain_"} {
			if value := e.Auth["domain_"+part]; value != "" && c.Data[whose+part] == "" {
				c.Data[whose+part] = value
			}
		}
	}
	if e.Verify != nil && !*e.Verify {
		return c, fault.InField("verify", "verify: false is not supported; give the cloud's certificate authority as cacert")
	}
	if e.CACert == "" {
		return c, nil
	}
	if !filepath.IsAbs(e.CACert) && !strings.HasPrefix(e.CACert, "~") {
		e.CACert = filepath.Join(dir, e.CACert)
	}
	pem, err := os.ReadFile(e.CACert)
	if err != nil {
		return c, fault.Wrap(fault.As(fault.NotFound, err), "read cacert")
	}
	c.Data["ca_cert"] = string(pem)
	return c, nil
}
