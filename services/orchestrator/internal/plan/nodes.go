package plan

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/document"
)

// Short names for what a plan does to a resource.
const (
	unchanged = kindv1.Change_CHANGE_UNSPECIFIED
	create    = kindv1.Change_CHANGE_CREATE
	inPlace   = kindv1.Change_CHANGE_IN_PLACE
	restart   = kindv1.Change_CHANGE_RESTART
	replace   = kindv1.Change_CHANGE_REPLACE
	remove    = kindv1.Change_CHANGE_DELETE
)

// planner makes one plan.
type planner struct {
	in               Input
	problems         []*orchestratorv1.Problem
	nodes            map[string]*node
	order            []*node // as the document has them
	sorted           []*node // each after those that it needs
	composites       map[string]*expansion
	former           map[string]*orchestratorv1.StandingResource // with an object, by local name
	formerOrder      []string
	formerComposites map[string]*orchestratorv1.StandingResource
	gone             []*departure
	resolver         *Resolver
	before           *Resolver                // of what stands; nil until it is needed
	outputs          map[string]proto.Message // of what stands, by local name
	holding          map[held]*node           // who is to hold what one resource at a time can hold
	handovers        [][2]string              // a node that must wait, and the former holder that must let go
}

// node is a resource with an object of its own.
type node struct {
	local, name, cloud, parent string
	kind                       *resource.Kind
	labels                     map[string]string
	written                    *document.Spec
	spec                       *structpb.Struct // references are full names
	sources                    map[string]string
	refs                       []ref
	deps                       []string       // local names of nodes, by reference, expression and dependsOn
	needs                      []string       // deps, and what completes what is referred to
	how                        map[string]how // for each of the needs
	former                     *orchestratorv1.StandingResource
	key                        string
	change                     kindv1.Change
	fields                     []*orchestratorv1.FieldChange
	losing                     []string // fields whose change replaces the object, and loses data
	grown                      []string // quantities that grow
	wiped                      []string // fields whose change empties the object
}

// how is how a node needs another one.
type how struct {
	first bool // it is needed before anything can be made, not only by what joins later
	whole bool // it must be all that it is to be; else it is enough that it is made, whatever is to join it
}

// ref is a reference to a node or to a resource outside.
type ref struct {
	path, name, key      string
	local                string // of the node; empty for one outside
	completes, exclusive bool
	near                 bool // the rest of what completes it is left to those that need the node that refers
}

// expansion is a composite resource with its children.
type expansion struct {
	resource *document.Resource
	children []string          // local names of the children
	byName   map[string]string // name in the expansion to local name
	outputs  map[string]string
}

// departure is an object that goes away: its resource is no longer wanted, or is replaced.
type departure struct {
	former    *orchestratorv1.StandingResource
	successor *node // the node under the same local name; nil if there is none
	change    kindv1.Change
	early     bool // before the pivot
	freshKey  string
}

func (p *planner) fail(local string, sources map[string]string, field string, format string, args ...any) {
	p.problems = append(p.problems, problemAt(p.in.Document, local, sources, field, &kindv1.Fault{Kind: string(fault.Invalid), Message: fmt.Sprintf(format, args...)}))
}

// cut splits the local name of a child into the composite's and its own.
func cut(local string) (top, child string, is bool) { return strings.Cut(local, ".") }

// sourceOf leads from a field of a child to the field of the composite that it comes from: by the longest path of the
// child's spec that leads to it.
func sourceOf(sources map[string]string, field string) string {
	known := make(map[string]string, len(sources))
	for path, to := range sources {
		known[plainPath(path)] = "spec." + strings.TrimPrefix(to, "spec.")
	}
	path := plainPath(field)
	for path != "" {
		if to, ok := known[path]; ok {
			return to
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return "spec"
}

// plainPath gives one spelling to the paths of children and of findings: relative to the spec, in lower case and without
// underscores.
func plainPath(path string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(path, "spec.")), "_", "")
}

// collect makes the nodes, of composite resources those of their children.
func (p *planner) collect(ctx context.Context) error {
	for _, r := range p.in.Document.Resources {
		if !r.Kind.Options.GetComposite() {
			p.add(&node{
				local: r.Name, name: r.Kind.FullName(p.in.Tenant, p.in.Document.Name+"."+r.Name), cloud: r.Cloud, kind: r.Kind, labels: r.Labels, written: r.Spec,
			})
			continue
		}
		if err := p.expand(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) add(n *node) {
	p.nodes[n.local] = n
	p.order = append(p.order, n)
}

func (p *planner) expand(ctx context.Context, r *document.Resource) error {
	item := &participantv1.Item{
		Name: r.Kind.FullName(p.in.Tenant, p.in.Document.Name+"."+r.Name), Type: r.Kind.Type, Cloud: r.Cloud, Spec: r.Spec.Value,
	}
	answer, err := p.in.Expand(ctx, item)
	if fault.Is(err, fault.Invalid) {
		p.problems = append(p.problems, problemAt(p.in.Document, r.Name, nil, fault.Field(err), fault.Proto(err, p.in.Now)))
		return nil
	}
	if err != nil {
		return fault.Wrap(err, "expand %s", item.GetName())
	}
	e := &expansion{resource: r, byName: map[string]string{}, outputs: answer.GetOutputs()}
	p.composites[r.Name] = e
	kinds := map[string]*resource.Kind{}
	for _, c := range answer.GetChildren() {
		k, ok := p.in.Kinds.ByType(c.GetType())
		if !ok || k.Options.GetComposite() {
			return fault.New(fault.Internal, "expand %s: its child %s is of the kind %s, which cannot be one", item.GetName(), c.GetName(), c.GetType())
		}
		kinds[c.GetName()] = k
		e.byName[c.GetName()] = r.Name + "." + c.GetName()
		e.children = append(e.children, e.byName[c.GetName()])
	}
	scope := *p.in.Document.Scope
	scope.Sibling = func(name string) (*resource.Kind, bool) { k, ok := kinds[name]; return k, ok }
	for _, c := range answer.GetChildren() {
		p.child(e, c, kinds[c.GetName()], &scope)
	}
	return nil
}

func (p *planner) child(e *expansion, c *participantv1.Child, k *resource.Kind, scope *document.Scope) {
	n := &node{
		local: e.byName[c.GetName()], kind: k, cloud: e.resource.Cloud, parent: e.resource.Name, labels: e.resource.Labels, sources: c.GetSources(),
	}
	if k.Options.GetPlacement() != kindv1.Placement_PLACEMENT_CLOUD {
		n.cloud = ""
	}
	if n.sources == nil {
		n.sources = map[string]string{}
	}
	n.name = k.FullName(p.in.Tenant, p.in.Document.Name+"."+n.local)
	var faults []document.Fault
	n.written, faults = document.Analyse(scope, k, c.GetSpec())
	for _, f := range faults {
		p.fail(n.local, n.sources, "spec."+f.Path, "%s", f.Message)
	}
	p.add(n)
}

// lead finds out where references lead and what the nodes need.
func (p *planner) lead(ctx context.Context) error {
	outside := map[string]string{}
	for _, n := range p.order {
		values := map[string]string{}
		for _, r := range n.written.References {
			to, err := p.leadOne(ctx, n, r, outside)
			if err != nil {
				return err
			}
			if to.name == "" {
				continue
			}
			n.refs = append(n.refs, to)
			values[r.Path] = to.name
		}
		for _, u := range n.written.Uses {
			n.need(how{first: !joining(n.kind.Spec, u.Path), whole: true}, p.concrete(u.Resource)...)
		}
		for _, d := range p.dependsOn(n) {
			n.need(how{first: true, whole: true}, p.concrete(d)...)
		}
		spec, err := document.MapTexts(n.written.Value, n.kind.Spec, func(t document.Text) (*structpb.Value, error) {
			if name, ok := values[t.Path]; ok {
				return structpb.NewStringValue(name), nil
			}
			return structpb.NewStringValue(t.Value), nil
		})
		if err != nil {
			return err
		}
		n.spec = spec
	}
	return nil
}

func (p *planner) dependsOn(n *node) []string {
	top := n.local
	if n.parent != "" {
		top = n.parent
	}
	return p.in.Document.Resource(top).DependsOn
}

// need adds to what a node needs; never itself, never twice.
func (n *node) need(as how, locals ...string) {
	for _, l := range locals {
		if l == n.local {
			continue
		}
		if !slices.Contains(n.deps, l) {
			n.deps = append(n.deps, l)
		}
		n.needed(as, l)
	}
}

// needed notes how a node is needed, besides what is known of that.
func (n *node) needed(as how, local string) {
	if n.how == nil {
		n.how = map[string]how{}
	}
	is := n.how[local]
	n.how[local] = how{first: is.first || as.first, whole: is.whole || as.whole}
}

// firstNeeds gives what a node needs to be made without what joins it later.
func (n *node) firstNeeds() []string {
	var out []string
	for _, need := range n.needs {
		if n.how[need].first {
			out = append(out, need)
		}
	}
	return out
}

// concrete gives the nodes of a resource of the document: itself, or its children.
func (p *planner) concrete(local string) []string {
	if e, ok := p.composites[local]; ok {
		return e.children
	}
	return []string{local}
}

func (p *planner) leadOne(ctx context.Context, n *node, r document.Reference, outside map[string]string) (ref, error) {
	to := ref{path: r.Path, completes: r.Completes, exclusive: r.Exclusive, near: r.Near}
	as := how{first: !joining(n.kind.Spec, r.Path), whole: !r.Alone}
	if r.Outside != "" {
		key, err := p.outside(ctx, n, r, outside)
		if key == "" || err != nil {
			return ref{}, err
		}
		to.name, to.key = r.Outside, key
		return to, nil
	}
	to.local = r.Local
	if sibling, ok := strings.CutPrefix(r.Local, "."); ok {
		to.local = n.parent + "." + sibling
	} else if e, ok := p.composites[r.Local]; ok {
		child := e.resource.Kind.Provides(r.Type)
		to.local = e.byName[child]
		if to.local == "" {
			p.fail(n.local, n.sources, "spec."+r.Path, "%s makes no %s as it is written, and one is wanted here", r.Local, child)
			return ref{}, nil
		}
		if !r.Near {
			n.need(as, e.children...)
		}
	}
	target, ok := p.nodes[to.local]
	if !ok { // its composite could not be expanded, which is a problem of its own
		return ref{}, nil
	}
	to.name = target.name
	n.need(as, to.local)
	return to, nil
}

// outside finds the key of a resource outside of the stack; "" if that is a problem of the document.
func (p *planner) outside(ctx context.Context, n *node, r document.Reference, known map[string]string) (string, error) {
	if key, ok := known[r.Outside]; ok && key != "" {
		return key, nil
	}
	m, err := p.in.Lookup(ctx, r.Outside)
	switch {
	case fault.Is(err, fault.NotFound), fault.Is(err, fault.Denied):
		p.fail(n.local, n.sources, "spec."+r.Path, "%s does not exist; make it first, or correct the name", r.Outside)
		return "", nil
	case err != nil:
		return "", fault.Wrap(err, "look up %s", r.Outside)
	}
	known[r.Outside] = resource.Wrap(m).Metadata().GetKey()
	if known[r.Outside] == "" {
		return "", fault.New(fault.Internal, "look up %s: it has no key", r.Outside)
	}
	return known[r.Outside], nil
}

// sort orders the nodes, each after those that it needs; false means that some need each other, which is a problem.
func (p *planner) sort() bool {
	state := map[string]int{}
	var visit func(n *node, path []string) bool
	visit = func(n *node, path []string) bool {
		if state[n.local] == 2 {
			return true
		}
		if state[n.local] == 1 {
			circle := append(path[slices.Index(path, n.local):], n.local)
			p.fail(n.local, n.sources, "", "resources need each other in a circle, so none can be made first: %s", strings.Join(circle, " → "))
			return false
		}
		state[n.local] = 1
		for _, d := range n.deps {
			if !visit(p.nodes[d], append(slices.Clone(path), n.local)) {
				return false
			}
		}
		state[n.local] = 2
		p.sorted = append(p.sorted, n)
		return true
	}
	for _, n := range p.order {
		if !visit(n, nil) {
			return false
		}
	}
	return true
}

// complete finds the needs of all nodes: who refers to X waits for all that completes X, and for what completes that. Who
// refers to it nearly waits for the first only, and who needs that one for the rest.
func (p *planner) complete() {
	completers := map[string][]string{}
	for _, n := range p.order {
		n.needs = slices.Clone(n.deps)
		for _, r := range n.refs {
			if r.completes && r.local != "" && r.local != n.local {
				completers[r.local] = append(completers[r.local], n.local)
			}
		}
	}
	for _, n := range p.sorted {
		for _, r := range n.refs {
			all := closure(completers, r.local)
			if all[n.local] {
				continue
			}
			if r.near {
				all = set(completers[r.local])
			}
			p.await(n, all, how{first: !joining(n.kind.Spec, r.path), whole: true})
		}
		for _, d := range n.deps {
			for _, r := range p.nodes[d].refs {
				if r.near {
					p.await(n, closure(completers, r.local), how{first: n.how[d].first, whole: true})
				}
			}
		}
	}
}

// await has a node need others, but for those that wait for it.
func (p *planner) await(n *node, others map[string]bool, as how) {
	for _, o := range slices.Sorted(maps.Keys(others)) {
		if !slices.Contains(n.needs, o) {
			if p.waitsFor(o, n.local) {
				continue
			}
			n.needs = append(n.needs, o)
		}
		n.needed(as, o)
	}
}

func set(names []string) map[string]bool {
	out := map[string]bool{}
	for _, n := range names {
		out[n] = true
	}
	return out
}

func closure(edges map[string][]string, from string) map[string]bool {
	out := map[string]bool{}
	queue := slices.Clone(edges[from])
	for len(queue) > 0 {
		next := queue[0]
		queue = queue[1:]
		if !out[next] {
			out[next] = true
			queue = append(queue, edges[next]...)
		}
	}
	return out
}

// waitsFor tells whether a node waits for another, directly or not.
func (p *planner) waitsFor(from, to string) bool {
	seen := map[string]bool{}
	queue := []string{from}
	for len(queue) > 0 {
		next := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if next == to {
			return true
		}
		if !seen[next] {
			seen[next] = true
			queue = append(queue, p.nodes[next].needs...)
		}
	}
	return false
}
