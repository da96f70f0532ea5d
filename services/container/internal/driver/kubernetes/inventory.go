package kubernetes

import (
	"encoding/json"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/weftcloud/weft/pkg/fault"
)

// inventoryKey is the key in an inventory's data.
const inventoryKey = "objects"

// entry names one object of a manifest.
type entry struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	// Surplus: the manifest names it no longer; it is on its way out.
	Surplus bool `json:"surplus,omitempty"`
}

func (e entry) gvk() schema.GroupVersionKind {
	return schema.FromAPIVersionAndKind(e.APIVersion, e.Kind)
}

// object identifies the object whichever version it is named by.
func (e entry) object() objectID {
	return objectID{e.gvk().GroupKind(), e.Namespace, e.Name}
}

func (e entry) String() string { return describe(e.Kind, e.Namespace, e.Name) }

// objectID is an object's identity in a cluster.
type objectID struct {
	kind            schema.GroupKind
	namespace, name string
}

func idOf(o *unstructured.Unstructured) objectID {
	return objectID{o.GroupVersionKind().GroupKind(), o.GetNamespace(), o.GetName()}
}

// tier orders objects: namespaces first, then definitions, then Kubernetes' own kinds, then kinds that somebody defined,
// whose controllers and webhooks are among the former. Within a tier the manifest's order stands.
func (e entry) tier() int {
	g := e.gvk().GroupKind()
	switch {
	case isNamespace(g):
		return 0
	case isDefinition(g):
		return 1
	case !strings.Contains(g.Group, ".") || strings.HasSuffix(g.Group, ".k8s.io"):
		return 2
	default:
		return 3
	}
}

const tiers = 4

// inventoryName gives the name of a manifest's inventory.
func inventoryName(name string) string {
	const prefix = "weft-manifest-"
	plain := prefix + objectName(name)
	if len(plain) <= maxName {
		return plain
	}
	return shorten(plain, name, maxName)
}

// buildInventory gives the inventory of a manifest.
func buildInventory(r manifestRequest, at identity, entries []entry) (*unstructured.Unstructured, error) {
	text, err := json.Marshal(entries)
	if err != nil {
		return nil, fault.As(fault.Internal, err)
	}
	return untyped(&corev1.ConfigMap{
		TypeMeta: typeMeta(configMaps.GroupVersionKind),
		ObjectMeta: metav1.ObjectMeta{
			Namespace: at.namespace, Name: at.name, Labels: mark(partInventory, at.key),
			Annotations: map[string]string{annotationName: r.Name},
		},
		Data: map[string]string{inventoryKey: string(text)},
	})
}

// readInventory reads an inventory. The error is Conflict if somebody spoilt it.
func readInventory(o *unstructured.Unstructured) ([]entry, error) {
	text, _, err := unstructured.NestedString(o.Object, "data", inventoryKey)
	var out []entry
	if err == nil {
		err = json.Unmarshal([]byte(text), &out)
	}
	if err != nil {
		return nil, &fault.Error{Kind: fault.Precondition, Message: describe("ConfigMap", o.GetNamespace(), o.GetName()) + " is the inventory of " + ownerOf(o) + " and cannot be read; restore its content", Cause: err}
	}
	return out, nil
}

// merge gives the inventory to be written before anything is changed: what is wanted, then what no longer is.
func merge(wanted, standing []entry) []entry {
	out := slices.Clone(wanted)
	kept := index(wanted, entry.object)
	for _, e := range standing {
		if _, ok := kept[e.object()]; !ok {
			e.Surplus = true
			out = append(out, e)
		}
	}
	return out
}
