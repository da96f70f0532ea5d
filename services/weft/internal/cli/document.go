package cli

import (
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftcloud/weft/pkg/fault"
)

// document is a stack's document as it was read.
type document struct {
	// name is what messages call it: the file's name.
	name, text string
}

// readFile reads a file, or standard input for "-".
func (a *tool) readFile(path string) ([]byte, error) {
	if path == "-" {
		data, err := io.ReadAll(a.p.In)
		return data, failed(err, "read standard input")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, &failure{what: "read " + path, err: fault.New(fault.NotFound, "%s", err), next: "give the path of a file that can be read, or - for standard input"}
	}
	return data, nil
}

func (a *tool) readDocument(cmd *cobra.Command, path string) (*document, error) {
	if path == "" {
		return nil, misused(cmd, "give the document with -f FILE")
	}
	data, err := a.readFile(path)
	if err != nil {
		return nil, err
	}
	name := filepath.Base(path)
	if path == "-" {
		name = "stdin"
	}
	return &document{name: name, text: string(data)}, nil
}

// stackName reads the stack's name in a document, without understanding the rest.
func (d *document) stackName() (string, error) {
	var head struct {
		Name string `yaml:"name"`
	}
	if err := yaml.Unmarshal([]byte(d.text), &head); err != nil {
		return "", &failure{what: "read " + d.name, err: fault.New(fault.Invalid, "%s", strings.TrimSpace(err.Error()))}
	}
	if head.Name == "" {
		return "", &failure{what: "read " + d.name, err: fault.New(fault.Invalid, "the document has no name"), next: "add a line name: NAME, or name the stack on the command line"}
	}
	return head.Name, nil
}

// sources gives the document's text by its name, for showing problems in it.
func (d *document) sources() map[string]string { return map[string]string{d.name: d.text, "": d.text} }

// reading is the document that a command reads, and the values of its parameters.
type reading struct {
	file   string
	params []string
}

func (r *reading) flags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&r.file, "file", "f", "", "the document's `FILE`; - for standard input")
	cmd.Flags().StringArrayVar(&r.params, "param", nil, "a parameter's value, `NAME=VALUE`, over the document's; may be given again")
}

// withDocument reads a document, and gives it to do with a connection and the tenant that it is for.
func (a *tool) withDocument(cmd *cobra.Command, r *reading, do func(c *client, parent string, doc *document, values *structpb.Struct) error) error {
	doc, err := a.readDocument(cmd, r.file)
	if err != nil {
		return err
	}
	values, err := parameters(cmd, r.params)
	if err != nil {
		return err
	}
	return a.with(func(c *client) error {
		parent, err := c.parent()
		if err != nil {
			return err
		}
		return do(c, parent, doc, values)
	})
}

// parameters reads k=v pairs; a value is YAML, so that 3 is a number and [a, b] a list.
func parameters(cmd *cobra.Command, pairs []string) (*structpb.Struct, error) {
	if len(pairs) == 0 {
		return nil, nil
	}
	values := map[string]any{}
	for _, pair := range pairs {
		name, text, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, misused(cmd, "--param %s: give NAME=VALUE", pair)
		}
		var value any
		if err := yaml.Unmarshal([]byte(text), &value); err != nil {
			return nil, misused(cmd, "--param %s: %s", name, firstLine(err.Error()))
		}
		values[name] = plain(value)
	}
	s, err := structpb.NewStruct(values)
	if err != nil {
		return nil, misused(cmd, "--param: %s", err)
	}
	return s, nil
}

// plain makes of YAML's numbers what a Struct can hold.
func plain(v any) any {
	switch v := v.(type) {
	case uint64:
		return float64(v)
	case int64:
		return float64(v)
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = plain(v[k])
		}
	}
	return v
}
