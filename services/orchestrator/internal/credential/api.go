// Package credential gives services, and nobody else, what they need to speak to clouds and clusters.
package credential

import (
	"context"
	"slices"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/secret"
)

// Server serves weft.orchestrator.v1.CredentialService. That only services may call it is written in the contract and
// held by the interceptor.
type Server struct {
	orchestratorv1.UnimplementedCredentialServiceServer

	Book   *record.Book
	Sealer *secret.Sealer
}

// GetCloudCredentials gives a cloud's credentials for work on behalf of a tenant that may use it.
func (s *Server) GetCloudCredentials(ctx context.Context, r *orchestratorv1.GetCloudCredentialsRequest) (*orchestratorv1.CloudCredentials, error) {
	e, err := s.Book.Current(ctx, r.GetCloud())
	if fault.Is(err, fault.NotFound) {
		return nil, fault.New(fault.NotFound, "%s is not registered; see weft cloud list", r.GetCloud())
	}
	if err != nil {
		return nil, err
	}
	cloud, ok := e.Object.Message().(*orchestratorv1.Cloud)
	if !ok {
		return nil, fault.New(fault.Internal, "%s is kept as something else than a cloud", r.GetCloud())
	}
	if err := s.mayUse(ctx, cloud, r.GetTenant()); err != nil {
		return nil, err
	}
	data, err := s.open(ctx, cloud.GetSpec().GetCredentials())
	if err != nil {
		return nil, err
	}
	return &orchestratorv1.CloudCredentials{
		Driver: cloud.GetSpec().GetDriver(), Endpoint: cloud.GetSpec().GetEndpoint(), Region: cloud.GetSpec().GetRegion(), Data: data,
	}, nil
}

func (s *Server) mayUse(ctx context.Context, cloud *orchestratorv1.Cloud, tenant string) error {
	if tenant == "" {
		return nil // the platform itself
	}
	if _, err := s.Book.Current(ctx, tenant); err != nil {
		return err
	}
	if allowed := cloud.GetSpec().GetTenants(); len(allowed) > 0 && !slices.Contains(allowed, tenant) {
		return fault.New(fault.Denied, "%s may not use %s", tenant, cloud.GetName())
	}
	return nil
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
