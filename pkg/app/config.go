// Package app is what every program of Weft is made of: configuration, logs, metrics, a gRPC server and client with
// everything on them, tasks that run together, and closers that end them in the reverse order of their making.
//
// Nothing here reads the environment, catches a signal or exits: main does, and hands over what it found.
package app

import (
	"os"
	"reflect"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/v2"
	"sigs.k8s.io/yaml"

	"github.com/weftcloud/weft/pkg/fault"
)

// Sources are where a configuration comes from; what stands later in this list outweighs what stands earlier.
type Sources struct {
	// File is the path of a YAML file; empty means none. A key that the configuration does not have is refused.
	File string
	// EnvPrefix is the beginning of the names of variables, e.g. WEFT_NETWORK_; empty means that none is read. A field
	// tagged `koanf:"listen"` is set by WEFT_NETWORK_LISTEN, one in a group nats: as `koanf:"url"` by
	// WEFT_NETWORK_NATS_URL. A variable with the prefix that fits no field is refused.
	EnvPrefix string
	// Environ is the environment as os.Environ gives it.
	Environ []string
	// Flags are values by path, e.g. nats.url; main puts those flags here that were given.
	Flags map[string]any
}

// LoadConfig fills the struct that into points to, whose fields are tagged `koanf`; an embedded struct tagged
// `koanf:",squash"` brings its fields along. Values that it holds already are
// the defaults. The error is Invalid and names the source and the key.
func LoadConfig(into any, s Sources) error {
	k := koanf.New(".")
	if s.File != "" {
		data, err := os.ReadFile(s.File)
		if err != nil {
			return fault.New(fault.Invalid, "read the configuration %s: %s", s.File, err)
		}
		if err := load(k, data); err != nil {
			return fault.Wrap(err, "read the configuration %s", s.File)
		}
		if err := decode(k, into); err != nil {
			return fault.Wrap(err, "read the configuration %s", s.File)
		}
	}
	env, err := fromEnviron(reflect.TypeOf(into).Elem(), s)
	if err != nil {
		return err
	}
	for _, values := range []map[string]any{env, s.Flags} {
		for path, value := range values {
			if err := k.Set(path, value); err != nil {
				return fault.New(fault.Invalid, "set %s: %s", path, err)
			}
		}
	}
	return fault.Wrap(decode(k, into), "read the configuration")
}

func load(k *koanf.Koanf, data []byte) error {
	values := map[string]any{}
	if err := yaml.UnmarshalStrict(data, &values); err != nil {
		return fault.New(fault.Invalid, "%s", err)
	}
	return k.Load(confmap(values), nil)
}

// confmap is a koanf provider of values that are there already.
type confmap map[string]any

// ReadBytes is never called: there is no parser.
func (confmap) ReadBytes() ([]byte, error) {
	return nil, fault.New(fault.Internal, "values have no bytes")
}

// Read gives the values.
func (c confmap) Read() (map[string]any, error) { return c, nil }

func decode(k *koanf.Koanf, into any) error {
	err := k.UnmarshalWithConf("", into, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		Result: into, TagName: "koanf", ErrorUnused: true, WeaklyTypedInput: true, ZeroFields: true,
		DecodeHook: mapstructure.ComposeDecodeHookFunc(
			mapstructure.StringToTimeDurationHookFunc(),
			mapstructure.StringToSliceHookFunc(","),
			mapstructure.TextUnmarshallerHookFunc(),
		),
	}})
	if err != nil {
		return fault.New(fault.Invalid, "%s", strings.ReplaceAll(err.Error(), "\n", " "))
	}
	return nil
}

// fromEnviron gives the values of the variables that begin with the prefix, by path.
func fromEnviron(t reflect.Type, s Sources) (map[string]any, error) {
	out := map[string]any{}
	if s.EnvPrefix == "" {
		return out, nil
	}
	known := map[string]string{}
	variables(t, "", known)
	for _, entry := range s.Environ {
		name, value, ok := strings.Cut(entry, "=")
		rest, ours := strings.CutPrefix(name, s.EnvPrefix)
		if !ok || !ours {
			continue
		}
		path, found := known[rest]
		if !found {
			return nil, fault.New(fault.Invalid, "the variable %s fits no field of the configuration", name)
		}
		out[path] = value
	}
	return out, nil
}

// squash is the tag of an embedded struct whose fields count as those of the struct around it.
const squash = ",squash"

// variables maps the names of variables, without the prefix, to the paths of the fields of t.
func variables(t reflect.Type, path string, out map[string]string) {
	for i := range t.NumField() {
		tag := t.Field(i).Tag.Get("koanf")
		if tag == "" {
			continue
		}
		if tag == squash {
			variables(t.Field(i).Type, path, out)
			continue
		}
		at := path + tag
		if t.Field(i).Type.Kind() == reflect.Struct {
			variables(t.Field(i).Type, at+".", out)
			continue
		}
		out[variable(at)] = at
	}
}

// variable gives the name of the variable of a path: nats.url is NATS_URL, dataDir is DATA_DIR.
func variable(path string) string {
	var b strings.Builder
	for _, r := range path {
		switch {
		case r == '.' || r == '-':
			b.WriteByte('_')
		case r >= 'A' && r <= 'Z':
			b.WriteByte('_')
			b.WriteRune(r)
		default:
			b.WriteRune(r)
		}
	}
	return strings.ToUpper(b.String())
}
