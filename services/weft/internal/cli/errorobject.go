package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftcloud/weft/pkg/fault"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// With -o json or yaml a command that fails writes one object to standard error and nothing else: a google.rpc.Status as
// protojson has it, with the details that the server gave. To them come a BadRequest with the place of each problem of a
// document, an ErrorInfo where there is none, and a Help that says what to do next.

const (
	// errorDomain is the domain of the ErrorInfo of what the command line itself refuses; the servers' is the same.
	errorDomain = "weft.cloud"
	// reasonUsage is the reason of a command that was called wrongly. Other reasons are kinds of faults.
	reasonUsage = "Usage"
)

// machine tells whether what is written is for a program.
func (a *tool) machine() bool {
	format := a.output
	if a.running == nil { // the flags may not have been read to their end
		format = outputIn(a.p.Args)
	}
	return format == "json" || format == "yaml"
}

// outputIn finds the output flag in arguments that cobra may have refused; empty if it is not there.
func outputIn(args []string) string {
	found := ""
	for i, arg := range args {
		if arg == "--" {
			break
		}
		switch {
		case (arg == "-o" || arg == "--output") && i+1 < len(args):
			found = args[i+1]
		case strings.HasPrefix(arg, "--output="):
			found = strings.TrimPrefix(arg, "--output=")
		case strings.HasPrefix(arg, "-o") && len(arg) > 2:
			found = strings.TrimPrefix(strings.TrimPrefix(arg, "-o"), "=")
		}
	}
	return found
}

// writeObject writes an error for a program; false if a person is to read it, or if it cannot be written so.
func (a *tool) writeObject(s *rpcstatus.Status) bool {
	if !a.machine() {
		return false
	}
	format := a.output
	if a.running == nil {
		format = outputIn(a.p.Args)
	}
	data, err := encode(s, format)
	if err != nil {
		return false
	}
	_, err = a.p.Err.Write(data)
	return err == nil
}

// command gives the command that was called wrongly.
func (m *misuse) command() string {
	if m.cmd == nil {
		return "weft"
	}
	return m.cmd.CommandPath()
}

// status gives a misuse as an object for programs.
func (m *misuse) status() *rpcstatus.Status {
	info := &errdetails.ErrorInfo{Reason: reasonUsage, Domain: errorDomain, Metadata: map[string]string{"command": m.command()}}
	if m.cmd != nil {
		info.Metadata["usage"] = m.cmd.UseLine()
	}
	return withDetails(&rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: m.text}, info, help(m.command()+" --help"))
}

// status gives a failure as an object for programs.
func (f *failure) status() *rpcstatus.Status {
	out := &rpcstatus.Status{}
	given := statusProto(f.err)
	out.Code, out.Message = given.GetCode(), f.what+": "+messageOf(f.err)
	for _, d := range given.GetDetails() {
		if _, err := d.UnmarshalNew(); err == nil { // what this program does not know cannot be written as JSON
			out.Details = append(out.Details, d)
		}
	}
	if !has[*errdetails.ErrorInfo](out) {
		out = withDetails(out, &errdetails.ErrorInfo{Reason: string(fault.KindOf(f.err)), Domain: errorDomain})
	}
	if problems := problemsOf(f.err); len(problems) > 0 && !has[*errdetails.BadRequest](out) {
		out = withDetails(out, violations(problems))
	}
	if f.resource != nil {
		out = withDetails(out, f.resource)
	}
	if next := cmp.Or(f.next, nextStep(f.err)); next != "" {
		out = withDetails(out, help(next))
	}
	return out
}

// statusProto gives the status of an error: the server's own, or that of the fault that it is.
func statusProto(err error) *rpcstatus.Status {
	if _, isStatus := status.FromError(err); !isStatus && errors.Is(err, context.Canceled) {
		return &rpcstatus.Status{Code: int32(codes.Canceled)}
	}
	return status.Convert(fault.Status(err)).Proto()
}

// violations gives the problems of a document as google.rpc has them, each with its place.
func violations(problems []*orchestratorv1.Problem) *errdetails.BadRequest {
	out := &errdetails.BadRequest{}
	for _, p := range problems {
		out.FieldViolations = append(out.FieldViolations, &errdetails.BadRequest_FieldViolation{
			Field: p.GetField(), Description: placeOf(p) + ": " + p.GetFault().GetMessage(),
		})
	}
	return out
}

// placeOf says where in which document a problem is, e.g. shop.yaml:4:17.
func placeOf(p *orchestratorv1.Problem) string {
	place := cmp.Or(p.GetDocument(), "document")
	if p.GetLine() > 0 {
		place = fmt.Sprintf("%s:%d:%d", place, p.GetLine(), p.GetColumn())
	}
	return place
}

func help(next string) *errdetails.Help {
	return &errdetails.Help{Links: []*errdetails.Help_Link{{Description: next}}}
}

// has tells whether a status has a detail of a type.
func has[M proto.Message](s *rpcstatus.Status) bool {
	var m M
	for _, d := range s.GetDetails() {
		if d.MessageIs(m) {
			return true
		}
	}
	return false
}

// withDetails adds details. All of them are the program's own, which can always be packed.
func withDetails(s *rpcstatus.Status, details ...proto.Message) *rpcstatus.Status {
	for _, d := range details {
		packed, err := anypb.New(d)
		if err != nil {
			panic("cli: " + err.Error())
		}
		s.Details = append(s.Details, packed)
	}
	return s
}
