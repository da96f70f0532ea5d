package e2e

import (
	"crypto/tls"
	"testing"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"github.com/weftcloud/weft/deploy/e2e/internal/story"
	"github.com/weftcloud/weft/pkg/auth"
	networkv1 "github.com/weftcloud/weft/proto/gen/weft/network/v1"
)

// TestStrangersAreTurnedAway knocks without a certificate and with one of another CA: nothing answers, not even what tells
// only of the server itself.
func TestStrangersAreTurnedAway(t *testing.T) {
	t.Parallel()
	i := story.Start(t)
	trust, err := auth.ParsePool([]byte(i.File(t, i.Context()).CA))
	if err != nil {
		t.Fatal(err)
	}
	other, err := auth.OpenCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.Issue(auth.Identity{Class: auth.Operator, Name: "dev"}, auth.IssueOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for who, config := range map[string]*tls.Config{
		"nobody":                 {RootCAs: trust, MinVersion: tls.VersionTLS13},
		"operator of another CA": auth.ClientTLS(auth.Static(foreign), trust, ""),
	} {
		for what, err := range knock(t, i.DialAs(t, config)) {
			if err == nil {
				t.Errorf("%s: %s was answered", who, what)
			}
		}
	}
	for what, err := range knock(t, i.Dial(t, i.Context())) {
		if err != nil {
			t.Errorf("the operator of this installation: %s: %v", what, err)
		}
	}
}

// knock makes a call of each sort, and tells what became of each.
func knock(t *testing.T, conn *grpc.ClientConn) map[string]error {
	out := map[string]error{}
	_, out["list"] = networkv1.NewNetworkServiceClient(conn).ListNetworks(t.Context(), &networkv1.ListNetworksRequest{Parent: tenant})
	_, out["health"] = healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err == nil {
		if err = stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err == nil {
			_, err = stream.Recv()
		}
	}
	out["reflection"] = err
	return out
}
