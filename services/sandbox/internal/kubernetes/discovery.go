package kubernetes

import (
	"net/http"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
)

func serverVersion() version.Info {
	return version.Info{
		Major: "1", Minor: "37", GitVersion: "v1.37.2", GitTreeState: "clean", GitCommit: "sandbox",
		BuildDate: "2026-10-01T00:00:00Z", GoVersion: "go1.26", Compiler: "gc", Platform: "linux/amd64",
		EmulationMajor: "1", EmulationMinor: "37", MinCompatibilityMajor: "1", MinCompatibilityMinor: "36",
	}
}

const aggregatedType = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

func wantsAggregated(r *http.Request) bool {
	for _, part := range strings.Split(r.Header.Get("Accept"), ",") {
		part = strings.ReplaceAll(strings.TrimSpace(part), " ", "")
		if strings.HasPrefix(part, "application/json") && strings.Contains(part, "g=apidiscovery.k8s.io") &&
			strings.Contains(part, "as=APIGroupDiscoveryList") && (strings.Contains(part, "v=v2;") || strings.HasSuffix(part, "v=v2")) {
			return true
		}
	}
	return false
}

func (s *Server) serveRoot(q *request) error {
	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	paths := []string{"/api", "/api/v1", "/apis"}
	for _, g := range s.catalog.groupVersions() {
		if g.Name == "" {
			continue
		}
		paths = append(paths, "/apis/"+g.Name)
		for _, v := range g.Versions {
			paths = append(paths, "/apis/"+v.GroupVersion)
		}
	}
	paths = append(paths, "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version")
	writeJSON(q.w, http.StatusOK, metav1.RootPaths{Paths: paths})
	return nil
}

func (s *Server) serveCoreVersions(q *request) error {
	if wantsAggregated(q.http) {
		return s.serveAggregated(q, true)
	}
	writeJSON(q.w, http.StatusOK, metav1.APIVersions{
		TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"},
		ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: q.http.Host}},
	})
	return nil
}

func (s *Server) serveGroups(q *request) error {
	if wantsAggregated(q.http) {
		return s.serveAggregated(q, false)
	}
	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
	for _, g := range s.catalog.groupVersions() {
		if g.Name != "" {
			list.Groups = append(list.Groups, g)
		}
	}
	writeJSON(q.w, http.StatusOK, list)
	return nil
}

func (s *Server) serveGroup(q *request, name string) error {
	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	for _, g := range s.catalog.groupVersions() {
		if g.Name == name && name != "" {
			g.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
			writeJSON(q.w, http.StatusOK, g)
			return nil
		}
	}
	return errNoPath()
}

func (s *Server) serveResources(q *request, gv schema.GroupVersion) error {
	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	list := metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: gv.String()}
	for _, r := range s.catalog.sorted() {
		if r.gvk.GroupVersion() != gv {
			continue
		}
		list.APIResources = append(list.APIResources, metav1.APIResource{
			Name: r.plural, SingularName: r.singular, Namespaced: r.namespaced, Kind: r.gvk.Kind, Verbs: r.allVerbs(),
			ShortNames: r.short, Categories: r.categories,
		})
		for _, sub := range subresources(r) {
			item := metav1.APIResource{Name: r.plural + "/" + sub.name, Namespaced: r.namespaced, Kind: sub.gvk.Kind, Verbs: sub.verbs}
			if sub.gvk.GroupVersion() != gv {
				item.Group, item.Version = sub.gvk.Group, sub.gvk.Version
			}
			list.APIResources = append(list.APIResources, item)
		}
	}
	if len(list.APIResources) == 0 {
		return errNoPath()
	}
	writeJSON(q.w, http.StatusOK, list)
	return nil
}

func subresources(r *resource) []extraSubresource {
	list := r.extra
	if r.status {
		list = append(list[:len(list):len(list)], extraSubresource{"status", r.gvk, []string{"get", "patch", "update"}})
	}
	return list
}

// serveAggregated answers the discovery of all groups in one document.
func (s *Server) serveAggregated(q *request, core bool) error {
	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	list := apidiscoveryv2.APIGroupDiscoveryList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: "apidiscovery.k8s.io/v2"}}
	resources := s.catalog.sorted()
	for _, g := range s.catalog.groupVersions() {
		if (g.Name == "") != core {
			continue
		}
		group := apidiscoveryv2.APIGroupDiscovery{}
		group.Name = g.Name
		for _, v := range g.Versions {
			versioned := apidiscoveryv2.APIVersionDiscovery{Version: v.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
			for _, r := range resources {
				if r.gvk.Group == g.Name && r.gvk.Version == v.Version {
					versioned.Resources = append(versioned.Resources, aggregatedResource(r))
				}
			}
			group.Versions = append(group.Versions, versioned)
		}
		list.Items = append(list.Items, group)
	}
	raw, err := encodeObject(&list)
	if err != nil {
		return err
	}
	q.w.Header().Set("Vary", "Accept")
	writeRaw(q.w, http.StatusOK, aggregatedType, raw)
	return nil
}

func aggregatedResource(r *resource) apidiscoveryv2.APIResourceDiscovery {
	kind := func(gvk schema.GroupVersionKind) *metav1.GroupVersionKind {
		return &metav1.GroupVersionKind{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}
	}
	d := apidiscoveryv2.APIResourceDiscovery{
		Resource: r.plural, ResponseKind: kind(r.gvk), Scope: apidiscoveryv2.ScopeCluster, SingularResource: r.singular,
		Verbs: r.allVerbs(), ShortNames: r.short, Categories: r.categories,
	}
	if r.namespaced {
		d.Scope = apidiscoveryv2.ScopeNamespace
	}
	for _, sub := range subresources(r) {
		d.Subresources = append(d.Subresources, apidiscoveryv2.APISubresourceDiscovery{
			Subresource: sub.name, ResponseKind: kind(sub.gvk), Verbs: sub.verbs,
		})
	}
	return d
}
