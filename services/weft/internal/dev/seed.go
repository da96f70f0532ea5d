package dev

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"

	"github.com/weftcloud/weft/pkg/app"
	"github.com/weftcloud/weft/pkg/auth"
	"github.com/weftcloud/weft/pkg/cloud/openstack"
	"github.com/weftcloud/weft/pkg/fault"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
)

// seed gives a new installation its tenant, and the sandbox's cloud and cluster. It speaks to the front door like any
// other client, as an operator. At a later start it brings changed addresses up to date.
func (in *installation) seed(ctx context.Context) (err error) {
	conn, err := app.Dial("passthrough:///orchestrator", app.DialConfig{
		TLS:       auth.ClientTLS(in.ca.Source(auth.Identity{Class: auth.Operator, Name: "dev"}, auth.IssueOptions{}), in.ca.Pool(), auth.ServerName("orchestrator")),
		InProcess: in.inside["orchestrator"],
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	_, err = orchestratorv1.NewTenantServiceClient(conn).CreateTenant(ctx, &orchestratorv1.CreateTenantRequest{
		TenantId: Tenant, Tenant: &orchestratorv1.Tenant{Spec: &orchestratorv1.TenantSpec{DisplayName: "Default"}},
	}, grpc.WaitForReady(true))
	if err != nil && !fault.Is(fault.FromStatus(err), fault.Exists) {
		return fault.Wrap(fault.FromStatus(err), "make the tenant %s", Tenant)
	}
	if in.sandbox == nil {
		return nil
	}
	if err := putSecret(ctx, conn, Cluster, map[string]string{"kubeconfig": string(in.sandbox.Kubeconfig())}); err != nil {
		return err
	}
	return in.seedCloud(ctx, conn)
}

func (in *installation) seedCloud(ctx context.Context, conn *grpc.ClientConn) error {
	credentials, err := openstack.FromCloudsYAML(in.sandboxFiles().CloudsFile, "sandbox")
	if err != nil {
		return err
	}
	secret := "cloud-" + Cloud
	if err := putSecret(ctx, conn, secret, credentials.Data); err != nil {
		return err
	}
	clouds := orchestratorv1.NewCloudServiceClient(conn)
	cloud := &orchestratorv1.Cloud{Spec: &orchestratorv1.CloudSpec{
		Driver: "openstack", Endpoint: credentials.Endpoint, Region: credentials.Region, Credentials: "tenants/" + Tenant + "/secrets/" + secret,
	}}
	_, err = clouds.CreateCloud(ctx, &orchestratorv1.CreateCloudRequest{CloudId: Cloud, Cloud: cloud})
	if !fault.Is(fault.FromStatus(err), fault.Exists) {
		return fault.Wrap(fault.FromStatus(err), "register the sandbox's cloud")
	}
	cloud.Name = "clouds/" + Cloud
	_, err = clouds.UpdateCloud(ctx, &orchestratorv1.UpdateCloudRequest{Cloud: cloud})
	return fault.Wrap(fault.FromStatus(err), "update the sandbox's cloud")
}

// putSecret makes a secret, or gives it new values.
func putSecret(ctx context.Context, conn *grpc.ClientConn, id string, data map[string]string) error {
	secrets := orchestratorv1.NewSecretServiceClient(conn)
	secret := &orchestratorv1.Secret{Spec: &orchestratorv1.SecretSpec{Data: data}}
	_, err := secrets.CreateSecret(ctx, &orchestratorv1.CreateSecretRequest{Parent: "tenants/" + Tenant, SecretId: id, Secret: secret})
	if !fault.Is(fault.FromStatus(err), fault.Exists) {
		return fault.Wrap(fault.FromStatus(err), "put the secret %s", id)
	}
	secret.Name = "tenants/" + Tenant + "/secrets/" + id
	_, err = secrets.UpdateSecret(ctx, &orchestratorv1.UpdateSecretRequest{Secret: secret})
	return fault.Wrap(fault.FromStatus(err), "put the secret %s", id)
}
