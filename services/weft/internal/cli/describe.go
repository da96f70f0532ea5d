package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"sigs.k8s.io/yaml"

	"github.com/weftcloud/weft/pkg/resource"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

func (a *tool) describeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "describe KIND NAME", Short: "Show all that is known of a resource; of a stack, its tree of resources",
		Example: "  weft describe stack shop\n  weft describe server shop.db",
		Args:    takes(2, 2, "a kind and a name"), ValidArgsFunction: a.completeKind,
		RunE: func(cmd *cobra.Command, args []string) error {
			x, err := apiNamed(args[0])
			if err != nil {
				return err
			}
			return a.with(func(c *client) error {
				m, err := x.get(cmd.Context(), c, args[1])
				if err != nil {
					return err
				}
				width, _ := a.p.Size()
				return a.print(m, func() string {
					if stack, ok := m.(*orchestratorv1.Stack); ok {
						return a.describeStack(stack, width, a.style(a.p.OutIsTerminal))
					}
					return a.describeResource(x, m, width)
				})
			})
		},
	}
}

// describeResource shows a resource in full: the line that lists have, then all its fields as YAML.
func (a *tool) describeResource(x *api, m proto.Message, width int) string {
	head := a.resourceTable(x, []proto.Message{m}).render(width, a.style(a.p.OutIsTerminal))
	raw, err := protojson.Marshal(m)
	if err != nil {
		return head
	}
	body, err := yaml.JSONToYAML(raw)
	if err != nil {
		return head
	}
	return head + "\n" + string(body)
}

// describeStack shows a stack: where it stands, its outputs, and the tree of its resources.
func (a *tool) describeStack(s *orchestratorv1.Stack, width int, st style) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s  %s", st.bold("stack "+base(s.GetName())), st.dim(strings.TrimSuffix(s.GetName(), "/stacks/"+base(s.GetName()))), st.state(enumText(s.GetState())))
	if born := age(a.p.Now(), s.GetMetadata().GetCreateTime()); born != "" {
		fmt.Fprintf(&b, "  made %s ago", born)
	}
	b.WriteString("\n")
	if s.GetOperation() != "" {
		fmt.Fprintf(&b, "operation %s\n", base(s.GetOperation()))
	}
	if n := addressesOf(s); n > 0 {
		b.WriteString(publicAddresses(n) + "\n")
	}
	b.WriteString(outputsText(s.GetOutputs(), st) + "\n")
	t := &table{header: []string{"RESOURCE", "KIND", "PHASE", "CLOUD", "PROVIDER ID", "AGE"}}
	faults := a.stackRows(t, s, st)
	b.WriteString(t.render(width, st))
	for _, fault := range faults {
		b.WriteString("  " + wrapped(fault, width, 4) + "\n")
	}
	return b.String()
}

// addressesOf counts the public addresses that a stack uses.
func addressesOf(s *orchestratorv1.Stack) int {
	kinds, err := resource.Linked()
	if err != nil {
		return 0 // a program with such contracts does not start
	}
	n := 0
	for _, r := range s.GetResources() {
		if k, ok := kinds.ByType(r.GetType()); ok && k.Options.GetPublicAddress() {
			n++
		}
	}
	return n
}

// stackRows adds a row for each resource, children below their parents, and gives what is wrong with them.
func (a *tool) stackRows(t *table, s *orchestratorv1.Stack, st style) []string {
	byName := map[string]*orchestratorv1.StackResource{}
	var names []string
	for _, r := range s.GetResources() {
		byName[r.GetLocalName()] = r
		names = append(names, r.GetLocalName())
	}
	var faults []string
	for _, branch := range treeOf(names) {
		r := byName[branch.name]
		if r == nil {
			t.add(branch.label, "", "", "", "", "")
			continue
		}
		phase := enumText(r.GetStatus().GetPhase())
		t.add(branch.label, base(r.GetType()), st.state(phase), base(r.GetCloud()), r.GetStatus().GetProviderId(), age(a.p.Now(), r.GetCreateTime()))
		if f := r.GetStatus().GetFault(); f != nil && !saidByBlockers(f, r.GetStatus().GetBlockers()) {
			faults = append(faults, st.red(branch.name)+": "+f.GetMessage()+" ("+f.GetKind()+")")
		}
		if d := r.GetStatus().GetDrift(); d != nil {
			faults = append(faults, st.yellow(branch.name)+": "+driftText(d)+"; weft repair "+base(s.GetName())+" brings it back")
		}
		for _, blocker := range r.GetStatus().GetBlockers() {
			faults = append(faults, st.yellow(branch.name)+": "+blockerText(blocker.GetKind(), blocker.GetId(), blocker.GetOwner(), blocker.GetAction()))
		}
	}
	if why := s.GetRepairHeld(); why != "" {
		faults = append(faults, st.yellow("it is not repaired by itself")+": "+why)
	}
	return faults
}

func blockerText(kind, id, owner, action string) string {
	text := "waits for " + kind + " " + id
	if owner != "" {
		text += " of " + owner
	}
	if action != "" {
		text += "; " + action
	}
	return text
}

// outputsText writes outputs, one a line, ordered by name; empty if there are none.
func outputsText(outputs *structpb.Struct, st style) string {
	if len(outputs.GetFields()) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString(st.bold("outputs") + "\n")
	for _, name := range sortedKeys(outputs.GetFields()) {
		value := outputs.GetFields()[name]
		text, isText := value.GetKind().(*structpb.Value_StringValue)
		shown := ""
		if isText {
			shown = text.StringValue
		} else if raw, err := value.MarshalJSON(); err == nil {
			shown = string(raw)
		}
		fmt.Fprintf(&b, "  %s = %s\n", name, shown)
	}
	return b.String()
}

// state colours a phase or a state by what it means.
func (s style) state(text string) string {
	switch text {
	case "READY", "DONE":
		return s.green(text)
	case "FAILED", "DEGRADED", "NEEDS_HAND", "STUCK":
		return s.red(text)
	case "":
		return ""
	default:
		return s.yellow(text)
	}
}
