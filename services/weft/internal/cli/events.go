package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"
	"sigs.k8s.io/yaml"

	"github.com/weftcloud/weft/pkg/fault"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

func (a *tool) eventsCommand() *cobra.Command {
	var follow bool
	var back time.Duration
	cmd := &cobra.Command{
		Use: "events", Short: "Read the events of the tenant",
		Long: `Read the events of the tenant, from the first that is kept or from --since on.

With -o json it writes {"events": [...]}; with --follow, which has no end, one event a line.`,
		Example: "  weft events --since 10m\n  weft events --follow -o json",
		Args:    takes(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(func(c *client) error {
				parent, err := c.parent()
				if err != nil {
					return err
				}
				request := &orchestratorv1.WatchEventsRequest{Parent: parent, Follow: follow}
				if from := since(a.p.Now(), back); !from.IsZero() {
					request.Since = timestamppb.New(from)
				}
				s, err := orchestratorv1.NewEventServiceClient(c.conn).WatchEvents(cmd.Context(), request)
				if err != nil {
					return failed(err, "read the events of %s", c.tenant)
				}
				next := func() (*orchestratorv1.Event, error) {
					m, err := s.Recv()
					if cmd.Context().Err() != nil && status.Code(err) == codes.Canceled {
						return nil, io.EOF // a person stopped following
					}
					return m.GetEvent(), err
				}
				return failed(a.writeEvents(next, follow), "read the events of %s", c.tenant)
			})
		},
	}
	cmd.Flags().BoolVar(&follow, "follow", false, "go on with new events")
	cmd.Flags().DurationVar(&back, "since", 0, "only events of the last so much time, e.g. 10m")
	return cmd
}

// writeEvents writes events as they come, or in one document when they have an end and are for a program.
func (a *tool) writeEvents(next func() (*orchestratorv1.Event, error), follow bool) error {
	events := []json.RawMessage{}
	for {
		e, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if a.output == "table" {
			if err := a.write([]byte(a.eventLine(e))); err != nil {
				return err
			}
			continue
		}
		raw, err := compactJSON(e)
		if err != nil {
			return err
		}
		if !follow {
			events = append(events, raw)
			continue
		}
		if err := a.writeOne(raw); err != nil {
			return err
		}
	}
	if a.output == "table" || follow {
		return nil
	}
	whole, err := json.MarshalIndent(map[string]any{"events": events}, "", "  ")
	if err != nil {
		return fault.Wrap(err, "write JSON")
	}
	if a.output == "yaml" {
		return a.writeYAML(whole)
	}
	return a.write(append(whole, '\n'))
}

// writeOne writes one event of an endless stream: a line of JSON, or a YAML document.
func (a *tool) writeOne(raw []byte) error {
	if a.output == "json" {
		return a.write(append(raw, '\n'))
	}
	if err := a.write([]byte("---\n")); err != nil {
		return err
	}
	return a.writeYAML(raw)
}

func (a *tool) writeYAML(raw []byte) error {
	data, err := yaml.JSONToYAML(raw)
	if err != nil {
		return fault.Wrap(err, "write YAML")
	}
	return a.write(data)
}

func compactJSON(e *orchestratorv1.Event) (json.RawMessage, error) {
	raw, err := protojson.Marshal(e)
	if err != nil {
		return nil, fault.Wrap(err, "write an event as JSON")
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return nil, fault.Wrap(err, "write an event as JSON")
	}
	return b.Bytes(), nil
}

func (a *tool) eventLine(e *orchestratorv1.Event) string {
	width, _ := a.p.Size()
	st := a.style(a.p.OutIsTerminal)
	at := e.GetTime().AsTime().Local().Format("15:04:05.000")
	return cut(fmt.Sprintf("%s  %-44s  %s  %s", st.dim(at), e.GetType(), e.GetSubject(), st.dim(fmt.Sprintf("#%d", e.GetSequence()))), width) + "\n"
}
