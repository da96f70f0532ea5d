package resource

import (
	"regexp"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Secret is a secret output of a resource that a text stands for.
type Secret struct {
	// Text is the text that stands for it.
	Text string
	// Name, Key and Field are the resource's name and key, and the output's field.
	Name, Key, Field string
}

var handlePattern = regexp.MustCompile(`weft-secret<(tenants/[^/<>\s]+/[A-Za-z]+/[^/<>\s]+) ([0-9a-f-]{36}) ([a-z][a-z0-9_]*)>`)

// SecretHandle gives the text that stands for a secret output of a resource.
func SecretHandle(name, key, field string) protoreflect.Value {
	return protoreflect.ValueOfString("weft-secret<" + name + " " + key + " " + field + ">")
}

// SecretsIn lists the secrets that texts in the fields of a spec that take secrets stand for, each once.
func SecretsIn(spec proto.Message) []Secret {
	var out []Secret
	seen := map[string]bool{}
	eachSecretText(spec.ProtoReflect(), func(text string) string {
		for _, m := range handlePattern.FindAllStringSubmatch(text, -1) {
			if !seen[m[0]] {
				seen[m[0]] = true
				out = append(out, Secret{Text: m[0], Name: m[1], Key: m[2], Field: m[3]})
			}
		}
		return text
	})
	return out
}

// PutSecrets puts values in place of the texts that stand for them, in the fields of a spec that take secrets.
func PutSecrets(spec proto.Message, values map[string]string) {
	eachSecretText(spec.ProtoReflect(), func(text string) string {
		return handlePattern.ReplaceAllStringFunc(text, func(handle string) string {
			if value, ok := values[handle]; ok {
				return value
			}
			return handle
		})
	})
}

// eachSecretText replaces each text of the fields that take secrets, at any depth, by what change gives for it.
func eachSecretText(m protoreflect.Message, change func(string) string) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		takes := FieldOptionsOf(f).GetTakesSecrets()
		switch {
		case takes && f.IsMap() && f.MapValue().Kind() == protoreflect.StringKind:
			entries := v.Map()
			entries.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				if text := change(v.String()); text != v.String() {
					entries.Set(k, protoreflect.ValueOfString(text))
				}
				return true
			})
		case takes && f.Kind() == protoreflect.StringKind && !f.IsList():
			if text := change(v.String()); text != v.String() {
				m.Set(f, protoreflect.ValueOfString(text))
			}
		case f.IsList() && f.Message() != nil:
			for i := range v.List().Len() {
				eachSecretText(v.List().Get(i).Message(), change)
			}
		case f.Message() != nil && !f.IsMap():
			eachSecretText(v.Message(), change)
		}
		return true
	})
}
