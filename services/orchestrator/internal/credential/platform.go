package credential

import (
	"context"

	"google.golang.org/grpc"

	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// Platform gives the orchestrator's own driver what it needs, without a call over the network. The project of a tenant is
// made with the cloud's own credentials, whoever it is for.
type Platform struct{ Server *Server }

// GetCloudCredentials implements orchestratorv1.CredentialServiceClient.
func (p Platform) GetCloudCredentials(ctx context.Context, r *orchestratorv1.GetCloudCredentialsRequest, _ ...grpc.CallOption) (*orchestratorv1.CloudCredentials, error) {
	return p.Server.GetCloudCredentials(ctx, &orchestratorv1.GetCloudCredentialsRequest{Cloud: r.GetCloud()})
}

// GetSecretData implements orchestratorv1.CredentialServiceClient.
func (p Platform) GetSecretData(ctx context.Context, r *orchestratorv1.GetSecretDataRequest, _ ...grpc.CallOption) (*orchestratorv1.SecretData, error) {
	return p.Server.GetSecretData(ctx, r)
}
