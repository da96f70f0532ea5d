package openstack

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"

	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/credentials"

	"github.com/weftcloud/weft/pkg/fault"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// ec2 is what an EC2 credential of the identity service holds.
type ec2 struct {
	Access string `json:"access"`
	Secret string `json:"secret"`
	// MadeWith is the application credential with which it ends; empty for one that stands by itself.
	MadeWith string `json:"app_cred_id,omitempty"`
}

// move makes the EC2 credentials anew that were made with an application credential, so that they outlive it, and those
// whose move was begun. With no id it does only the latter.
func (w *work) move(ctx context.Context, id string) error {
	if id == "" && len(w.kept.GetMoving()) == 0 {
		return nil
	}
	c, err := w.login(ctx)
	if err != nil {
		return err
	}
	all, err := cloud.List[credentials.Credential](ctx, c, "credentials", "credentials", url.Values{"type": {"ec2"}, "user_id": {w.kept.GetUserId()}})
	if err != nil {
		return err
	}
	for _, one := range all {
		var held ec2
		if err := json.Unmarshal([]byte(one.Blob), &held); err != nil || held.MadeWith == "" || held.MadeWith != id {
			continue // what cannot be read is none that a driver made
		}
		held.MadeWith = ""
		text, err := json.Marshal(held)
		if err != nil {
			return fault.As(fault.Internal, fault.Wrap(err, "encode an EC2 credential"))
		}
		if err := w.change(ctx, func(k *orchestratorv1.ProjectKeys) { k.Moving = append(k.Moving, string(text)) }); err != nil {
			return err
		}
		if err := cloud.Fault(credentials.Delete(ctx, c, one.ID).ExtractErr(), "move an EC2 credential"); err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	for _, text := range slices.Clone(w.kept.GetMoving()) {
		_, err := credentials.Create(ctx, c, credentials.CreateOpts{Type: "ec2", Blob: text, ProjectID: w.project.ID, UserID: w.kept.GetUserId()}).Extract()
		if err := cloud.Fault(err, "move an EC2 credential"); err != nil && !fault.Is(err, fault.Conflict) { // a conflict: it is there
			return err
		}
		if err := w.change(ctx, func(k *orchestratorv1.ProjectKeys) {
			k.Moving = slices.DeleteFunc(k.GetMoving(), func(s string) bool { return s == text })
		}); err != nil {
			return err
		}
	}
	return nil
}
