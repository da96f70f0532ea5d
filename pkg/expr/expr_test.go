package expr_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/weftcloud/weft/pkg/expr"
	"github.com/weftcloud/weft/pkg/fault"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	containerv1 "github.com/weftcloud/weft/proto/gen/weft/container/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
)

func TestParse(t *testing.T) {
	cases := map[string]struct {
		text string
		want []expr.Part
	}{
		"empty":             {"", nil},
		"literal":           {"a $b {c}", []expr.Part{{Text: "a $b {c}"}}},
		"escape":            {"a $${b}", []expr.Part{{Text: "a ${b}"}}},
		"whole":             {"${a.b}", []expr.Part{{Expression: true, Text: "a.b", Offset: 2}}},
		"mixed":             {"x${a}y", []expr.Part{{Text: "x"}, {Expression: true, Text: "a", Offset: 3}, {Text: "y", Offset: 5}}},
		"braces inside":     {"${ {'a': {'b': 1}}.a }", []expr.Part{{Expression: true, Text: " {'a': {'b': 1}}.a ", Offset: 2}}},
		"brace in a string": {`${"}" + '}'}`, []expr.Part{{Expression: true, Text: `"}" + '}'`, Offset: 2}}},
		"triple quotes":     {`${'''it's }'''}`, []expr.Part{{Expression: true, Text: `'''it's }'''`, Offset: 2}}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := expr.Parse(c.text)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got.Parts); d != "" {
				t.Error(d)
			}
		})
	}
}

func env(t *testing.T) *expr.Env {
	t.Helper()
	e, err := expr.NewEnv(map[string]protoreflect.MessageDescriptor{
		"db":      (&computev1.ServerObserved{}).ProtoReflect().Descriptor(),
		"web-one": (&containerv1.WorkloadObserved{}).ProtoReflect().Descriptor(),
		"data":    (&storagev1.VolumeObserved{}).ProtoReflect().Descriptor(),
		"in":      (&storagev1.VolumeObserved{}).ProtoReflect().Descriptor(),
		"net":     (&networkv1.PrivateNetworkObserved{}).ProtoReflect().Descriptor(),
	}, map[string]any{"replicas": int64(3), "web-name": "shop", "ratio": -0.5, "on": true, "zones": []any{"a", "b"}, "deep": map[string]any{"x": int64(1)}})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func field(m proto.Message, name string) protoreflect.FieldDescriptor {
	return m.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(name))
}

var (
	aString = expr.FieldType(field(&computev1.ServerSpec{}, "image"))
	anInt   = expr.FieldType(field(&containerv1.WorkloadSpec{}, "replicas"))
	aBool   = expr.FieldType(field(&networkv1.SubnetSpec{}, "dhcp_disabled"))
	strs    = expr.FieldType(field(&networkv1.SubnetSpec{}, "dns_servers"))
	strMap  = expr.FieldType(field(&computev1.ServerSpec{}, "metadata"))
	anEnum  = expr.FieldType(field(&computev1.ServerSpec{}, "power_state"))
)

func TestEval(t *testing.T) {
	outputs := map[string]proto.Message{
		"db":      &computev1.ServerObserved{Address: "10.0.0.5", Interfaces: []*computev1.ServerInterface{{Address: "10.0.0.5", MacAddress: "aa"}}},
		"web-one": &containerv1.WorkloadObserved{ReadyReplicas: 2, NodePorts: []int32{30080}},
		"data":    &storagev1.VolumeObserved{SizeGib: 20, ServerIds: []string{"s1"}},
	}
	cases := map[string]struct {
		text string
		want expr.Type
		out  any
		uses []expr.Use
	}{
		"string":            {"${db.address}", aString, "10.0.0.5", []expr.Use{{Resource: "db", Field: "address"}}},
		"text":              {"http://${db.address}:${web_one.node_ports[0]}/", aString, "http://10.0.0.5:30080/", []expr.Use{{Resource: "db", Field: "address"}, {Resource: "web-one", Field: "node_ports"}}},
		"number":            {"${web_one.ready_replicas + 1}", anInt, 3.0, []expr.Use{{Resource: "web-one", Field: "ready_replicas"}}},
		"int64 is a number": {"${data.size_gib}", anInt, 20.0, []expr.Use{{Resource: "data", Field: "size_gib"}}},
		"list":              {"${data.server_ids}", strs, []any{"s1"}, []expr.Use{{Resource: "data", Field: "server_ids"}}},
		"index":             {"${db.interfaces[0].mac_address}", aString, "aa", []expr.Use{{Resource: "db", Field: "interfaces"}}},
		"parameter":         {`${params["replicas"] * 2}`, anInt, 6.0, nil},
		"parameter by dot":  {`${params.replicas}`, anInt, 3.0, nil},
		"negative":          {`${-params.ratio > 0.0}`, aBool, true, nil},
		"list of params":    {`${params.zones}`, strs, []any{"a", "b"}, nil},
		"map of params":     {`${params.deep.x}`, anInt, 1.0, nil},
		"not a parameter":   {`${"params.replicas"}`, aString, "params.replicas", nil},
		"map":               {`${{'a': db.address}}`, strMap, map[string]any{"a": "10.0.0.5"}, []expr.Use{{Resource: "db", Field: "address"}}},
		"escape stays":      {`$${x} ${params["web-name"]}`, aString, "${x} shop", nil},
		"enum":              {`${"off"}`, anEnum, "off", nil},
		"string functions":  {`${data.server_ids.join(",")}`, aString, "s1", []expr.Use{{Resource: "data", Field: "server_ids"}}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			tpl, err := expr.Parse(c.text)
			if err != nil {
				t.Fatal(err)
			}
			p, err := env(t).Compile(tpl, c.want)
			if err != nil {
				t.Fatal(err)
			}
			v, err := p.Eval(outputs)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.out, v.AsInterface()); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(c.uses, p.Uses()); d != "" {
				t.Error(d)
			}
			again, err := expr.Parse(p.Text())
			if err != nil {
				t.Fatalf("%s: %v", p.Text(), err)
			}
			second, err := env(t).Compile(again, c.want)
			if err != nil {
				t.Fatalf("%s: %v", p.Text(), err)
			}
			if v2, err := second.Eval(outputs); err != nil || !proto.Equal(v, v2) {
				t.Errorf("the text with parameters put in, %s, yields %v, %v", p.Text(), v2, err)
			}
		})
	}
}

func TestCompileRefuses(t *testing.T) {
	cases := map[string]struct {
		text   string
		want   expr.Type
		offset int
		says   string
	}{
		"unclosed":          {"ab ${db.address", aString, 3, "has no closing brace"},
		"empty":             {"ab ${ }", aString, 3, "the expression is empty"},
		"wrong type":        {"${db.address}", anInt, 2, "yields a string, but a whole number is wanted"},
		"text for a number": {"1${web_one.ready_replicas}", anInt, 0, "is a string, but a whole number is wanted"},
		"list in a text":    {"a${db.interfaces}", aString, 3, "yields a list, but a string, a number"},
		"message":           {"${db.interfaces[0]}", aString, 2, "a whole weft.compute.v1.ServerInterface"},
		"unknown resource":  {"x ${1 + dbx.address}", aString, 8, `there is no resource "dbx"; did you mean "db"?`},
		"unknown field":     {"${db.adress}", aString, 4, `ServerObserved has no field "adress"; did you mean "address"?`},
		"JSON name":         {"${net.externalAddress}", aString, 5, `in expressions it is written external_address`},
		"nested field":      {"${db.interfaces[0].mac}", aString, 18, `its fields are port_id, network_id, address, mac_address`},
		"unknown parameter": {"${params.replica}", anInt, 2, `there is no parameter "replica"; did you mean "replicas"?`},
		"params alone":      {"${params}", aString, 2, "params is followed by the name of one parameter"},
		"after a parameter": {`${params["web-name"] + dbx}`, aString, 23, `there is no resource "dbx"`},
		"type of parameter": {`${params["web-name"]}`, anInt, 2, "yields a string, but a whole number is wanted"},
		"syntax":            {"${1 +}", anInt, 5, "not sound"},
		"operator":          {"${db.address + 1}", aString, 13, "not sound: found no matching overload"},
		"reserved":          {"${string.size_gib}", anInt, 8, "not sound"},
		"shell variable":    {"echo ${HOME:-x}", aString, 11, "write $${ for a literal ${"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			tpl, err := expr.Parse(c.text)
			if err == nil {
				_, err = env(t).Compile(tpl, c.want)
			}
			var bad *expr.Error
			if !errors.As(err, &bad) {
				t.Fatalf("got %v", err)
			}
			if bad.Offset != c.offset || !strings.Contains(bad.Message, c.says) {
				t.Errorf("got %d %q, want %d %q", bad.Offset, bad.Message, c.offset, c.says)
			}
			if !fault.Is(err, fault.Invalid) {
				t.Errorf("its kind is %s", fault.KindOf(err))
			}
		})
	}
}

func TestEvalRefuses(t *testing.T) {
	cases := map[string]struct {
		text    string
		outputs map[string]proto.Message
		kind    fault.Kind
		says    string
	}{
		"index":       {"${db.interfaces[3].address}", map[string]proto.Message{"db": &computev1.ServerObserved{}}, fault.Invalid, "index out of bounds"},
		"not known":   {"${db.address}", nil, fault.Precondition, "the outputs of db are not known"},
		"cost":        {"${[1,2,3,4,5,6,7,8,9,0].map(a, [1,2,3,4,5,6,7,8,9,0].map(b, [1,2,3,4,5,6,7,8,9,0].map(c, [1,2,3,4,5,6,7,8,9,0].map(d, [1,2,3,4,5,6,7,8,9,0].map(e, a+b+c+d+e)))))[0][0][0][0][0] > 0 ? db.address : ''}", map[string]proto.Message{"db": &computev1.ServerObserved{}}, fault.Invalid, "cost limit"},
		"dynamic int": {"${{'a': dyn(1)}.a}", map[string]proto.Message{}, fault.Invalid, "yields int, but a string is wanted"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			tpl, err := expr.Parse(c.text)
			if err != nil {
				t.Fatal(err)
			}
			p, err := env(t).Compile(tpl, aString)
			if err != nil {
				t.Fatal(err)
			}
			_, err = p.Eval(c.outputs)
			if !fault.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestFilter(t *testing.T) {
	subnet := &networkv1.Subnet{
		Name: "tenants/acme/subnets/a", Cloud: "clouds/lab",
		Metadata: &kindv1.Metadata{Labels: map[string]string{"env": "prod"}, Generation: 2},
		Spec:     &networkv1.SubnetSpec{Cidr: "10.0.0.0/24", DnsServers: []string{"9.9.9.9"}},
		Status:   &kindv1.Status{Phase: kindv1.Phase_PHASE_READY, Blockers: []*kindv1.Blocker{{Kind: "port"}}},
	}
	cases := map[string]struct {
		filter string
		want   bool
	}{
		"empty":             {" ", true},
		"short enum":        {`status.phase == "READY"`, true},
		"full enum":         {`status.phase == "PHASE_READY"`, true},
		"enum in":           {`status.phase in ["PHASE_FAILED", "PENDING"]`, false},
		"label":             {`metadata.labels.env == "prod"`, true},
		"label by index":    {`metadata.labels["env"] == "prod"`, true},
		"absent label":      {`metadata.labels.tier == "web"`, false},
		"absent label, has": {`!has(metadata.labels.tier)`, true},
		"number":            {`metadata.generation > 1`, true},
		"JSON name":         {`"9.9.9.9" in spec.dnsServers`, true},
		"proto name":        {`spec.dns_servers.exists(s, s.startsWith("9."))`, true},
		"absent message":    {`status.fault.kind == "" && observed.gateway_ip == ""`, true},
		"element":           {`status.blockers[0].kind == "port"`, true},
		"time":              {`metadata.create_time < timestamp("2030-01-01T00:00:00Z")`, true},
		"cloud":             {`cloud == "clouds/other" || name.endsWith("/a")`, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f, err := expr.CompileFilter(subnet.ProtoReflect().Descriptor(), c.filter)
			if err != nil {
				t.Fatal(err)
			}
			got, err := f(subnet)
			if err != nil || got != c.want {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestFilterRefuses(t *testing.T) {
	cases := map[string]struct{ filter, says string }{
		"unknown field":    {`status.phse == "READY"`, `Status has no field "phse"; did you mean "phase"?`},
		"unknown variable": {`statsu.phase == "READY"`, `Subnet has no field "statsu"; did you mean "status"?`},
		"no boolean":       {`"a" + "b"`, "must be true or false"},
		"dynamic":          {`spec.cidr`, ""},
		"syntax":           {`status.phase ==`, "not sound at character"},
		"long":             {strings.Repeat("a", 10000), "longer than"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f, err := expr.CompileFilter((&networkv1.Subnet{}).ProtoReflect().Descriptor(), c.filter)
			if err == nil {
				_, err = f(&networkv1.Subnet{})
			}
			if !fault.Is(err, fault.Invalid) || fault.Field(err) != "filter" || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestNearest(t *testing.T) {
	cases := map[string]struct {
		word string
		want string
	}{
		"swap":   {"imgae", "image"},
		"letter": {"flavour", "flavor"},
		"far":    {"zzz", ""},
		"short":  {"x", ""},
	}
	for name, c := range cases {
		if got := expr.Nearest(c.word, []string{"image", "flavor", "network"}); got != c.want {
			t.Errorf("%s: got %q", name, got)
		}
	}
}
