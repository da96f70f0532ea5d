// Package project gives tenants projects of their own at clouds: it keeps their records and their secrets, has their
// credentials rotated, and answers with which credentials a tenant's work at a cloud is done. What is done at the cloud is
// the driver's (internal/driver/openstack).
package project

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/record"
	"github.com/weftcloud/weft/pkg/store"
	orchestratorv1 "github.com/weftcloud/weft/proto/gen/weft/orchestrator/v1"
	"github.com/weftcloud/weft/services/orchestrator/internal/secret"
)

// Vault keeps the secrets of projects in the store, sealed. It implements the driver's interface.
type Vault struct {
	Store  store.Store
	Sealer *secret.Sealer
}

// place is where a project's secrets are kept. It is also what their seals are bound to.
func place(key string) string { return places() + key }

// places is what the places of all projects begin with.
func places() string { return record.Prefix("orchestrator") + "project-keys/" }

// Load gives what is kept for a project's key; an empty message if nothing is.
func (v *Vault) Load(ctx context.Context, key string) (*orchestratorv1.ProjectKeys, error) {
	keys, _, err := v.load(ctx, key)
	return keys, err
}

func (v *Vault) load(ctx context.Context, key string) (*orchestratorv1.ProjectKeys, int64, error) {
	keys := &orchestratorv1.ProjectKeys{}
	e, err := v.Store.Get(ctx, place(key))
	if fault.Is(err, fault.NotFound) {
		return keys, 0, nil
	}
	if err != nil {
		return nil, 0, fault.Wrap(err, "read the secrets of a project")
	}
	if err := proto.Unmarshal(e.Value, keys); err != nil {
		return nil, 0, fault.As(fault.Internal, fault.Wrap(err, "decode the secrets of a project"))
	}
	return keys, e.ModRevision, each(keys, func(what, value string) (string, error) { return v.Sealer.Open(place(key), what, value) })
}

// Of gives what is kept for the project of an id at its cloud, and the project's key; both empty if nothing is.
func (v *Vault) Of(ctx context.Context, id string) (string, *orchestratorv1.ProjectKeys, error) {
	page, err := v.Store.List(ctx, places(), store.ListOptions{})
	if err != nil {
		return "", nil, fault.Wrap(err, "list the secrets of projects")
	}
	for _, e := range page.Entries {
		keys := &orchestratorv1.ProjectKeys{}
		if err := proto.Unmarshal(e.Value, keys); err != nil {
			return "", nil, fault.As(fault.Internal, fault.Wrap(err, "decode the secrets of a project"))
		}
		if keys.GetProjectId() != id {
			continue
		}
		key := strings.TrimPrefix(e.Key, places())
		return key, keys, each(keys, func(what, value string) (string, error) { return v.Sealer.Open(place(key), what, value) })
	}
	return "", &orchestratorv1.ProjectKeys{}, nil
}

// Change changes what is kept.
func (v *Vault) Change(ctx context.Context, key string, change func(*orchestratorv1.ProjectKeys) error) (*orchestratorv1.ProjectKeys, error) {
	keys, revision, err := v.load(ctx, key)
	if err != nil {
		return nil, err
	}
	if err := change(keys); err != nil {
		return nil, err
	}
	sealed := proto.CloneOf(keys)
	if err := each(sealed, func(what, value string) (string, error) { return v.Sealer.Seal(place(key), what, value) }); err != nil {
		return nil, err
	}
	value, err := proto.Marshal(sealed)
	if err != nil {
		return nil, fault.As(fault.Internal, fault.Wrap(err, "encode the secrets of a project"))
	}
	_, err = v.Store.Txn(ctx, []store.Compare{{Key: place(key), ModRevision: revision}}, []store.Op{{Key: place(key), Value: value}})
	return keys, fault.Wrap(err, "write the secrets of a project")
}

// Drop forgets what is kept.
func (v *Vault) Drop(ctx context.Context, key string) error {
	_, err := v.Store.Txn(ctx, nil, []store.Op{{Key: place(key), Delete: true}})
	return fault.Wrap(err, "forget the secrets of a project")
}

// each puts what a function makes of each secret in its place. The function gets what the secret is, for its seal.
func each(keys *orchestratorv1.ProjectKeys, do func(what, value string) (string, error)) (err error) {
	if keys.GetPassword() != "" {
		if keys.Password, err = do("password", keys.GetPassword()); err != nil {
			return err
		}
	}
	for _, k := range keys.GetKeys() {
		if k.Secret, err = do(fmt.Sprintf("credential %d", k.GetCredential().GetNumber()), k.GetSecret()); err != nil {
			return err
		}
	}
	return nil
}
