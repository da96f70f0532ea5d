package document

import (
	"slices"
	"strings"
)

// Needs lists the resources of the stack that a resource needs, by its references, expressions and dependsOn, each once.
// A reference of a resource to itself (a security group that lets its own bearers in) is no need.
func (r *Resource) Needs() []string {
	var out []string
	add := func(name string) {
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	for _, ref := range r.Spec.References {
		if ref.Local != "" && ref.Local != r.Name {
			add(ref.Local)
		}
	}
	for _, u := range r.Spec.Uses {
		add(u.Resource)
	}
	for _, d := range r.DependsOn {
		add(d)
	}
	return out
}

// cycles reports resources that need each other in a circle: one problem a circle, at its first member.
func (p *documentReader) cycles() {
	const (
		fresh = iota
		open
		closed
	)
	byName := map[string]*Resource{}
	for _, r := range p.doc.Resources {
		byName[r.Name] = r
	}
	state := map[string]int{}
	var path []string
	var visit func(name string) bool
	visit = func(name string) bool {
		switch state[name] {
		case open:
			p.cycle(path[slices.Index(path, name):])
			return true
		case closed:
			return false
		}
		state[name] = open
		path = append(path, name)
		for _, need := range byName[name].Needs() {
			if byName[need] != nil && visit(need) {
				break // one circle through a resource is enough to say
			}
		}
		path = path[:len(path)-1]
		state[name] = closed
		return false
	}
	for _, r := range p.doc.Resources {
		visit(r.Name)
	}
}

// cycle reports one circle, beginning with the member that stands first in the document.
func (p *documentReader) cycle(members []string) {
	first := 0
	order := func(name string) int {
		return slices.IndexFunc(p.doc.Resources, func(r *Resource) bool { return r.Name == name })
	}
	for i := range members {
		if order(members[i]) < order(members[first]) {
			first = i
		}
	}
	circle := append(slices.Clone(members[first:]), members[:first]...)
	circle = append(circle, circle[0])
	field := Join("resources", circle[0])
	p.fail(field, place{}, "resources need each other in a circle, so none can be made first: %s; take one of these references away", strings.Join(circle, " → "))
}
