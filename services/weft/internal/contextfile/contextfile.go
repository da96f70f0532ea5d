// Package contextfile reads and writes the file that tells the command line which installation to talk to, and as whom.
package contextfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/weftcloud/weft/pkg/fault"
)

// File is a context: one installation, one identity, one tenant.
type File struct {
	// Endpoint is the front door's address, host:port.
	Endpoint string `json:"endpoint"`
	// Tenant is the tenant's id that commands work in; --tenant outweighs it.
	Tenant string `json:"tenant,omitempty"`
	// CA is who the front door's certificate must be issued by: PEM, or the path of a PEM file, taken from the
	// context's folder if it is relative.
	CA string `json:"ca"`
	// Cert and Key are the identity, in the same forms.
	Cert string `json:"cert"`
	Key  string `json:"key"`
	// NATS is the URL at which events can be read; empty if there is none.
	NATS string `json:"nats,omitempty"`
	// Sandbox says where the sandbox is; absent if there is none.
	Sandbox *Sandbox `json:"sandbox,omitempty"`
}

// Sandbox says where the parts of the sandbox are.
type Sandbox struct {
	// OpenStack is the URL of its Keystone.
	OpenStack string `json:"openstack,omitempty"`
	// Kubernetes is the URL of its Kubernetes API.
	Kubernetes string `json:"kubernetes,omitempty"`
	// Admin is the URL below which /_sandbox/ is.
	Admin string `json:"admin,omitempty"`
	// Token opens the admin API; it goes in the header X-Sandbox-Token.
	Token string `json:"token,omitempty"`
	// CA is who issued its certificates, as PEM; empty means the context's CA.
	CA string `json:"ca,omitempty"`
	// Kubeconfig and CloudsFile are paths of files for kubectl and the openstack client; empty if there are none.
	Kubeconfig string `json:"kubeconfig,omitempty"`
	CloudsFile string `json:"cloudsFile,omitempty"`
}

// DefaultPath is where the context is when nothing else is said: weft/context.yaml in $XDG_CONFIG_HOME, else in
// ~/.config.
func DefaultPath(getenv func(string) string) string {
	if dir := getenv("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, "weft", "context.yaml")
	}
	return filepath.Join(getenv("HOME"), ".config", "weft", "context.yaml")
}

// Load reads a context. NotFound means that there is no such file; Invalid that it is wrong.
func Load(path string) (*File, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "there is no context file %s", path)
	}
	if err != nil {
		return nil, fault.Wrap(err, "read the context %s", path)
	}
	f := &File{}
	if err := yaml.UnmarshalStrict(data, f); err != nil {
		return nil, fault.New(fault.Invalid, "read the context %s: %s", path, err)
	}
	for _, pem := range []*string{&f.CA, &f.Cert, &f.Key} {
		if *pem, err = material(*pem, filepath.Dir(path)); err != nil {
			return nil, fault.Wrap(err, "read the context %s", path)
		}
	}
	for name, value := range map[string]string{"endpoint": f.Endpoint, "ca": f.CA, "cert": f.Cert, "key": f.Key} {
		if value == "" {
			return nil, fault.InField(name, "the context %s has no %s", path, name)
		}
	}
	return f, nil
}

// material gives PEM as it is, and reads it from the file where a path stands.
func material(value, dir string) (string, error) {
	if value == "" || strings.Contains(value, "-----BEGIN ") {
		return value, nil
	}
	if !filepath.IsAbs(value) {
		value = filepath.Join(dir, value)
	}
	data, err := os.ReadFile(value)
	return string(data), err
}

// Save writes a context for its owner only, whole or not at all.
func Save(path string, f *File) error {
	data, err := yaml.Marshal(f)
	if err != nil {
		return fault.Wrap(err, "write the context %s", path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fault.Wrap(err, "write the context %s", path)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".context-*") // made with mode 0600
	if err != nil {
		return fault.Wrap(err, "write the context %s", path)
	}
	_, writeErr := tmp.Write(data)
	if err := errors.Join(writeErr, tmp.Close()); err != nil {
		return fault.Wrap(errors.Join(err, os.Remove(tmp.Name())), "write the context %s", path)
	}
	return fault.Wrap(os.Rename(tmp.Name(), path), "write the context %s", path)
}
