package kubernetes

import (
	"fmt"
	"sort"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/version"
)

// resource is one served collection of the API: what discovery says of it and how its objects are kept.
type resource struct {
	gvk        schema.GroupVersionKind
	plural     string
	singular   string
	namespaced bool
	short      []string
	categories []string
	status     bool     // has a status subresource
	scale      bool     // has a scale subresource
	generation bool     // spec changes count up metadata.generation
	needsRV    bool     // an update must name the resourceVersion it read
	verbs      []string // all eight when nil
	custom     *customResource
	fields     []string // field selectors beside metadata.name and metadata.namespace
	extra      []extraSubresource

	managers map[string]*managedfields.FieldManager // by subresource, made on first use
}

// extraSubresource is a subresource other than status and scale, for discovery only.
type extraSubresource struct {
	name  string
	gvk   schema.GroupVersionKind
	verbs []string
}

// customResource is what a CustomResourceDefinition says beyond names.
type customResource struct {
	crd     string
	version apiextensionsv1.CustomResourceDefinitionVersion
}

func (r *resource) gvr() schema.GroupVersionResource {
	return r.gvk.GroupVersion().WithResource(r.plural)
}

func (r *resource) groupResource() schema.GroupResource {
	return schema.GroupResource{Group: r.gvk.Group, Resource: r.plural}
}

func (r *resource) storageKey() string {
	if r.gvk.Group == "" {
		return r.plural
	}
	return r.plural + "." + r.gvk.Group
}

func (r *resource) allVerbs() []string {
	if r.verbs != nil {
		return r.verbs
	}
	return []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
}

func (r *resource) allows(verb string) bool {
	for _, v := range r.allVerbs() {
		if v == verb {
			return true
		}
	}
	return false
}

// newScheme knows the Go types of every group that is served, and no other.
func newScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, networkingv1.AddToScheme, rbacv1.AddToScheme,
		policyv1.AddToScheme, storagev1.AddToScheme, discoveryv1.AddToScheme, coordinationv1.AddToScheme,
		autoscalingv1.AddToScheme, autoscalingv2.AddToScheme, apiextensionsv1.AddToScheme, authorizationv1.AddToScheme,
		authenticationv1.AddToScheme, schedulingv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("register API types: %w", err)
		}
	}
	return scheme, nil
}

var (
	podFields = []string{
		"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
		"status.phase", "status.podIP", "status.nominatedNodeName",
	}
	eventFields = []string{
		"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
		"involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
		"reason", "reportingComponent", "source", "type",
	}
)

// builtins is the list of what is served before any CustomResourceDefinition. Names, short names and categories
// are those that a Kubernetes 1.37 server reports in discovery.
func builtins() []*resource {
	core := func(kind, plural string, r resource) *resource {
		return complete(corev1.SchemeGroupVersion.WithKind(kind), plural, r)
	}
	apps := func(kind, plural string, r resource) *resource {
		return complete(appsv1.SchemeGroupVersion.WithKind(kind), plural, r)
	}
	of := func(gv schema.GroupVersion, kind, plural string, r resource) *resource {
		return complete(gv.WithKind(kind), plural, r)
	}
	scaleKind := autoscalingv1.SchemeGroupVersion.WithKind("Scale")
	scaleVerbs := []extraSubresource{{"scale", scaleKind, []string{"get", "patch", "update"}}}
	all := []string{"all"}
	createOnly := []string{"create"}
	return []*resource{
		core("Namespace", "namespaces", resource{
			short: []string{"ns"}, status: true, fields: []string{"status.phase"},
			verbs: []string{"create", "delete", "get", "list", "patch", "update", "watch"},
			extra: []extraSubresource{{"finalize", corev1.SchemeGroupVersion.WithKind("Namespace"), []string{"update"}}},
		}),
		core("Node", "nodes", resource{short: []string{"no"}, status: true, fields: []string{"spec.unschedulable"}}),
		core("Pod", "pods", resource{
			namespaced: true, short: []string{"po"}, categories: all, status: true, generation: true, fields: podFields,
			extra: []extraSubresource{
				{"log", corev1.SchemeGroupVersion.WithKind("Pod"), []string{"get"}},
				{"eviction", policyv1.SchemeGroupVersion.WithKind("Eviction"), createOnly},
				{"binding", corev1.SchemeGroupVersion.WithKind("Binding"), createOnly},
			},
		}),
		core("Service", "services", resource{
			namespaced: true, short: []string{"svc"}, categories: all, status: true,
			fields: []string{"spec.clusterIP", "spec.type"},
		}),
		core("Endpoints", "endpoints", resource{namespaced: true, short: []string{"ep"}}),
		core("ConfigMap", "configmaps", resource{namespaced: true, short: []string{"cm"}}),
		core("Secret", "secrets", resource{namespaced: true, fields: []string{"type"}}),
		core("ServiceAccount", "serviceaccounts", resource{
			namespaced: true, short: []string{"sa"},
			extra: []extraSubresource{{"token", authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"), createOnly}},
		}),
		core("PersistentVolumeClaim", "persistentvolumeclaims", resource{namespaced: true, short: []string{"pvc"}, status: true}),
		core("PersistentVolume", "persistentvolumes", resource{short: []string{"pv"}, status: true}),
		core("Event", "events", resource{namespaced: true, short: []string{"ev"}, fields: eventFields}),
		core("ResourceQuota", "resourcequotas", resource{namespaced: true, short: []string{"quota"}, status: true}),
		core("LimitRange", "limitranges", resource{namespaced: true, short: []string{"limits"}}),
		core("PodTemplate", "podtemplates", resource{namespaced: true}),
		core("ReplicationController", "replicationcontrollers", resource{namespaced: true, short: []string{"rc"}, categories: all, status: true, scale: true, generation: true, extra: scaleVerbs}),

		apps("Deployment", "deployments", resource{namespaced: true, short: []string{"deploy"}, categories: all, status: true, scale: true, generation: true, extra: scaleVerbs}),
		apps("ReplicaSet", "replicasets", resource{namespaced: true, short: []string{"rs"}, categories: all, status: true, scale: true, generation: true, extra: scaleVerbs, fields: []string{"status.replicas"}}),
		apps("StatefulSet", "statefulsets", resource{namespaced: true, short: []string{"sts"}, categories: all, status: true, scale: true, generation: true, extra: scaleVerbs}),
		apps("DaemonSet", "daemonsets", resource{namespaced: true, short: []string{"ds"}, categories: all, status: true, generation: true}),
		apps("ControllerRevision", "controllerrevisions", resource{namespaced: true}),

		of(batchv1.SchemeGroupVersion, "Job", "jobs", resource{namespaced: true, categories: all, status: true, generation: true, fields: []string{"status.successful"}}),
		of(batchv1.SchemeGroupVersion, "CronJob", "cronjobs", resource{namespaced: true, short: []string{"cj"}, categories: all, status: true, generation: true}),

		of(networkingv1.SchemeGroupVersion, "Ingress", "ingresses", resource{namespaced: true, short: []string{"ing"}, status: true, generation: true}),
		of(networkingv1.SchemeGroupVersion, "IngressClass", "ingressclasses", resource{generation: true}),
		of(networkingv1.SchemeGroupVersion, "NetworkPolicy", "networkpolicies", resource{namespaced: true, short: []string{"netpol"}, generation: true}),

		of(rbacv1.SchemeGroupVersion, "ClusterRole", "clusterroles", resource{}),
		of(rbacv1.SchemeGroupVersion, "ClusterRoleBinding", "clusterrolebindings", resource{}),
		of(rbacv1.SchemeGroupVersion, "Role", "roles", resource{namespaced: true}),
		of(rbacv1.SchemeGroupVersion, "RoleBinding", "rolebindings", resource{namespaced: true}),

		of(policyv1.SchemeGroupVersion, "PodDisruptionBudget", "poddisruptionbudgets", resource{namespaced: true, short: []string{"pdb"}, status: true, generation: true}),

		of(storagev1.SchemeGroupVersion, "StorageClass", "storageclasses", resource{short: []string{"sc"}}),
		of(schedulingv1.SchemeGroupVersion, "PriorityClass", "priorityclasses", resource{short: []string{"pc"}, generation: true}),
		of(discoveryv1.SchemeGroupVersion, "EndpointSlice", "endpointslices", resource{namespaced: true, generation: true}),
		of(coordinationv1.SchemeGroupVersion, "Lease", "leases", resource{namespaced: true, needsRV: true}),
		of(autoscalingv2.SchemeGroupVersion, "HorizontalPodAutoscaler", "horizontalpodautoscalers", resource{namespaced: true, short: []string{"hpa"}, categories: all, status: true}),
		of(apiextensionsv1.SchemeGroupVersion, "CustomResourceDefinition", "customresourcedefinitions", resource{short: []string{"crd", "crds"}, categories: []string{"api-extensions"}, status: true, generation: true, needsRV: true}),

		of(authorizationv1.SchemeGroupVersion, "SelfSubjectAccessReview", "selfsubjectaccessreviews", resource{verbs: createOnly}),
		of(authorizationv1.SchemeGroupVersion, "SelfSubjectRulesReview", "selfsubjectrulesreviews", resource{verbs: createOnly}),
		of(authorizationv1.SchemeGroupVersion, "SubjectAccessReview", "subjectaccessreviews", resource{verbs: createOnly}),
		of(authenticationv1.SchemeGroupVersion, "SelfSubjectReview", "selfsubjectreviews", resource{verbs: createOnly}),
	}
}

func complete(gvk schema.GroupVersionKind, plural string, r resource) *resource {
	r.gvk, r.plural, r.singular = gvk, plural, strings.ToLower(gvk.Kind)
	r.managers = map[string]*managedfields.FieldManager{}
	return &r
}

// catalog finds a resource by group, version and plural name. It is guarded by the store's lock.
type catalog struct {
	byGVR   map[schema.GroupVersionResource]*resource
	builtin map[schema.GroupVersionResource]bool
}

func newCatalog() *catalog {
	c := &catalog{byGVR: map[schema.GroupVersionResource]*resource{}, builtin: map[schema.GroupVersionResource]bool{}}
	for _, r := range builtins() {
		c.byGVR[r.gvr()] = r
		c.builtin[r.gvr()] = true
	}
	return c
}

func (c *catalog) lookup(group, version, plural string) *resource {
	return c.byGVR[schema.GroupVersionResource{Group: group, Version: version, Resource: plural}]
}

// sorted yields the resources in the order of group, version and plural.
func (c *catalog) sorted() []*resource {
	out := make([]*resource, 0, len(c.byGVR))
	for _, r := range c.byGVR {
		out = append(out, r)
	}
	sort.Slice(out, func(i, j int) bool {
		a, b := out[i].gvr(), out[j].gvr()
		return a.Group+"/"+a.Version+"/"+a.Resource < b.Group+"/"+b.Version+"/"+b.Resource
	})
	return out
}

// groupVersions yields each group with its versions, the core group first.
func (c *catalog) groupVersions() []metav1.APIGroup {
	versions := map[string]map[string]bool{}
	for gvr := range c.byGVR {
		if versions[gvr.Group] == nil {
			versions[gvr.Group] = map[string]bool{}
		}
		versions[gvr.Group][gvr.Version] = true
	}
	groups := make([]metav1.APIGroup, 0, len(versions))
	for group, vs := range versions {
		g := metav1.APIGroup{Name: group}
		names := make([]string, 0, len(vs))
		for v := range vs {
			names = append(names, v)
		}
		sort.Slice(names, func(i, j int) bool { return version.CompareKubeAwareVersionStrings(names[i], names[j]) > 0 })
		for _, v := range names {
			gv := schema.GroupVersion{Group: group, Version: v}
			g.Versions = append(g.Versions, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: v})
		}
		g.PreferredVersion = g.Versions[0]
		groups = append(groups, g)
	}
	sort.Slice(groups, func(i, j int) bool { return groupRank(groups[i].Name) < groupRank(groups[j].Name) })
	return groups
}

// groupRank orders groups as kubectl users expect a short name to resolve: core and apps before the rest.
func groupRank(group string) string {
	switch group {
	case "":
		return "0"
	case "apps":
		return "1"
	}
	if !strings.Contains(group, ".") || strings.HasSuffix(group, ".k8s.io") {
		return "2" + group
	}
	return "3" + group
}

// newObject makes an empty object of the resource's Go type, or an unstructured one for custom resources.
func (s *Server) newObject(r *resource) runtime.Object {
	if r.custom == nil {
		if obj, err := s.scheme.New(r.gvk); err == nil {
			obj.GetObjectKind().SetGroupVersionKind(r.gvk)
			return obj
		}
	}
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetGroupVersionKind(r.gvk)
	return u
}
