// Package credential gives services, and nobody else, what they need to speak to clouds and clusters.
package credential

import (
	"context"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/service"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/cloud"
	"github.com/weftcloud/weft/services/orchestrator/internal/project"
	"github.com/weftcloud/weft/services/orchestrator/internal/secret"
)

// Server serves weft.orchestrator.v1.CredentialService. That only services may call it is written in the contract and
// held by the interceptor.
type Server struct {
	orchestratorv1.UnimplementedCredentialServiceServer

	Book   *record.Book
	Sealer *secret.Sealer
	// Projects gives the credentials of tenants that have projects of their own.
	Projects *project.Keeper
}

// GetCloudCredentials gives what to log in with for work on behalf of a tenant that may use a cloud: the cloud's own
// credentials, or those of the tenant's project there. The platform's own work is done with the cloud's.
func (s *Server) GetCloudCredentials(ctx context.Context, r *orchestratorv1.GetCloudCredentialsRequest) (*orchestratorv1.CloudCredentials, error) {
	e, err := s.Book.Current(ctx, r.GetCloud())
	if fault.Is(err, fault.NotFound) {
		return nil, fault.New(fault.NotFound, "%s is not registered; see weft cloud list", r.GetCloud())
	}
	if err != nil {
		return nil, err
	}
	found, ok := e.Object.Message().(*orchestratorv1.Cloud)
	if !ok {
		return nil, fault.New(fault.Internal, "%s is kept as something else than a cloud", r.GetCloud())
	}
	multi, err := s.mayUse(ctx, found, r.GetTenant())
	if err != nil {
		return nil, err
	}
	out := &orchestratorv1.CloudCredentials{Driver: found.GetSpec().GetDriver(), Endpoint: found.GetSpec().GetEndpoint(), Region: found.GetSpec().GetRegion()}
	if out.Data, err = s.open(ctx, found.GetSpec().GetCredentials()); err != nil || !multi {
		return out, err
	}
	own := out.GetData()
	if out.Data, err = s.Projects.Credentials(ctx, r.GetTenant(), r.GetCloud()); err != nil {
		return nil, err
	}
	if pem := own["ca_cert"]; pem != "" {
		out.Data["ca_cert"] = pem
	}
	if out.GetEndpoint() == "" {
		out.Endpoint = own["auth_url"]
	}
	out.Budget = service.Identity(own)
	return out, nil
}

// mayUse refuses a tenant that may not use a cloud, and tells whether it is to have a project of its own there.
func (s *Server) mayUse(ctx context.Context, c *orchestratorv1.Cloud, tenant string) (multi bool, err error) {
	if tenant == "" {
		return false, nil // the platform itself
	}
	e, err := s.Book.Current(ctx, tenant)
	if err != nil {
		return false, err
	}
	if !cloud.Allows(c.GetSpec(), tenant) {
		return false, fault.New(fault.Denied, "%s may not use %s", tenant, c.GetName())
	}
	spec, ok := e.Object.Spec().(*orchestratorv1.TenantSpec)
	return ok && project.IsMulti(spec), nil
}

// GetSecretData gives the values of a secret.
func (s *Server) GetSecretData(ctx context.Context, r *orchestratorv1.GetSecretDataRequest) (*orchestratorv1.SecretData, error) {
	data, err := s.open(ctx, r.GetName())
	if err != nil {
		return nil, err
	}
	return &orchestratorv1.SecretData{Data: data}, nil
}

func (s *Server) open(ctx context.Context, name string) (map[string]string, error) {
	e, err := s.Book.Current(ctx, name)
	if err != nil {
		return nil, err
	}
	kept, ok := e.Object.Message().(*orchestratorv1.Secret)
	if !ok {
		return nil, fault.New(fault.Invalid, "%s is no secret", name)
	}
	return secret.Open(s.Sealer, kept)
}
