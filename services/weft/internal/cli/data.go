package cli

import (
	"bufio"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/fault"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// askForData tells a person which data a destruction takes away for good, and asks for their word: the stack's name. Programs
// are not asked; their word is what the document, or --reclaim, says.
func (a *tool) askForData(cmd *cobra.Command, c *client, stack string, word kindv1.Reclaim) error {
	if !a.interactive() || !a.p.OutIsTerminal || a.output != "table" {
		return nil
	}
	s, err := orchestratorv1.NewStackServiceClient(c.conn).GetStack(cmd.Context(), &orchestratorv1.GetStackRequest{Name: stack})
	if err != nil {
		return failed(err, "get %s", stack)
	}
	var lost []string
	for _, r := range s.GetResources() {
		destroyed, err := a.destroysData(cmd, c, r, word)
		if err != nil {
			return err
		}
		if destroyed {
			lost = append(lost, r.GetLocalName())
		}
	}
	if len(lost) == 0 {
		return nil
	}
	slices.Sort(lost)
	st := a.style(a.p.ErrIsTerminal)
	fmt.Fprintf(a.p.Err, "%s all data on %s is lost (--reclaim keep leaves it at the cloud)\ntype the stack's name to go on: ", st.red("DATA LOSS:"), strings.Join(lost, ", "))
	answer, err := bufio.NewReader(a.p.In).ReadString('\n')
	if strings.TrimSpace(answer) == base(stack) {
		return nil
	}
	if err != nil && answer == "" {
		return fault.New(fault.Precondition, "destroy %s: no answer to whether its data may be lost", base(stack))
	}
	return fault.New(fault.Precondition, "destroy %s: %q is not its name; nothing was done", base(stack), strings.TrimSpace(answer))
}

// destroysData tells whether a resource of a stack holds data that go with it.
func (a *tool) destroysData(cmd *cobra.Command, c *client, r *orchestratorv1.StackResource, word kindv1.Reclaim) (bool, error) {
	for _, x := range apis() {
		options, ok := proto.GetExtension(x.message.Options(), kindv1.E_Kind).(*kindv1.KindOptions)
		if !ok || !options.GetHoldsData() || !strings.Contains(r.GetName(), "/"+x.plural+"/") {
			continue
		}
		if word != kindv1.Reclaim_RECLAIM_UNSPECIFIED {
			return word == kindv1.Reclaim_RECLAIM_DESTROY, nil
		}
		m, err := x.get(cmd.Context(), c, r.GetName())
		if fault.Is(err, fault.NotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		spec := m.ProtoReflect().Get(x.message.Fields().ByName("spec")).Message()
		field := spec.Descriptor().Fields().ByName("reclaim")
		return field == nil || kindv1.Reclaim(spec.Get(field).Enum()) == kindv1.Reclaim_RECLAIM_DESTROY, nil
	}
	return false, nil
}
