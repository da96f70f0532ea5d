// Package event reads the event feed for callers that have no NATS client.
package event

import (
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/bus"
	"github.com/weftcloud/weft/pkg/fault"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// Server serves weft.orchestrator.v1.EventService.
type Server struct {
	orchestratorv1.UnimplementedEventServiceServer

	Bus bus.Bus
}

// WatchEvents sends the events of a tenant in their order; tenants/- means all, for operators.
func (s *Server) WatchEvents(r *orchestratorv1.WatchEventsRequest, stream grpc.ServerStreamingServer[orchestratorv1.WatchEventsResponse]) error {
	tenant := r.GetParent()[len("tenants/"):]
	if tenant == "-" {
		if id, ok := auth.FromContext(stream.Context()); !ok || !id.Platform() {
			return fault.New(fault.Denied, "only operators may read the events of all tenants")
		}
	}
	since := time.Time{} // from the first that is kept
	if r.GetSince() != nil {
		since = r.GetSince().AsTime()
	}
	return s.Bus.Read(stream.Context(), bus.EventFilter(tenant), since, r.GetFollow(), func(d bus.Delivery) error {
		ev, err := decode(d)
		if err != nil {
			return err
		}
		return stream.Send(&orchestratorv1.WatchEventsResponse{Event: ev})
	})
}

func decode(d bus.Delivery) (*orchestratorv1.Event, error) {
	data := &structpb.Struct{}
	if err := protojson.Unmarshal(d.Data, data); err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "decode event %s", d.Header["ce-id"]))
	}
	sequence, err := strconv.ParseInt(d.Header["ce-sequence"], 10, 64)
	if err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "decode the sequence of event %s", d.Header["ce-id"]))
	}
	return &orchestratorv1.Event{
		Id: d.Header["ce-id"], Type: d.Header["ce-type"], Source: d.Header["ce-source"], Subject: d.Header["ce-subject"],
		Time: timestamppb.New(d.Time), Sequence: sequence, Data: data,
	}, nil
}
