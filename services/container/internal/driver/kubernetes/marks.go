package kubernetes

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
)

// manager is our name as the manager of fields and as the value of labelManager.
const manager = "weft"

// The marks on objects.
const (
	// labelManager says who manages the object (a label that Kubernetes recommends). In a manifest the author's own
	// value stays.
	labelManager = "app.kubernetes.io/managed-by"
	// labelKey holds the resource's key.
	labelKey = "weft.cloud/key"
	// labelPart holds the object's part in the resource.
	labelPart = "weft.cloud/kind"
	// annotationName holds the resource's full name.
	annotationName = "weft.cloud/name"
	// annotationSpec holds a digest of the object as we want it. Since it is a part of what we want, an object that has
	// all that we want has nothing left that we once wanted.
	annotationSpec = "weft.cloud/spec"
	// annotationConfig, on a pod, holds a digest of the files that are mounted: a change makes new pods.
	annotationConfig = "weft.cloud/config"
	// annotationNodePort, on a service, holds how the ports of the cluster's nodes are named at the cloud, and
	// annotationNodeNetwork the network that the nodes were joined to, both as the cluster's spec says.
	annotationNodePort    = "weft.cloud/node-port-name"
	annotationNodeNetwork = "weft.cloud/node-network"
	// reserved is the prefix of labels and annotations that users may not set.
	reserved = "weft.cloud/"
)

// The parts that an object can have, values of labelPart.
const (
	// partWorkload is on all objects of a workload, its pods included.
	partWorkload = "workload"
	// partInventory is on a manifest's inventory, partObject on the objects that it lists.
	partInventory = "manifest"
	partObject    = "manifest-object"
)

// selectPart selects all of our objects with this part.
func selectPart(part string) string { return labels.Set{labelPart: part}.String() }

// selectKey selects a resource's objects with this part.
func selectKey(part, key string) string { return labels.Set{labelPart: part, labelKey: key}.String() }

// mark gives the labels of an object.
func mark(part, key string) map[string]string {
	return map[string]string{labelManager: manager, labelKey: key, labelPart: part}
}

// maxName is the length that a DNS label may have; names of services and values of labels are bound by it.
const maxName = 63

var dnsLabel = regexp.MustCompile(`^[a-z]([-a-z0-9]*[a-z0-9])?$`)

// objectName gives the name of a resource's main object: its id with hyphens for dots. An id that makes no DNS label so
// gets a digest of it at its end.
func objectName(name string) string {
	id := name[strings.LastIndex(name, "/")+1:]
	plain := strings.ReplaceAll(id, ".", "-")
	if len(plain) <= maxName && dnsLabel.MatchString(plain) {
		return plain
	}
	return shorten(plain, id, maxName)
}

var notDNS = regexp.MustCompile(`[^-a-z0-9]+`)

// shorten makes a DNS label of at most limit characters that ends with a digest of id.
func shorten(plain, id string, limit int) string {
	const digest = 8
	plain = notDNS.ReplaceAllString(strings.ToLower(plain), "-")
	if plain == "" || plain[0] < 'a' || plain[0] > 'z' {
		plain = "w" + plain
	}
	if cut := limit - digest - 1; len(plain) > cut {
		plain = plain[:cut]
	}
	return strings.TrimRight(plain, "-") + "-" + digestOf([]byte(id))[:digest]
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// identity is a parsed id.
type identity struct{ namespace, name, key string }

func (i identity) String() string { return i.namespace + "/" + i.name + "/" + i.key }

// parseID parses an id. The error is Internal: ids are ours.
func parseID(id string) (identity, error) {
	parts := strings.Split(id, "/")
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" {
		return identity{}, fault.New(fault.Internal, "%q is no id of this driver; it should be namespace/name/key", id)
	}
	return identity{parts[0], parts[1], parts[2]}, nil
}

// parseIDs parses ids and tells the namespace that all of them lie in; empty if they lie in several. One list call
// then finds them all with no more rights than needed.
func parseIDs(ids []string) (map[string]identity, string, error) {
	out := make(map[string]identity, len(ids))
	namespace := ""
	for i, id := range ids {
		parsed, err := parseID(id)
		if err != nil {
			return nil, "", err
		}
		if i == 0 {
			namespace = parsed.namespace
		}
		if parsed.namespace != namespace {
			namespace = metav1.NamespaceAll
		}
		out[id] = parsed
	}
	return out, namespace, nil
}

// namespaceOf gives the namespace that a spec names.
func namespaceOf(namespace string) string {
	if namespace == "" {
		return metav1.NamespaceDefault
	}
	return namespace
}

// ownerOf says whose an object is, as far as it tells.
func ownerOf(o *unstructured.Unstructured) string {
	l, a := o.GetLabels(), o.GetAnnotations()
	if l[labelKey] != "" {
		if tenant := resource.TenantOf(a[annotationName]); tenant != "" {
			return "the Weft resource " + a[annotationName]
		}
		return "the Weft resource with key " + l[labelKey]
	}
	if release := a["meta.helm.sh/release-name"]; release != "" {
		return "the Helm release " + release
	}
	if owners := o.GetOwnerReferences(); len(owners) > 0 {
		return owners[0].Kind + " " + owners[0].Name
	}
	if l[labelManager] != "" {
		return l[labelManager]
	}
	for _, f := range o.GetManagedFields() {
		if f.Subresource == "" {
			return f.Manager
		}
	}
	return "someone unknown"
}
