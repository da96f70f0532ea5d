package rehearse

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/services/weft/internal/contextfile"
)

// sandbox is the simulated cloud of the private installation, by its admin API and by the APIs that it imitates.
type sandbox struct {
	url, token string
	kubeFile   string
	client     *http.Client
}

func newSandbox(at *contextfile.Sandbox) *sandbox {
	return &sandbox{url: at.Admin, token: at.Token, kubeFile: at.Kubeconfig, client: &http.Client{Timeout: 30 * time.Second}}
}

// quick are latencies that keep the order of things and cost next to no time.
var quick = map[string]any{
	"request": "0s", "state": "10ms", "compute.server.active": "20ms", "compute.server.deleted": "10ms", "volume.volume.available": "10ms",
}

// plenty are quotas that no document reaches.
var plenty = map[string][]string{
	"compute": {"instances", "cores", "ram", "key_pairs", "server_groups"},
	"network": {"network", "subnet", "port", "router", "floatingip", "security_group", "security_group_rule"},
	"volume":  {"volumes", "gigabytes", "snapshots"},
}

// project is whose credentials `weft dev` registers the sandbox with.
const project = "demo"

// furnish makes the sandbox quick and roomy, and makes in it what a document names.
func (c *sandbox) furnish(ctx context.Context, n names) error {
	if err := c.admin(ctx, http.MethodPut, "/_sandbox/latencies", quick, nil); err != nil {
		return err
	}
	for service, keys := range plenty {
		limits := map[string]any{"project": project, "service": service}
		for _, k := range keys {
			limits[k] = -1
		}
		if err := c.admin(ctx, http.MethodPut, "/_sandbox/quotas", limits, nil); err != nil {
			return err
		}
	}
	member, err := c.login(ctx, project)
	if err != nil {
		return err
	}
	operator, err := c.login(ctx, "admin")
	if err != nil {
		return err
	}
	for _, make := range []func() error{
		func() error { return c.images(ctx, member, n[fieldImage]) },
		func() error { return c.flavors(ctx, operator, n[fieldFlavor]) },
		func() error { return c.externals(ctx, operator, n[fieldExternal]) },
		func() error { return c.namespaces(ctx, n[fieldNamespace]) },
	} {
		if err := make(); err != nil {
			return err
		}
	}
	return nil
}

// named is what the lists of OpenStack's services tell of each thing.
type named struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

func missing(have []named, want []string) []string {
	return slices.DeleteFunc(slices.Clone(want), func(w string) bool {
		return slices.ContainsFunc(have, func(h named) bool { return h.ID == w || h.Name == w })
	})
}

// uuid matches what a cloud takes for an id.
var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

func (c *sandbox) images(ctx context.Context, token string, want []string) error {
	var list struct {
		Images []named `json:"images"`
	}
	if err := c.call(ctx, http.MethodGet, "/image/v2/images", token, nil, &list); err != nil {
		return err
	}
	for _, name := range missing(list.Images, want) {
		image := map[string]any{"name": name, "disk_format": "raw", "container_format": "bare"}
		if uuid.MatchString(name) {
			image["id"] = name
		}
		var made named
		if err := c.call(ctx, http.MethodPost, "/image/v2/images", token, image, &made); err != nil {
			return fault.Wrap(err, "make the image %s", name)
		}
		header := map[string]string{"X-Auth-Token": token, "Content-Type": "application/octet-stream"}
		if err := c.do(ctx, c.client, http.MethodPut, c.url+"/image/v2/images/"+made.ID+"/file", header, strings.NewReader("rehearsal"), nil); err != nil {
			return fault.Wrap(err, "fill the image %s", name)
		}
	}
	return nil
}

func (c *sandbox) flavors(ctx context.Context, token string, want []string) error {
	var list struct {
		Flavors []named `json:"flavors"`
	}
	if err := c.call(ctx, http.MethodGet, "/compute/v2.1/flavors", token, nil, &list); err != nil {
		return err
	}
	for _, name := range missing(list.Flavors, want) {
		flavor := map[string]any{"name": name, "vcpus": 1, "ram": 512, "disk": 40}
		if uuid.MatchString(name) {
			flavor["id"] = name
		}
		if err := c.call(ctx, http.MethodPost, "/compute/v2.1/flavors", token, map[string]any{"flavor": flavor}, nil); err != nil {
			return fault.Wrap(err, "make the flavor %s", name)
		}
	}
	return nil
}

// externals makes external networks. One that the document calls by its id bears the id as its name.
func (c *sandbox) externals(ctx context.Context, token string, want []string) error {
	var list struct {
		Networks []named `json:"networks"`
	}
	if err := c.call(ctx, http.MethodGet, "/network/v2.0/networks?router:external=true", token, nil, &list); err != nil {
		return err
	}
	for i, name := range missing(list.Networks, want) {
		var made struct {
			Network named `json:"network"`
		}
		network := map[string]any{"network": map[string]any{"name": name, "router:external": true}}
		if err := c.call(ctx, http.MethodPost, "/network/v2.0/networks", token, network, &made); err != nil {
			return fault.Wrap(err, "make the external network %s", name)
		}
		subnet := map[string]any{"subnet": map[string]any{"network_id": made.Network.ID, "ip_version": 4, "enable_dhcp": false, "cidr": benchmark[i%len(benchmark)]}}
		if err := c.call(ctx, http.MethodPost, "/network/v2.0/subnets", token, subnet, nil); err != nil {
			return fault.Wrap(err, "make a subnet of the external network %s", name)
		}
	}
	return nil
}

// benchmark are ranges that no network of a person uses (RFC 2544, RFC 5737).
var benchmark = []string{"198.18.0.0/16", "198.19.0.0/16", "198.51.100.0/24", "203.0.113.0/24"}

// namespaces makes namespaces in the simulated cluster.
func (c *sandbox) namespaces(ctx context.Context, want []string) error {
	if len(want) == 0 {
		return nil
	}
	server, client, err := c.cluster()
	if err != nil {
		return err
	}
	for _, name := range want {
		body, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name}})
		if err != nil {
			return fault.Wrap(err, "make the namespace %s", name)
		}
		err = c.do(ctx, client, http.MethodPost, server+"/api/v1/namespaces", map[string]string{"Content-Type": "application/json"}, bytes.NewReader(body), nil)
		if err != nil && !fault.Is(err, fault.Exists) {
			return fault.Wrap(err, "make the namespace %s", name)
		}
	}
	return nil
}

func (c *sandbox) kubeconfig() (string, error) {
	data, err := os.ReadFile(c.kubeFile)
	return string(data), fault.Wrap(err, "read the simulated cluster's kubeconfig")
}

// cluster gives the address of the simulated cluster, and a client with the certificates of its kubeconfig.
func (c *sandbox) cluster() (string, *http.Client, error) {
	text, err := c.kubeconfig()
	if err != nil {
		return "", nil, err
	}
	var config struct {
		Clusters []struct {
			Cluster struct {
				Server string `json:"server"`
				CA     []byte `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
		Users []struct {
			User struct {
				Cert []byte `json:"client-certificate-data"`
				Key  []byte `json:"client-key-data"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := yaml.Unmarshal([]byte(text), &config); err != nil || len(config.Clusters) == 0 || len(config.Users) == 0 {
		return "", nil, fault.As(fault.Internal, fault.Wrap(errors.Join(err, errors.New("it names no cluster")), "read the simulated cluster's kubeconfig"))
	}
	cert, err := tls.X509KeyPair(config.Users[0].User.Cert, config.Users[0].User.Key)
	if err != nil {
		return "", nil, fault.As(fault.Internal, fault.Wrap(err, "read the simulated cluster's certificate"))
	}
	trust := x509.NewCertPool()
	trust.AppendCertsFromPEM(config.Clusters[0].Cluster.CA)
	transport := &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: trust, MinVersion: tls.VersionTLS13}}
	return config.Clusters[0].Cluster.Server, &http.Client{Transport: transport, Timeout: c.client.Timeout}, nil
}

// login gets a token of a user in the project of the same name.
func (c *sandbox) login(ctx context.Context, user string) (string, error) {
	domain := map[string]any{"name": "Default"}
	body, err := json.Marshal(map[string]any{"auth": map[string]any{
		"identity": map[string]any{"methods": []string{"password"}, "password": map[string]any{
			"user": map[string]any{"name": user, "password": "sandbox", "domain": domain},
		}},
		"scope": map[string]any{"project": map[string]any{"name": user, "domain": domain}},
	}})
	if err != nil {
		return "", fault.Wrap(err, "log in at the simulated cloud")
	}
	header := http.Header{}
	err = c.do(ctx, c.client, http.MethodPost, c.url+"/identity/v3/auth/tokens", map[string]string{"Content-Type": "application/json"}, bytes.NewReader(body), func(h http.Header, _ []byte) error {
		header = h
		return nil
	})
	return header.Get("X-Subject-Token"), fault.Wrap(err, "log in at the simulated cloud")
}

// inventory lists what exists in the simulated clouds, but for their own furniture.
func (c *sandbox) inventory(ctx context.Context) ([]item, error) {
	var answer struct {
		Items []item `json:"items"`
	}
	err := c.admin(ctx, http.MethodGet, "/_sandbox/inventory", nil, &answer)
	return answer.Items, fault.Wrap(err, "list the simulated cloud's inventory")
}

func (c *sandbox) admin(ctx context.Context, method, path string, in, out any) error {
	return c.send(ctx, method, path, "X-Sandbox-Token", c.token, in, out)
}

func (c *sandbox) call(ctx context.Context, method, path, token string, in, out any) error {
	return c.send(ctx, method, path, "X-Auth-Token", token, in, out)
}

func (c *sandbox) send(ctx context.Context, method, path, tokenHeader, token string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return fault.As(fault.Internal, fault.Wrap(err, "encode %s %s", method, path))
		}
		body = bytes.NewReader(data)
	}
	return c.do(ctx, c.client, method, c.url+path, map[string]string{tokenHeader: token, "Content-Type": "application/json"}, body, func(_ http.Header, data []byte) error {
		if out == nil {
			return nil
		}
		return json.Unmarshal(data, out)
	})
}

func (c *sandbox) do(ctx context.Context, client *http.Client, method, url string, header map[string]string, body io.Reader, read func(http.Header, []byte) error) (err error) {
	defer func() { err = fault.Wrap(err, "%s %s", method, url) }()
	r, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return fault.As(fault.Internal, err)
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	answer, err := client.Do(r)
	if err != nil {
		return fault.As(fault.Unavailable, err)
	}
	data, err := io.ReadAll(answer.Body)
	if err = errors.Join(err, answer.Body.Close()); err != nil {
		return fault.As(fault.Unavailable, err)
	}
	switch {
	case answer.StatusCode == http.StatusConflict:
		return fault.New(fault.Exists, "%s", data)
	case answer.StatusCode >= 300:
		return fault.New(fault.Internal, "%s: %s", answer.Status, data)
	case read == nil:
		return nil
	}
	return fault.As(fault.Internal, read(answer.Header, data))
}
