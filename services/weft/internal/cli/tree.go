package cli

import (
	"maps"
	"slices"
	"strings"
)

// branch is one line of a tree of names.
type branch struct {
	// name is the whole name, e.g. net.subnet.
	name string
	// label is what to show: the strokes that lead to it and the last part of the name.
	label string
}

// treeOf makes a tree of names whose parts are separated by dots: net.subnet stands below net, and a parent that is not
// among the names is shown all the same. Siblings keep the order in which they were first given.
func treeOf(names []string) []branch {
	children := map[string][]string{}
	seen := map[string]bool{}
	for _, name := range names {
		parts := strings.Split(name, ".")
		for i := range parts {
			whole, parent := strings.Join(parts[:i+1], "."), strings.Join(parts[:i], ".")
			if !seen[whole] {
				seen[whole] = true
				children[parent] = append(children[parent], whole)
			}
		}
	}
	var out []branch
	var grow func(parent, indent string)
	grow = func(parent, indent string) {
		for i, name := range children[parent] {
			label, below := "", ""
			switch last := i == len(children[parent])-1; {
			case parent == "":
			case last:
				label, below = indent+"└─ ", indent+"   "
			default:
				label, below = indent+"├─ ", indent+"│  "
			}
			out = append(out, branch{name: name, label: label + name[strings.LastIndexByte(name, '.')+1:]})
			grow(name, below)
		}
	}
	grow("", "")
	return out
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
