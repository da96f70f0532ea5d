package plan

import (
	"google.golang.org/protobuf/types/known/structpb"

	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// labelsKey is the entry of StandingResource.spec that holds the labels: the record has no field of its own for them, and
// no field of a contract can be called so. Resolve leaves it out.
const labelsKey = "@labels"

// Labels gives the labels of a standing resource; nil if it has none.
func Labels(r *orchestratorv1.StandingResource) map[string]string {
	fields := r.GetSpec().GetFields()[labelsKey].GetStructValue().GetFields()
	if len(fields) == 0 {
		return nil
	}
	out := make(map[string]string, len(fields))
	for k, v := range fields {
		out[k] = v.GetStringValue()
	}
	return out
}

func setLabels(spec *structpb.Struct, labels map[string]string) {
	if len(labels) == 0 {
		return
	}
	s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for k, v := range labels {
		s.Fields[k] = structpb.NewStringValue(v)
	}
	spec.Fields[labelsKey] = structpb.NewStructValue(s)
}

// withoutLabels gives a spec as the contract has it.
func withoutLabels(spec *structpb.Struct) *structpb.Struct {
	out := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for k, v := range spec.GetFields() {
		if k != labelsKey {
			out.Fields[k] = v
		}
	}
	return out
}
