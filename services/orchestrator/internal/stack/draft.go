package stack

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// draft is one resource of a document that is written of what stands at a cloud.
type draft struct {
	local, id, cloud string
	kind             *resource.Kind
	spec             *structpb.Struct
	labels           map[string]string
}

// newDraft gives an object as a resource called local: its references become the names that names has. missing are those
// that it has no name for.
func newDraft(kind *resource.Kind, local string, o *participantv1.DescribedObject, names map[object]string) (d draft, missing []object, err error) {
	spec, err := o.GetSpec().UnmarshalNew()
	if err != nil {
		return d, nil, fault.As(fault.Internal, fault.Wrap(err, "decode the spec of %s", o.GetId()))
	}
	for _, r := range resource.References(spec) {
		to := object{r.Type, r.Value}
		if names[to] == "" {
			missing = append(missing, to)
			continue
		}
		r.Set(names[to])
	}
	d = draft{local: local, id: o.GetId(), kind: kind}
	d.spec, err = resource.ToStruct(spec)
	return d, missing, err
}

// writeDocument writes resources as a document; with a cloud it stands at the document's head, else with each resource.
func writeDocument(stack, cloud string, drafts []draft) (string, error) {
	resources := yaml.MapSlice{}
	for _, d := range drafts {
		r := yaml.MapSlice{{Key: "kind", Value: d.kind.Name}, {Key: "adopt", Value: d.id}}
		if cloud == "" {
			r = append(r, yaml.MapItem{Key: "placement", Value: map[string]string{"cloud": strings.TrimPrefix(d.cloud, "clouds/")}})
		}
		if len(d.labels) > 0 {
			r = append(r, yaml.MapItem{Key: "labels", Value: d.labels})
		}
		r = append(r, yaml.MapItem{Key: "spec", Value: plainYAML(structpb.NewStructValue(d.spec))})
		resources = append(resources, yaml.MapItem{Key: d.local, Value: r})
	}
	document := yaml.MapSlice{{Key: "kind", Value: "Stack"}, {Key: "name", Value: stack}}
	if cloud != "" {
		document = append(document, yaml.MapItem{Key: "placement", Value: map[string]string{"cloud": strings.TrimPrefix(cloud, "clouds/")}})
	}
	document = append(document, yaml.MapItem{Key: "resources", Value: resources})
	text, err := yaml.Marshal(document)
	return string(text), fault.As(fault.Internal, fault.Wrap(err, "write the document"))
}

// plainYAML gives a value as documents have it: whole numbers without a point, and no text that would be an expression.
func plainYAML(v *structpb.Value) any {
	switch v := v.GetKind().(type) {
	case *structpb.Value_NumberValue:
		if v.NumberValue == math.Trunc(v.NumberValue) {
			return int64(v.NumberValue)
		}
		return v.NumberValue
	case *structpb.Value_StringValue:
		return strings.ReplaceAll(v.StringValue, "${", "$${")
	case *structpb.Value_BoolValue:
		return v.BoolValue
	case *structpb.Value_ListValue:
		out := make([]any, 0, len(v.ListValue.GetValues()))
		for _, item := range v.ListValue.GetValues() {
			out = append(out, plainYAML(item))
		}
		return out
	case *structpb.Value_StructValue:
		out := yaml.MapSlice{}
		for _, k := range slices.Sorted(maps.Keys(v.StructValue.GetFields())) {
			out = append(out, yaml.MapItem{Key: k, Value: plainYAML(v.StructValue.GetFields()[k])})
		}
		return out
	default:
		return nil
	}
}

// survey is what stands at a cloud, and what of it is wanted.
type survey struct {
	s       *Server
	all     map[object]*participantv1.DescribedObject
	able    map[string]bool     // the types that can be described
	toward  map[object][]object // what an object refers to
	from    map[object][]edge   // what refers to an object
	chosen  map[object]bool     // whether what hangs on it is chosen, too
	left    map[object]string   // what is left out, and why
	missing map[object]object   // what refers to something that is not there
}

// edge is one reference to an object.
type edge struct {
	object

	completes bool
}

// DraftDocument reads objects at a cloud into a document.
func (s *Server) DraftDocument(ctx context.Context, r *orchestratorv1.DraftDocumentRequest) (*orchestratorv1.DraftDocumentResponse, error) {
	v, err := s.survey(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := v.seed(r); err != nil {
		return nil, err
	}
	v.leave()
	out := &orchestratorv1.DraftDocumentResponse{LeftOut: v.leftOut()}
	if len(out.GetLeftOut()) > 0 && !r.GetAllowPartial() {
		return nil, incomplete(out.GetLeftOut())
	}
	drafts, err := v.drafts(r.GetStackId())
	if err != nil {
		return nil, err
	}
	if len(drafts) == 0 {
		return nil, fault.New(fault.NotFound, "nothing at %s is left to be adopted", r.GetCloud())
	}
	out.Adopted = int32(len(drafts)) // a project holds fewer
	out.Document, err = writeDocument(r.GetStackId(), r.GetCloud(), drafts)
	return out, err
}

// incomplete refuses to leave anything out unasked.
func incomplete(left []*orchestratorv1.LeftOut) error {
	var lines []string
	for _, l := range left {
		lines = append(lines, fmt.Sprintf("%s %s (%s): %s", l.GetKind(), l.GetObjectName(), l.GetId(), l.GetReason()))
	}
	return fault.New(fault.Precondition, "the document would leave out what belongs to it; mend that, or ask for what can be had (--partly):\n  %s", strings.Join(lines, "\n  "))
}

// survey asks all services what stands at a cloud.
func (s *Server) survey(ctx context.Context, r *orchestratorv1.DraftDocumentRequest) (*survey, error) {
	v := &survey{
		s: s, all: map[object]*participantv1.DescribedObject{}, able: map[string]bool{}, toward: map[object][]object{}, from: map[object][]edge{},
		chosen: map[object]bool{}, left: map[object]string{}, missing: map[object]object{},
	}
	services := map[string]bool{}
	for _, k := range s.Kinds.Kinds() {
		if k.Options.GetPlacement() == kindv1.Placement_PLACEMENT_CLOUD && k.Service != "orchestrator" {
			services[k.Service], v.able[k.Type] = true, !k.Options.GetComposite()
		}
	}
	for service := range services {
		answer, err := s.describe(ctx, service, &participantv1.DescribeObjectsRequest{Cloud: r.GetCloud(), Tenant: r.GetParent()})
		if err != nil {
			return nil, err
		}
		for _, typ := range answer.GetUnsupported() {
			v.able[typ] = false
		}
		for _, o := range answer.GetObjects() {
			v.all[object{o.GetType(), o.GetId()}] = o
		}
	}
	return v, v.connect()
}

// connect finds what refers to what.
func (v *survey) connect() error {
	for at, o := range v.all {
		spec, err := o.GetSpec().UnmarshalNew()
		if err != nil {
			return fault.As(fault.Internal, fault.Wrap(err, "decode the spec of %s", o.GetId()))
		}
		for _, r := range resource.References(spec) {
			to := object{r.Type, r.Value}
			if v.all[to] == nil {
				v.missing[at] = to
				continue
			}
			v.toward[at] = append(v.toward[at], to)
			v.from[to] = append(v.from[to], edge{at, r.Options.GetCompletes()})
		}
	}
	return nil
}

// seed chooses the objects that were asked for, and what belongs to them.
func (v *survey) seed(r *orchestratorv1.DraftDocumentRequest) error {
	if len(r.GetObjects()) == 0 {
		for at, o := range v.all {
			if o.GetTaken() == nil && !v.part(at) && !(o.GetName() == "default" && strings.HasSuffix(o.GetType(), "/SecurityGroup")) {
				v.choose(at, true)
			}
		}
		return nil
	}
	for _, selector := range r.GetObjects() {
		kind, ok := v.s.Kinds.ByName(selector.GetKind())
		if !ok || !v.able[kind.Type] {
			return fault.InField("objects", "objects of the kind %s cannot be imported; these can: %s", selector.GetKind(), strings.Join(v.kinds(), ", "))
		}
		var found []object
		for at, o := range v.all {
			if at.typ == kind.Type && (at.id == selector.GetObject() || o.GetName() == selector.GetObject()) {
				found = append(found, at)
			}
		}
		switch {
		case len(found) == 0:
			return fault.New(fault.NotFound, "%s has no %s %q in its project, neither by id nor by name", r.GetCloud(), kind.Name, selector.GetObject())
		case len(found) > 1:
			return fault.InField("objects", "%d objects of the kind %s are called %q; give an id", len(found), kind.Name, selector.GetObject())
		}
		v.choose(found[0], true)
	}
	return nil
}

// part tells whether an object is a part of one that cannot be had: its id is that one's and more. No record may hold it, as
// that of a server whose own spec attaches a disk, and it goes with the server all the same.
func (v *survey) part(at object) bool {
	return slices.ContainsFunc(v.toward[at], func(to object) bool {
		return v.all[to].GetTaken() != nil && strings.HasPrefix(at.id, to.id+"/")
	})
}

// kinds names the kinds that can be imported.
func (v *survey) kinds() []string {
	var out []string
	for typ, able := range v.able {
		if able {
			out = append(out, typ[strings.LastIndexByte(typ, '/')+1:])
		}
	}
	slices.Sort(out)
	return out
}

// choose takes an object, all that it needs, and what completes it; with hanging all that refers to it as well, and what
// hangs on that.
func (v *survey) choose(at object, hanging bool) {
	if had, known := v.chosen[at]; known && (had || !hanging) {
		return
	}
	v.chosen[at] = hanging
	for _, to := range v.toward[at] {
		v.choose(to, false)
	}
	for _, e := range v.from[at] {
		if hanging || e.completes {
			v.choose(e.object, hanging)
		}
	}
}

// leave finds what cannot be in the document, and with it what needs that.
func (v *survey) leave() {
	for at := range v.chosen {
		o := v.all[at]
		switch to, lacks := v.missing[at]; {
		case o.GetTaken() != nil:
			v.left[at] = o.GetTaken().GetMessage()
		case len(o.GetObstacles()) > 0:
			v.left[at] = strings.Join(o.GetObstacles(), "; ")
		case lacks:
			v.left[at] = "it refers to " + to.String() + ", which is not in the cloud's project"
		}
	}
	for again := true; again; {
		again = false
		for at := range v.chosen {
			for _, to := range v.toward[at] {
				if _, gone := v.left[at]; !gone && v.left[to] != "" {
					v.left[at], again = "it needs "+to.String()+", which is left out", true
				}
			}
		}
	}
}

func (v *survey) leftOut() []*orchestratorv1.LeftOut {
	var out []*orchestratorv1.LeftOut
	for at, why := range v.left {
		out = append(out, &orchestratorv1.LeftOut{Kind: at.typ[strings.LastIndexByte(at.typ, '/')+1:], Id: at.id, ObjectName: v.all[at].GetName(), Reason: why})
	}
	slices.SortFunc(out, func(a, b *orchestratorv1.LeftOut) int {
		return cmp.Or(cmp.Compare(a.GetKind(), b.GetKind()), cmp.Compare(a.GetId(), b.GetId()))
	})
	return out
}

// notInName is what names of resources do not hold.
var notInName = regexp.MustCompile(`[^a-z0-9]+`)

// drafts gives the chosen objects as resources, each with a name of its own.
func (v *survey) drafts(stack string) ([]draft, error) {
	var order []object
	for at := range v.chosen {
		if v.left[at] == "" {
			order = append(order, at)
		}
	}
	slices.SortFunc(order, func(a, b object) int {
		return cmp.Or(cmp.Compare(a.typ, b.typ), cmp.Compare(v.all[a].GetName(), v.all[b].GetName()), cmp.Compare(a.id, b.id))
	})
	names, taken := map[object]string{}, map[string]bool{"params": true}
	for _, at := range order {
		kind, ok := v.s.Kinds.ByType(at.typ)
		if !ok {
			return nil, fault.New(fault.Internal, "there is no kind %s", at.typ)
		}
		name := strings.Trim(notInName.ReplaceAllString(strings.ToLower(strings.TrimPrefix(v.all[at].GetName(), stack+".")), "-"), "-")
		if name == "" || name[0] < 'a' || name[0] > 'z' {
			name = strings.TrimSuffix(strings.ToLower(kind.Name)+"-"+name, "-")
		}
		name = strings.Trim(name[:min(len(name), 40)], "-")
		free := name
		for i := 2; taken[free]; i++ {
			free = fmt.Sprintf("%s-%d", name, i)
		}
		names[at], taken[free] = free, true
	}
	var out []draft
	for _, at := range order {
		kind, _ := v.s.Kinds.ByType(at.typ)
		d, _, err := newDraft(kind, names[at], v.all[at], names)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}
