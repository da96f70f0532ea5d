package openstack

import (
	"context"
	"encoding/json"
	"net/url"

	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/credentials"

	"github.com/weftcloud/weft/pkg/fault"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// ec2Credential is what an EC2 credential of the identity service holds.
type ec2Credential struct {
	Access string `json:"access"`
	Secret string `json:"secret"`
}

// listCredentials reads the user's own EC2 credentials: whose they are the identity service looks at before it looks whether
// they exist, so that one that is gone is answered as forbidden, which a list is not.
func (d *Buckets) listCredentials(ctx context.Context) ([]credentials.Credential, error) {
	c, err := d.s.Primary(ctx)
	if err != nil {
		return nil, err
	}
	user, err := d.s.UserID()
	if err != nil {
		return nil, err
	}
	return cloud.List[credentials.Credential](ctx, c, "credentials", "credentials", url.Values{"type": {"ec2"}, "user_id": {user}})
}

// credential finds the S3 credentials of an access key; an empty id if there are none.
func (d *Buckets) credential(ctx context.Context, access string) (id, secret string, err error) {
	all, err := d.listCredentials(ctx)
	if err != nil {
		return "", "", err
	}
	for _, found := range all {
		var held ec2Credential
		if json.Unmarshal([]byte(found.Blob), &held) == nil && held.Access == access {
			return found.ID, held.Secret, nil
		}
	}
	return "", "", nil
}

// credentials sees to it that there are S3 credentials of an access key, or none. That somebody made them, or took them away,
// meanwhile is what was wanted.
func (d *Buckets) credentials(ctx context.Context, access string, want bool) error {
	if access == "" {
		return nil
	}
	id, _, err := d.credential(ctx, access)
	if err != nil || (id != "") == want {
		return err
	}
	c, err := d.s.Primary(ctx)
	if err != nil {
		return err
	}
	if !want {
		err := cloud.Fault(credentials.Delete(ctx, c, id).ExtractErr(), "delete S3 credentials %s", access)
		if fault.Is(err, fault.NotFound) {
			return nil
		}
		return err
	}
	secret, err := secretIf(true)
	if err != nil {
		return err
	}
	blob, err := json.Marshal(ec2Credential{access, secret})
	if err != nil {
		return fault.As(fault.Internal, fault.Wrap(err, "encode S3 credentials"))
	}
	user, err := d.s.UserID()
	if err != nil {
		return err
	}
	_, err = credentials.Create(ctx, c, credentials.CreateOpts{Type: "ec2", Blob: string(blob), ProjectID: d.s.ProjectID, UserID: user}).Extract()
	if err = cloud.Fault(err, "make S3 credentials %s", access); fault.Is(err, fault.Conflict) {
		return nil
	}
	return err
}
