package kubernetes

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/kubernetes"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
)

// clusters adopts the cluster that the session leads to. Nothing is made, marked or deleted there. Its id is the uid of
// the namespace kube-system, by which Kubernetes clusters are told apart.
type clusters struct{ session *cloud.Session }

type (
	clusterRequest = driver.Request[*containerv1.ClusterSpec]
	clusterSeen    = driver.Observation[*containerv1.ClusterObserved]
)

// Adopts tells that the cluster lives on when it is released.
func (c *clusters) Adopts() bool { return true }

// Find finds nothing, since nothing is marked.
func (c *clusters) Find(context.Context, clusterRequest) ([]string, error) { return []string{}, nil }

// Create gives the id of the cluster.
func (c *clusters) Create(ctx context.Context, r clusterRequest) (string, error) {
	id, err := c.id(ctx)
	return id, fault.Wrap(err, "adopt cluster %s", r.Name)
}

func (c *clusters) id(ctx context.Context) (string, error) {
	ns, err := c.session.Typed.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return "", fault.Wrap(cloud.Fault(err), "read namespace %s", metav1.NamespaceSystem)
	}
	return string(ns.UID), nil
}

// Observe reads the cluster's version and nodes. Any id but the cluster's own does not exist.
func (c *clusters) Observe(ctx context.Context, ids []string) (map[string]clusterSeen, error) {
	id, err := c.id(ctx)
	if err != nil {
		return nil, fault.Wrap(err, "observe cluster of %s", c.session.Account)
	}
	version, err := c.session.Version(ctx)
	if err != nil {
		return nil, fault.Wrap(err, "observe cluster of %s", c.session.Account)
	}
	all, ready, err := countNodes(ctx, c.session)
	if err != nil {
		return nil, fault.Wrap(err, "observe cluster of %s", c.session.Account)
	}
	out := map[string]clusterSeen{}
	for _, wanted := range ids {
		if wanted == id {
			out[id] = clusterSeen{State: driver.Ready, Observed: &containerv1.ClusterObserved{
				Version: version.GitVersion, Endpoint: c.session.Endpoint, Nodes: all, ReadyNodes: ready,
			}}
		}
	}
	return out, nil
}

// Update has nothing to change.
func (c *clusters) Update(context.Context, string, clusterRequest) error { return nil }

// Delete takes nothing away.
func (c *clusters) Delete(context.Context, string) error { return nil }

// Check reports whether each item can be adopted with these credentials.
func (c *clusters) Check(ctx context.Context, items []driver.Item[*containerv1.ClusterSpec]) ([]driver.Finding, []driver.QuotaUse, error) {
	_, err := c.id(ctx)
	if fault.Is(err, fault.Denied) || fault.Is(err, fault.NotFound) {
		var findings []driver.Finding
		for _, i := range items {
			if i.Change != kindv1.Change_CHANGE_DELETE {
				findings = append(findings, driver.Finding{Name: i.Name, Field: "spec.credentials", Fault: fault.Wrap(err, "adopt cluster; its identity must be allowed to read namespaces and nodes")})
			}
		}
		return findings, nil, nil
	}
	return nil, nil, fault.Wrap(err, "check cluster of %s", c.session.Account)
}

// countNodes counts the nodes and those that are ready.
func countNodes(ctx context.Context, s *cloud.Session) (all, ready int32, err error) {
	opts := metav1.ListOptions{Limit: pageSize}
	for {
		page, err := s.Typed.CoreV1().Nodes().List(ctx, opts)
		if err != nil {
			return 0, 0, fault.Wrap(cloud.Fault(err), "list nodes")
		}
		for _, n := range page.Items {
			all++
			for _, c := range n.Status.Conditions {
				if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
					ready++
				}
			}
		}
		if opts.Continue = page.Continue; opts.Continue == "" {
			return all, ready, nil
		}
	}
}
