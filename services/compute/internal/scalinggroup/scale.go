package scalinggroup

import (
	"context"
	"strconv"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"github.com/google/uuid"
	"google.golang.org/grpc"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/resource"
	"github.com/weftcloud/weft/pkg/service"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
)

// Methods gives the custom methods of ScalingGroup.
func Methods(s *service.Service) []grpc.MethodDesc {
	return []grpc.MethodDesc{
		service.Method("weft.compute.v1.ScalingGroupService", "ScaleScalingGroup", func(ctx context.Context, r *computev1.ScaleScalingGroupRequest) (*longrunningpb.Operation, error) {
			asked := map[string]string{requestDesired: strconv.Itoa(int(r.GetDesired())), requestID: uuid.NewString()}
			return s.Request(ctx, r.GetName(), asked, func(o resource.Object) error { return admit(o, r.GetDesired()) })
		}),
	}
}

// admit refuses a size that the group's bounds do not allow.
func admit(o resource.Object, desired int32) error {
	spec, ok := o.Spec().(*computev1.ScalingGroupSpec)
	if !ok {
		return fault.New(fault.Internal, "%s is no scaling group", o.Name())
	}
	if desired < spec.GetMin() || desired > spec.GetMax() {
		return fault.InField("desired", "%s has between %d and %d members; change its bounds to have %d", o.Name(), spec.GetMin(), spec.GetMax(), desired)
	}
	return nil
}
