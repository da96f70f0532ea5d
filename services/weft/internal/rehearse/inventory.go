package rehearse

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// item is one object of the sandbox's inventory.
type item struct {
	Service     string            `json:"service"`
	Kind        string            `json:"kind"`
	ID          string            `json:"id"`
	Name        string            `json:"name"`
	Project     string            `json:"project"`
	State       string            `json:"state"`
	Tags        []string          `json:"tags"`
	Labels      map[string]string `json:"labels"`
	Description string            `json:"description"`
	Metadata    map[string]string `json:"metadata"`
	Settings    map[string]string `json:"settings"`
}

// bears tells whether the object is marked with a key.
func (i item) bears(key string) bool {
	if key == "" {
		return false
	}
	marks := append(slices.Clone(i.Tags), i.Description, i.Name)
	marks = slices.AppendSeq(marks, maps.Values(i.Labels))
	marks = slices.AppendSeq(marks, maps.Values(i.Metadata))
	return slices.ContainsFunc(marks, func(mark string) bool { return strings.Contains(mark, key) })
}

// own are kinds that the cluster's controllers keep for themselves, and clear away in their own time: a deployment's
// history and where its services lead.
var own = []string{"ReplicaSet", "ControllerRevision", "Event", "Endpoints", "EndpointSlice", "Lease"}

// compared writes what was held before and after in lines that are the same where nothing differs. Objects of the stack
// are told apart by their ids. Parts of them, which the clouds make anew whenever they like, are not: ports, rules, pods.
// What the plan tells to be made anew counts as the same; where it tells that something has grown, sizes are left out.
func compared(before, after *sight, remade []string, grown bool) (was, is []string) {
	objects := map[string]bool{}
	for _, s := range []*sight{before, after} {
		for local := range s.resources {
			objects[s.id(local)] = true
		}
	}
	replace := func(s *sight) *strings.Replacer {
		var pairs []string
		for _, local := range remade {
			if id, key := s.id(local), s.resources[local].GetKey(); id != "" && key != "" {
				pairs = append(pairs, id, "(the id of "+local+")", key, "(the key of "+local+")")
			}
		}
		return strings.NewReplacer(pairs...)
	}
	volatile := ""
	if grown {
		volatile = "size"
	}
	return lines(before.inventory, objects, replace(before), volatile), lines(after.inventory, objects, replace(after), volatile)
}

// names lists what is held by kind and name, for two stacks of different ids and keys.
func (s *sight) names() []string {
	out, pairs := []string{}, []string{}
	for local, r := range s.resources {
		pairs = append(pairs, r.GetKey(), "(the key of "+local+")")
	}
	keys := strings.NewReplacer(pairs...)
	for _, i := range s.inventory {
		switch {
		case slices.Contains(own, i.Kind):
		case i.Kind == "Pod" || i.Name == "":
			out = append(out, i.Service+"."+i.Kind)
		default:
			out = append(out, i.Service+"."+i.Kind+" "+keys.Replace(i.Name))
		}
	}
	slices.Sort(out)
	return out
}

func lines(items []item, objects map[string]bool, r *strings.Replacer, volatile string) []string {
	out := []string{}
	for _, i := range items {
		if !slices.Contains(own, i.Kind) {
			out = append(out, r.Replace(i.line(objects[objectID(i.ID)], volatile)))
		}
	}
	slices.Sort(out)
	return out
}

// line writes an object with all that must stay as it is; of the setting that is volatile only whether it is there.
func (i item) line(object bool, volatile string) string {
	parts := []string{i.Service + "." + i.Kind}
	if object {
		parts = append(parts, i.ID)
	}
	if i.Kind != "Pod" {
		parts = append(parts, i.Name)
	}
	tags := slices.Sorted(slices.Values(i.Tags))
	parts = append(parts, i.State, i.Description, strings.Join(tags, ","), pairs(i.Labels, "pod-template-hash"), pairs(i.Metadata, "port_id"))
	if i.Kind != "Pod" { // which node it is on is the cluster's business
		parts = append(parts, pairs(i.Settings, volatile))
	}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " ")
}

// pairs writes a map; of volatile only whether it is there.
func pairs(m map[string]string, volatile string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		v := m[k]
		if k == volatile && v != "" {
			v = "…"
		}
		out = append(out, fmt.Sprintf("%s=%s", k, v))
	}
	return strings.Join(out, ",")
}

// without gives the lines of a that are not in b, each as often as it is missing. Both are sorted.
func without(a, b []string) []string {
	var out []string
	rest := slices.Clone(b)
	for _, line := range a {
		if i, found := slices.BinarySearch(rest, line); found {
			rest = slices.Delete(rest, i, i+1)
			continue
		}
		out = append(out, line)
	}
	return out
}
