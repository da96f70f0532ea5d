package resource_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/weftcloud/weft/pkg/resource"
	busv1 "github.com/weftcloud/weft/proto/gen/weft/bus/v1"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	participantv1 "github.com/weftcloud/weft/proto/gen/weft/participant/v1"
	_ "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
)

// internal are the files that are no API: what is kept, and what goes over the bus.
var internal = []string{"weft/bus/v1/", "weft/orchestrator/v1/saga.proto", "weft/participant/v1/record.proto", "weft/kind/v1/kind.proto"}

// unruled are the fields that say nothing of the values they take, each with the reason.
var unruled = map[protoreflect.FullName]string{
	"weft.bus.v1.Outcome.observed":                   "any kind's message, absent unless READY; a rule on an Any could only list types, and no contract lists the kinds",
	"weft.orchestrator.v1.StandingResource.observed": "the same, as it is kept",
}

// messages gives all messages of the contracts, those inside others too, but not the entries of maps.
func messages() []protoreflect.MessageDescriptor {
	var out []protoreflect.MessageDescriptor
	var add func(all protoreflect.MessageDescriptors)
	add = func(all protoreflect.MessageDescriptors) {
		for i := range all.Len() {
			if m := all.Get(i); !m.IsMapEntry() {
				out = append(out, m)
				add(m.Messages())
			}
		}
	}
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if strings.HasPrefix(file.Path(), "weft/") {
			add(file.Messages())
		}
		return true
	})
	return out
}

// TestEveryFieldSaysItsBehavior holds the contracts to AIP-203: every field of the API says whether it is required,
// optional, or only told.
func TestEveryFieldSaysItsBehavior(t *testing.T) {
	fields := 0
	for _, m := range messages() {
		if hasPrefix(m.ParentFile().Path(), internal) {
			continue
		}
		for i := range m.Fields().Len() {
			fields++
			if f := m.Fields().Get(i); len(behaviors(f)) == 0 {
				t.Errorf("%s does not say its behavior", f.FullName())
			}
		}
	}
	if fields < 300 {
		t.Errorf("only %d fields were looked at", fields)
	}
}

// TestEveryFieldHasRules holds the contracts to their rules: every field that someone can send, keep or put on the bus
// says what values it takes. What is only told (OUTPUT_ONLY) needs none, and bools take both of theirs.
func TestEveryFieldHasRules(t *testing.T) {
	fields, used := 0, map[protoreflect.FullName]bool{}
	for _, m := range messages() {
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			if slices.Contains(behaviors(f), annotations.FieldBehavior_OUTPUT_ONLY) {
				continue
			}
			fields++
			wrong := lacks(f)
			if unruled[f.FullName()] != "" {
				used[f.FullName()] = true
				if wrong == "" {
					t.Errorf("%s has rules; take it off the list of those without", f.FullName())
				}
				continue
			}
			if wrong != "" {
				t.Errorf("%s: %s", f.FullName(), wrong)
			}
		}
	}
	for name := range unruled {
		if !used[name] {
			t.Errorf("%s is said to have no rules, and does not exist", name)
		}
	}
	if fields < 350 {
		t.Errorf("only %d fields were looked at", fields)
	}
}

// TestRulesCompile has each message checked once, so that a rule that does not fit its field is found here, and that
// what is unset is refused by nothing but the rule that says it is needed.
func TestRulesCompile(t *testing.T) {
	for _, m := range messages() {
		err := protovalidate.Validate(dynamicpb.NewMessage(m))
		var invalid *protovalidate.ValidationError
		if err == nil {
			continue
		}
		if !errors.As(err, &invalid) {
			t.Errorf("%s: %s", m.FullName(), err)
			continue
		}
		for _, v := range invalid.Violations {
			if f := v.FieldDescriptor; f != nil && !needed(f) {
				t.Errorf("%s is refused when it is unset: %s", f.FullName(), v)
			}
		}
	}
}

// needed tells whether a field is to be set: it says so to people, or in a file that is no API, to the program.
func needed(f protoreflect.FieldDescriptor) bool {
	return slices.Contains(behaviors(f), annotations.FieldBehavior_REQUIRED) || hasPrefix(f.ParentFile().Path(), internal)
}

// lacks says what a field's rules leave open; "" if nothing.
func lacks(f protoreflect.FieldDescriptor) string {
	rules := rulesOf(f)
	required := slices.Contains(behaviors(f), annotations.FieldBehavior_REQUIRED)
	switch {
	case f.IsMap():
		return lacksInMap(f, rules.GetMap())
	case f.IsList():
		if rules.GetRepeated().GetMaxItems() == 0 {
			return "max_items is missing"
		}
		return within("items", lacksInValue(f, rules.GetRepeated().GetItems()))
	case f.Message() != nil && required && !rules.GetRequired():
		return "it is REQUIRED, and required is missing"
	case f.Enum() != nil && required && !slices.Contains(rules.GetEnum().GetNotIn(), 0):
		return "it is REQUIRED, and not_in: [0] is missing"
	}
	return lacksInValue(f, rules)
}

func lacksInMap(f protoreflect.FieldDescriptor, rules *validate.MapRules) string {
	if rules.GetMaxPairs() == 0 {
		return "max_pairs is missing"
	}
	if wrong := lacksInValue(f.MapKey(), rules.GetKeys()); wrong != "" {
		return within("keys", wrong)
	}
	return within("values", lacksInValue(f.MapValue(), rules.GetValues()))
}

func within(part, wrong string) string {
	if wrong == "" {
		return ""
	}
	return part + ": " + wrong
}

// lacksInValue says what the rules of one value leave open.
func lacksInValue(f protoreflect.FieldDescriptor, rules *validate.FieldRules) string {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return ""
	case protoreflect.EnumKind:
		if !rules.GetEnum().GetDefinedOnly() {
			return "defined_only is missing"
		}
	case protoreflect.StringKind:
		if !boundedText(rules.GetString()) {
			return "nothing says how long it may be: give max_len, or a format that does"
		}
	case protoreflect.BytesKind:
		if rules.GetBytes().GetMaxLen() == 0 {
			return "max_len is missing"
		}
	case protoreflect.MessageKind, protoreflect.GroupKind:
		if len(rules.GetCel()) == 0 && rules.GetType() == nil && !rules.GetRequired() && !ruled(f.Message(), nil) {
			return fmt.Sprintf("neither it nor %s has rules", f.Message().FullName())
		}
	default:
		return lacksInNumber(rules)
	}
	return ""
}

// lacksInNumber asks for a lower bound; where there is no upper one, the type's own holds.
func lacksInNumber(rules *validate.FieldRules) string {
	switch n := rules.GetType().(type) {
	case *validate.FieldRules_Int32:
		if n.Int32.GetGreaterThan() != nil {
			return ""
		}
	case *validate.FieldRules_Int64:
		if n.Int64.GetGreaterThan() != nil {
			return ""
		}
	case *validate.FieldRules_Double:
		if n.Double.GetGreaterThan() != nil {
			return ""
		}
	}
	return "nothing says how small it may be: give gte"
}

func boundedText(s *validate.StringRules) bool {
	return s.GetMaxLen() > 0 || s.GetMaxBytes() > 0 || s.GetLen() > 0 || s.GetConst() != "" || len(s.GetIn()) > 0 || s.GetUuid() || s.GetIp() || s.GetIpPrefix()
}

// ruled tells whether a message of ours says what values it takes: a field of it does, or it has none.
func ruled(m protoreflect.MessageDescriptor, above []protoreflect.FullName) bool {
	if !strings.HasPrefix(string(m.FullName()), "weft.") || slices.Contains(above, m.FullName()) {
		return false
	}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if f.Kind() == protoreflect.BoolKind || proto.HasExtension(f.Options(), validate.E_Field) || f.Message() != nil && ruled(f.Message(), append(above, m.FullName())) {
			return true
		}
	}
	return m.Fields().Len() == 0
}

func rulesOf(f protoreflect.FieldDescriptor) *validate.FieldRules {
	rules, ok := proto.GetExtension(f.Options(), validate.E_Field).(*validate.FieldRules)
	if !ok || rules == nil {
		return &validate.FieldRules{}
	}
	return rules
}

func behaviors(f protoreflect.FieldDescriptor) []annotations.FieldBehavior {
	found, ok := proto.GetExtension(f.Options(), annotations.E_FieldBehavior).([]annotations.FieldBehavior)
	if !ok {
		return nil
	}
	return found
}

func hasPrefix(path string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(path, p) })
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
		if err := protovalidate.Validate(k.Options); err != nil {
			t.Errorf("%s describes itself against the rules: %s", k.Name, err)
		}
		for i := range k.Spec.Fields().Len() {
			f := k.Spec.Fields().Get(i)
			if options := resource.FieldOptionsOf(f); options != nil {
				if err := protovalidate.Validate(options); err != nil {
					t.Errorf("%s describes itself against the rules: %s", f.FullName(), err)
				}
			}
		}
	}
	if len(kinds.Kinds()) < 17 {
		t.Errorf("%d kinds, want at least 17", len(kinds.Kinds()))
	}
}

// TestWhatJoinsCanBeLeftOut wants fields that join to be such that the object can be made without them, and then be changed in
// place to have them; and plans to find them: lists of messages within lists and messages, not within maps.
func TestWhatJoinsCanBeLeftOut(t *testing.T) {
	kinds, err := resource.Linked()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	var look func(m protoreflect.MessageDescriptor, change kindv1.Change, above []protoreflect.FullName)
	look = func(m protoreflect.MessageDescriptor, change kindv1.Change, above []protoreflect.FullName) {
		if slices.Contains(above, m.FullName()) {
			return
		}
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			options := resource.FieldOptionsOf(f)
			does := max(change, options.GetChange())
			if options.GetJoins() {
				found++
				if slices.Contains(behaviors(f), annotations.FieldBehavior_REQUIRED) || !f.IsList() || does > kindv1.Change_CHANGE_IN_PLACE {
					t.Errorf("%s joins, and must be an optional list that changes in place", f.FullName())
				}
			}
			if f.Message() != nil && !f.IsMap() {
				look(f.Message(), does, append(above, m.FullName()))
			}
			if f.IsMap() && f.MapValue().Message() != nil && holdsJoining(f.MapValue().Message(), nil) {
				t.Errorf("%s is a map that holds what joins, which no plan finds", f.FullName())
			}
		}
	}
	for _, k := range kinds.Kinds() {
		look(k.Spec, kindv1.Change_CHANGE_UNSPECIFIED, nil)
	}
	if found == 0 {
		t.Error("nothing joins: the members of a load balancer do")
	}
}

func holdsJoining(m protoreflect.MessageDescriptor, above []protoreflect.FullName) bool {
	if slices.Contains(above, m.FullName()) {
		return false
	}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if resource.FieldOptionsOf(f).GetJoins() || f.Message() != nil && holdsJoining(f.Message(), append(above, m.FullName())) {
			return true
		}
	}
	return false
}

// TestRulesTakeWhatCloudsTake holds the rules to the limits of the systems that the values go to: what those take is not
// refused, and what nothing could take is.
func TestRulesTakeWhatCloudsTake(t *testing.T) {
	const key = "0192f0c1-2b3c-7d4e-8f50-61728394a5b6"
	container := func(change func(*containerv1.Container)) proto.Message {
		c := &containerv1.Container{Name: "web", Image: "nginx"}
		change(c)
		return &containerv1.WorkloadSpec{Cluster: "main", Containers: []*containerv1.Container{c}}
	}
	needs := func(r *containerv1.ResourceRequirements) proto.Message {
		return container(func(c *containerv1.Container) { c.Resources = r })
	}
	server := func(change func(*computev1.ServerSpec)) proto.Message {
		s := &computev1.ServerSpec{Image: "cirros", Flavor: "m1.tiny", Network: "lan"}
		change(s)
		return s
	}
	longest := "tenants/" + strings.Repeat("t", 63) + "/securityGroups/" + strings.Repeat("g", 128)
	preflight := func(fields int) proto.Message {
		spec := &structpb.Struct{Fields: map[string]*structpb.Value{}}
		for i := range fields {
			spec.Fields[fmt.Sprint(i)] = structpb.NewNumberValue(float64(i))
		}
		return &participantv1.PreflightRequest{Items: []*participantv1.Item{{Spec: spec, Key: key}}}
	}
	update := func(paths ...string) proto.Message {
		return &networkv1.UpdateNetworkRequest{
			Network:    &networkv1.Network{Cloud: "clouds/lab", Spec: &networkv1.NetworkSpec{}},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: paths},
		}
	}
	origin := &busv1.Origin{Saga: "tenants/acme/operations/" + key, Step: "net.subnet/release", Direction: busv1.Direction_DIRECTION_DO, Attempt: 1}
	spec, err := anypb.New(&networkv1.NetworkSpec{})
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		message proto.Message
		refused string // the path of the field, "" if the message is to be taken
	}{
		"a container with nothing but an image": {container(func(*containerv1.Container) {}), ""},
		"the longest argument of Linux": {container(func(c *containerv1.Container) {
			c.Command, c.Args = []string{"sh", "-c", ""}, []string{strings.Repeat("x", 131071)}
		}), ""},
		"an argument longer than Linux takes": {container(func(c *containerv1.Container) { c.Args = []string{strings.Repeat("x", 131072)} }), "containers[0].args[0]"},
		"variables with dots and spaces":      {container(func(c *containerv1.Container) { c.Env = map[string]string{"a.b-c": "", "_A 1": "x=y\n"} }), ""},
		"a variable with an equals sign":      {container(func(c *containerv1.Container) { c.Env = map[string]string{"a=b": ""} }), `containers[0].env["a=b"]`},
		"a variable without a name":           {container(func(c *containerv1.Container) { c.Env = map[string]string{"": "x"} }), `containers[0].env[""]`},
		"quantities of all spellings":         {needs(&containerv1.ResourceRequirements{Cpu: "0.5", CpuLimit: "1500m", Memory: "1.5Gi", MemoryLimit: "2T"}), ""},
		"quantities without a unit":           {needs(&containerv1.ResourceRequirements{Cpu: ".5", Memory: "129e6"}), ""},
		"a quantity in words":                 {needs(&containerv1.ResourceRequirements{Memory: "64MB"}), "containers[0].resources.memory"},
		"labels as Kubernetes has them": {&containerv1.WorkloadSpec{
			Cluster: "main", Containers: []*containerv1.Container{{Name: "a", Image: "b"}},
			Labels: map[string]string{"app.kubernetes.io/name": "Web_1.0", "tier": ""},
		}, ""},
		"a reference by the longest name":            {server(func(s *computev1.ServerSpec) { s.SecurityGroups = []string{longest} }), ""},
		"an empty reference":                         {server(func(s *computev1.ServerSpec) { s.SecurityGroups = []string{""} }), "security_groups[0]"},
		"metadata with the longest key of Nova":      {server(func(s *computev1.ServerSpec) { s.Metadata = map[string]string{strings.Repeat("k", 255): ""} }), ""},
		"metadata with a key that Nova refuses":      {server(func(s *computev1.ServerSpec) { s.Metadata = map[string]string{"a/b": ""} }), `metadata["a/b"]`},
		"a key on a security token":                  {&computev1.KeyPairSpec{PublicKey: "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5"}, ""},
		"a spec whose values are not known yet":      {preflight(0), ""},
		"a spec of the sort people write":            {preflight(20), ""},
		"a spec that no document holds":              {preflight(10001), "items[0].spec"},
		"a mask of a part of the spec":               {update("spec.mtu", "metadata.labels"), ""},
		"a mask of what cannot be changed":           {update("status"), "update_mask"},
		"since ever":                                 {&orchestratorv1.WatchEventsRequest{Parent: "tenants/acme", Since: &timestamppb.Timestamp{Seconds: -62135596800}}, ""},
		"a time that cannot be written":              {&orchestratorv1.WatchEventsRequest{Parent: "tenants/acme", Since: &timestamppb.Timestamp{Seconds: 1 << 60}}, "since"},
		"a timeout in the past":                      {&orchestratorv1.DeleteStackRequest{Name: "tenants/acme/stacks/shop", Timeout: durationpb.New(-1)}, "timeout"},
		"a timeout of a day":                         {&orchestratorv1.DeleteStackRequest{Name: "tenants/acme/stacks/shop", Timeout: durationpb.New(24 * time.Hour)}, ""},
		"an operation on one resource":               {&orchestratorv1.WatchOperationRequest{Name: "tenants/acme/operations/network.subnets.a." + key + ".1"}, ""},
		"what is no operation":                       {&orchestratorv1.WatchOperationRequest{Name: "tenants/acme/subnets/a"}, "name"},
		"a tenant that no name could hold":           {&orchestratorv1.CreateTenantRequest{TenantId: "a.b", Tenant: &orchestratorv1.Tenant{Spec: &orchestratorv1.TenantSpec{}}}, "tenant_id"},
		"the ledger of all tenants":                  {&orchestratorv1.ListLedgerEntriesRequest{Parent: "tenants/-"}, ""},
		"a command to make":                          {&busv1.Command{Origin: origin, Name: "tenants/acme/networks/n", Type: "network.weft.cloud/Network", Key: key, Action: &busv1.Command_Ensure{Ensure: &busv1.Ensure{Cloud: "clouds/lab", Spec: spec}}}, ""},
		"a command that asks for nothing":            {&busv1.Command{Origin: origin, Name: "tenants/acme/networks/n", Type: "network.weft.cloud/Network", Key: key}, "action"},
		"a command without a key":                    {&busv1.Command{Origin: origin, Name: "tenants/acme/networks/n", Type: "network.weft.cloud/Network", Action: &busv1.Command_Release{}}, "key"},
		"an outcome of a command that nobody counts": {&busv1.Outcome{Origin: &busv1.Origin{Saga: origin.GetSaga(), Step: "a", Direction: origin.GetDirection()}, Key: key, Result: busv1.Result_RESULT_READY}, "origin.attempt"},
	} {
		if diff := cmp.Diff(c.refused, firstRefused(t, c.message)); diff != "" {
			t.Errorf("%s: the refused field: %s", what, diff)
		}
	}
}

// firstRefused gives the path of the first field that the rules refuse; "" if they refuse none.
func firstRefused(t *testing.T, m proto.Message) string {
	t.Helper()
	err := protovalidate.Validate(m)
	if err == nil {
		return ""
	}
	var invalid *protovalidate.ValidationError
	if !errors.As(err, &invalid) {
		t.Fatal(err)
	}
	return protovalidate.FieldPathString(invalid.Violations[0].Proto.GetField())
}
