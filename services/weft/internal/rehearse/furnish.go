package rehearse

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"sigs.k8s.io/yaml"

	"github.com/weftcloud/weft/pkg/fault"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// furnish brings to the private installation what the documents name.
func (s *stage) furnish(ctx context.Context) error {
	if err := s.readFormer(ctx); err != nil {
		return err
	}
	if err := s.tenant(ctx); err != nil {
		return err
	}
	names := namesIn(s.cfg.Document, s.cfg.Parameters)
	text := s.cfg.Document
	if s.former != nil {
		names.add(namesIn(s.former.GetDocument(), s.former.GetParameters()))
		text += "\n" + s.former.GetDocument()
	}
	mentioned := func(id string) bool { return strings.Contains(text, id) || names.mentions(id) }
	if err := s.bringClouds(ctx, mentioned); err != nil {
		return err
	}
	if err := s.bringSecrets(ctx, mentioned); err != nil {
		return err
	}
	return s.cloud.furnish(ctx, names)
}

// readFormer reads the stack as it stands at the person's installation.
func (s *stage) readFormer(ctx context.Context) error {
	head := struct {
		Name string `json:"name"`
	}{}
	if err := yaml.Unmarshal([]byte(s.cfg.Document), &head); err != nil {
		return fault.New(fault.Invalid, "%s cannot be read: %s", s.cfg.DocumentName, err)
	}
	s.stack = s.cfg.Parent + "/stacks/" + head.Name
	stack, err := orchestratorv1.NewStackServiceClient(s.cfg.Person).GetStack(ctx, &orchestratorv1.GetStackRequest{Name: s.stack})
	if err = fault.FromStatus(err); fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return fault.Wrap(err, "read %s", s.stack)
	}
	if stack.GetState() != orchestratorv1.StackState_STACK_STATE_READY {
		return fault.New(fault.Precondition, "%s is %s, so what it would be brought back to cannot be told; wait for its operation, or mend it (weft ops)", s.stack, strings.TrimPrefix(stack.GetState().String(), "STACK_STATE_"))
	}
	s.former = stack
	return nil
}

// tenant makes the tenant in the private installation, unless it is the one that every such installation has.
func (s *stage) tenant(ctx context.Context) error {
	id := strings.TrimPrefix(s.cfg.Parent, "tenants/")
	_, err := orchestratorv1.NewTenantServiceClient(s.conn).CreateTenant(ctx, &orchestratorv1.CreateTenantRequest{
		TenantId: id, Tenant: &orchestratorv1.Tenant{Spec: &orchestratorv1.TenantSpec{DisplayName: id}},
	})
	if err = fault.FromStatus(err); fault.Is(err, fault.Exists) {
		return nil
	}
	return fault.Wrap(err, "make the tenant %s for the rehearsal", id)
}

// bringClouds registers the sandbox under the names of the clouds that the documents mention.
func (s *stage) bringClouds(ctx context.Context, mentioned func(string) bool) error {
	private := orchestratorv1.NewCloudServiceClient(s.conn)
	own, err := private.ListClouds(ctx, &orchestratorv1.ListCloudsRequest{PageSize: 1})
	if err != nil || len(own.GetClouds()) == 0 {
		return fault.Wrap(fault.FromStatus(err), "read the simulated cloud")
	}
	for token := ""; ; {
		page, err := orchestratorv1.NewCloudServiceClient(s.cfg.Person).ListClouds(ctx, &orchestratorv1.ListCloudsRequest{PageToken: token})
		if err != nil {
			return fault.Wrap(fault.FromStatus(err), "list the clouds")
		}
		for _, c := range page.GetClouds() {
			id := strings.TrimPrefix(c.GetName(), "clouds/")
			if !mentioned(id) || c.GetName() == own.GetClouds()[0].GetName() {
				continue
			}
			if c.GetSpec().GetDriver() != own.GetClouds()[0].GetSpec().GetDriver() {
				return fault.New(fault.Unsupported, "cloud %s has the driver %s, which the rehearsal cannot simulate", id, c.GetSpec().GetDriver())
			}
			_, err := private.CreateCloud(ctx, &orchestratorv1.CreateCloudRequest{CloudId: id, Cloud: &orchestratorv1.Cloud{Spec: proto.CloneOf(own.GetClouds()[0].GetSpec())}})
			if err != nil {
				return fault.Wrap(fault.FromStatus(err), "register the simulated cloud as %s", id)
			}
		}
		if token = page.GetNextPageToken(); token == "" {
			return nil
		}
	}
}

// bringSecrets makes secrets of the same names and keys. Values cannot be read from any installation, so they are made
// up; a kubeconfig leads to the simulated cluster.
func (s *stage) bringSecrets(ctx context.Context, mentioned func(string) bool) error {
	private := orchestratorv1.NewSecretServiceClient(s.conn)
	for token := ""; ; {
		page, err := orchestratorv1.NewSecretServiceClient(s.cfg.Person).ListSecrets(ctx, &orchestratorv1.ListSecretsRequest{Parent: s.cfg.Parent, PageToken: token})
		if err != nil {
			return fault.Wrap(fault.FromStatus(err), "list the secrets")
		}
		for _, secret := range page.GetSecrets() {
			id := secret.GetName()[strings.LastIndexByte(secret.GetName(), '/')+1:]
			if !mentioned(id) {
				continue
			}
			data, invented, err := s.standIn(secret.GetObserved().GetKeys())
			if err != nil {
				return err
			}
			_, err = private.CreateSecret(ctx, &orchestratorv1.CreateSecretRequest{Parent: s.cfg.Parent, SecretId: id, Secret: &orchestratorv1.Secret{Spec: &orchestratorv1.SecretSpec{Data: data}}})
			if err = fault.FromStatus(err); err != nil && !fault.Is(err, fault.Exists) { // of those that it has, the installation itself made better ones
				return fault.Wrap(err, "put the secret %s for the rehearsal", id)
			}
			if err == nil && len(invented) > 0 {
				s.out.Notices = append(s.out.Notices, "secret "+id+": the values of "+strings.Join(invented, ", ")+" are made up")
			}
		}
		if token = page.GetNextPageToken(); token == "" {
			return nil
		}
	}
}

// standIn gives values for the keys of a secret, and which are made up.
func (s *stage) standIn(keys []string) (data map[string]string, invented []string, err error) {
	data = map[string]string{}
	for _, k := range keys {
		if k != "kubeconfig" {
			data[k], invented = "rehearsal", append(invented, k)
			continue
		}
		if data[k], err = s.cloud.kubeconfig(); err != nil {
			return nil, nil, err
		}
	}
	return data, invented, nil
}

// unrehearsable gives the error that names the parts of a document that the simulated cloud cannot stand in for.
func unrehearsable(problems []*orchestratorv1.Problem) error {
	st := status.New(codes.FailedPrecondition, "the simulated cloud cannot stand in for a part of the document: "+problems[0].GetFault().GetMessage())
	with, err := st.WithDetails(&orchestratorv1.Problems{Problems: problems})
	if err != nil {
		return st.Err()
	}
	return with.Err()
}

// names are what a document names of a cloud's own things, by the field that names them.
type names map[string][]string

// The fields that name things of the cloud, as they are written without underscores and capitals.
const (
	fieldImage     = "image"
	fieldFlavor    = "flavor"
	fieldExternal  = "external"
	fieldNamespace = "namespace"
)

func (n names) add(others names) {
	for field, values := range others {
		for _, v := range values {
			n.put(field, v)
		}
	}
}

func (n names) put(field, value string) {
	if value != "" && !slices.Contains(n[field], value) {
		n[field] = append(n[field], value)
	}
}

func (n names) mentions(value string) bool {
	for _, values := range n {
		if slices.Contains(values, value) {
			return true
		}
	}
	return false
}

// namesIn finds what a document names. What it gives by a parameter is looked up; other expressions are left, and if they
// name something that is missing the plan says so.
func namesIn(document string, given *structpb.Struct) names {
	out := names{}
	var doc struct {
		Parameters map[string]any `json:"parameters"`
		Resources  map[string]struct {
			Spec map[string]any `json:"spec"`
		} `json:"resources"`
	}
	if err := yaml.Unmarshal([]byte(document), &doc); err != nil {
		return out // the plan has shown what is wrong
	}
	values := map[string]any{}
	maps.Copy(values, doc.Parameters)
	maps.Copy(values, given.AsMap())
	for _, r := range doc.Resources {
		out.collect(r.Spec, values)
	}
	for _, v := range values { // a cloud or a secret may be named by a parameter
		if text, ok := v.(string); ok {
			out.put("parameter", text)
		}
	}
	return out
}

// collect walks a spec. The images of containers are no images of the cloud.
func (n names) collect(v any, parameters map[string]any) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			key = strings.TrimSuffix(strings.ReplaceAll(strings.ToLower(key), "_", ""), "network")
			if text, ok := value.(string); ok && slices.Contains([]string{fieldImage, fieldFlavor, fieldExternal, fieldNamespace}, key) {
				n.put(key, resolved(text, parameters))
			}
			if key != "containers" {
				n.collect(value, parameters)
			}
		}
	case []any:
		for _, value := range v {
			n.collect(value, parameters)
		}
	}
}

// parameter matches an expression that is nothing but a parameter: ${params.image} or ${params["image"]}.
var parameter = regexp.MustCompile(`^\$\{\s*params(?:\.([A-Za-z0-9_]+)|\[["']([^"']+)["']\])\s*\}$`)

func resolved(text string, parameters map[string]any) string {
	m := parameter.FindStringSubmatch(text)
	if m == nil {
		if strings.Contains(text, "${") {
			return ""
		}
		return text
	}
	value, ok := parameters[m[1]+m[2]].(string)
	if !ok {
		return ""
	}
	return value
}
