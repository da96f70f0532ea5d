// Package console serves what servers wrote to their consoles.
package console

import (
	"context"
	"strings"

	"google.golang.org/grpc"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/service"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
)

// Methods gives the custom methods of Server.
func Methods(s *service.Service) []grpc.MethodDesc {
	return []grpc.MethodDesc{
		service.Method("weft.compute.v1.ServerService", "QueryConsoleLog", func(ctx context.Context, r *computev1.QueryConsoleLogRequest) (*computev1.ConsoleLog, error) {
			object, d, err := s.Standing(ctx, r.GetName())
			if err != nil {
				return nil, err
			}
			console, ok := d.Console()
			if !ok {
				return nil, fault.New(fault.Unsupported, "%s keeps no consoles", object.Cloud())
			}
			text, err := console.ConsoleLog(ctx, object.Status().GetProviderId(), int(r.GetLines()))
			if err != nil {
				return nil, fault.Wrap(err, "read the console of %s", r.GetName())
			}
			return &computev1.ConsoleLog{Text: strings.ToValidUTF8(text, "\uFFFD")}, nil
		}),
	}
}
