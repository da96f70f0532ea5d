package publication

import (
	"github.com/weftcloud/weft/pkg/fault"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
)

// expandBalanced gives the children of a Publication by load balancer.
func expandBalanced(*participantv1.Item) (*participantv1.ExpandResponse, error) {
	return nil, fault.InField("spec.via", "a Publication cannot be made by LOAD_BALANCER here; the ways in are FLOATING_IP and PORT_MAPPING")
}
