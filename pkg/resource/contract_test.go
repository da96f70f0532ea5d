package resource_test

import (
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/weftcloud/weft/pkg/resource"
	_ "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
)

// internal are the files that are no API: what is kept, and what goes over the bus.
var internal = []string{"weft/bus/v1/", "weft/orchestrator/v1/saga.proto", "weft/participant/v1/record.proto", "weft/kind/v1/kind.proto"}

// TestEveryFieldSaysItsBehavior holds the contracts to AIP-203: every field of the API says whether it is required,
// optional, or only told.
func TestEveryFieldSaysItsBehavior(t *testing.T) {
	fields := 0
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(file.Path(), "weft/") || hasPrefix(file.Path(), internal) {
			return true
		}
		for i := range file.Messages().Len() {
			fields += checkBehavior(t, file.Messages().Get(i))
		}
		return true
	})
	if fields < 300 {
		t.Errorf("only %d fields were looked at", fields)
	}
}

func hasPrefix(path string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(path, p) {
			return true
		}
	}
	return false
}

func checkBehavior(t *testing.T, m protoreflect.MessageDescriptor) int {
	t.Helper()
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		behaviors, ok := proto.GetExtension(f.Options(), annotations.E_FieldBehavior).([]annotations.FieldBehavior)
		if !ok || len(behaviors) == 0 {
			t.Errorf("%s does not say its behavior", f.FullName())
		}
	}
	return m.Fields().Len()
}

// TestEveryKindDescribesItself reads all kinds from their contracts.
func TestEveryKindDescribesItself(t *testing.T) {
	kinds, err := resource.Linked()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds.Kinds() {
		if k.Service == "" || k.Collection == "" || k.Singular == "" || !strings.HasPrefix(k.Type, k.Service+".weft.cloud/") {
			t.Errorf("%s describes itself as %+v", k.Name, k)
		}
	}
	if len(kinds.Kinds()) != 17 {
		t.Errorf("%d kinds, want 17", len(kinds.Kinds()))
	}
}
