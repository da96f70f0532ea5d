// Package kubernetes makes the container service's kinds real on a Kubernetes cluster.
//
// Every object that is made bears two labels: weft.cloud/key, the key of the resource that it belongs to, and
// weft.cloud/kind, its part in it. Finding, deleting and listing go by these labels over all kinds of objects that a
// resource can consist of, so that nothing is left behind whichever call was the last one before a crash.
//
// The id of a workload or a manifest is namespace/name/key of its main object: with the key in it, its parts are found
// even after the main object is gone.
package kubernetes

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/kubernetes"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
)

// Name is the provider's name, as credentials have it.
const Name = "kubernetes"

// The resource types that this provider makes real.
const (
	typeCluster  = "container.weft.cloud/Cluster"
	typeWorkload = "container.weft.cloud/Workload"
	typeManifest = "container.weft.cloud/Manifest"
)

// Provider is Kubernetes for the container service. Sessions are shared by credentials.
func Provider(sessions *cloud.Sessions) driver.Provider {
	open := func(ctx context.Context, c driver.Credentials) (driver.Session, error) {
		s, err := sessions.Open(ctx, c)
		if err != nil {
			return driver.Session{}, err
		}
		return driver.Session{
			Drivers: map[string]driver.Any{
				typeCluster:  driver.Erase[*containerv1.ClusterSpec, *containerv1.ClusterObserved](&clusters{s}),
				typeWorkload: driver.Erase[*containerv1.WorkloadSpec, *containerv1.WorkloadObserved](&workloads{s, time.Now}),
				typeManifest: driver.Erase[*containerv1.ManifestSpec, *containerv1.ManifestObserved](&manifests{s, time.Now}),
			},
			Probe: func(ctx context.Context) ([]driver.Feature, error) { return probe(ctx, s) },
		}, nil
	}
	return driver.Provider{Name: Name, Open: open}
}

// groupsOfInterest are the API groups whose presence decides what a tenant can put into a manifest, beside the built-in.
var groupsOfInterest = []string{
	"apiextensions.k8s.io", "autoscaling", "batch", "cert-manager.io", "gateway.networking.k8s.io", "helm.toolkit.fluxcd.io",
	"metrics.k8s.io", "monitoring.coreos.com", "networking.k8s.io", "policy", "snapshot.storage.k8s.io",
}

// probe asks a cluster what it can do.
func probe(ctx context.Context, s *cloud.Session) ([]driver.Feature, error) {
	version, err := s.Version(ctx)
	if err != nil {
		return nil, fault.Wrap(err, "probe cluster of %s", s.Account)
	}
	all, ready, err := countNodes(ctx, s)
	if err != nil {
		return nil, fault.Wrap(err, "probe cluster of %s", s.Account)
	}
	features := []driver.Feature{
		{Service: "kubernetes", Name: "version", Value: version.GitVersion},
		{Service: "kubernetes", Name: "platform", Value: version.Platform},
		{Service: "kubernetes", Name: "nodes", Value: strconv.Itoa(int(all))},
		{Service: "kubernetes", Name: "ready nodes", Value: strconv.Itoa(int(ready))},
	}
	classes, err := s.Typed.StorageV1().StorageClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fault.Wrap(cloud.Fault(err), "probe cluster of %s: list storage classes", s.Account)
	}
	for _, c := range classes.Items {
		value := c.Provisioner
		if c.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" {
			value += " (default)"
		}
		features = append(features, driver.Feature{Service: "storage", Name: "class " + c.Name, Value: value})
	}
	groups, err := apiGroups(ctx, s)
	if err != nil {
		return nil, fault.Wrap(err, "probe cluster of %s: list API groups", s.Account)
	}
	for _, name := range groupsOfInterest {
		if versions, served := groups[name]; served {
			features = append(features, driver.Feature{Service: "api", Name: name, Value: strings.Join(versions, ", ")})
		}
	}
	return features, nil
}

// apiGroups gives the API groups that the cluster serves, with their versions.
func apiGroups(ctx context.Context, s *cloud.Session) (map[string][]string, error) {
	list := &metav1.APIGroupList{}
	if err := s.Typed.Discovery().RESTClient().Get().AbsPath("/apis").Do(ctx).Into(list); err != nil {
		return nil, cloud.Fault(err)
	}
	out := map[string][]string{}
	for _, g := range list.Groups {
		for _, v := range g.Versions {
			out[g.Name] = append(out[g.Name], v.Version)
		}
	}
	return out, nil
}

// describe gives an object in a message: Deployment shop/web.
func describe(kind, namespace, name string) string {
	if namespace == "" {
		return fmt.Sprintf("%s %s", kind, name)
	}
	return fmt.Sprintf("%s %s/%s", kind, namespace, name)
}
