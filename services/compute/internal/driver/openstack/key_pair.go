package openstack

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/keypairs"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// keyPair is a key pair, as far as the driver looks at it.
type keyPair struct {
	Name        string `json:"name"`
	Fingerprint string `json:"fingerprint"`
}

// KeyPairs is the driver of KeyPair. A key pair has no id and bears no metadata: its name is both, and holds the key.
// It belongs to the user of the credentials, not to the project.
type KeyPairs struct{ s *cloud.Session }

// NewKeyPairs makes the driver.
func NewKeyPairs(s *cloud.Session) *KeyPairs { return &KeyPairs{s} }

// list reads the user's key pairs.
func (d *KeyPairs) list(ctx context.Context) ([]keyPair, error) {
	c, err := d.s.Compute(ctx)
	if err != nil {
		return nil, err
	}
	wrapped, err := cloud.List[struct {
		KeyPair keyPair `json:"keypair"`
	}](ctx, c, "os-keypairs", "keypairs", nil)
	if err != nil {
		return nil, err
	}
	out := make([]keyPair, 0, len(wrapped))
	for _, w := range wrapped {
		out = append(out, w.KeyPair)
	}
	return out, nil
}

// Find implements driver.Driver.
func (d *KeyPairs) Find(ctx context.Context, r driver.Request[*computev1.KeyPairSpec]) ([]string, error) {
	if r.Key == "" {
		return nil, fault.New(fault.Internal, "find key pair: no key is given")
	}
	name := cloud.KeyPairName(r.Key, r.Name)
	seen, err := d.Observe(ctx, []string{name})
	if _, exists := seen[name]; err != nil || !exists {
		return nil, err
	}
	return []string{name}, nil
}

// Create implements driver.Driver.
func (d *KeyPairs) Create(ctx context.Context, r driver.Request[*computev1.KeyPairSpec]) (string, error) {
	c, err := d.s.Compute(ctx)
	if err != nil {
		return "", err
	}
	name := cloud.KeyPairName(r.Key, r.Name)
	if _, err := keypairs.Create(ctx, c, keypairs.CreateOpts{Name: name, PublicKey: r.Spec.GetPublicKey()}).Extract(); err != nil {
		return "", cloud.Fault(err, "create key pair %s", r.Name)
	}
	return name, nil
}

// Observe implements driver.Driver: one is read by itself, several are read by one list.
func (d *KeyPairs) Observe(ctx context.Context, ids []string) (map[string]driver.Observation[*computev1.KeyPairObserved], error) {
	out := map[string]driver.Observation[*computev1.KeyPairObserved]{}
	if len(ids) == 0 {
		return out, ctx.Err()
	}
	all, err := d.read(ctx, ids)
	if err != nil {
		return nil, err
	}
	for _, k := range all {
		if slices.Contains(ids, k.Name) {
			out[k.Name] = driver.Observation[*computev1.KeyPairObserved]{
				State:    driver.Ready,
				Observed: &computev1.KeyPairObserved{KeyPairName: k.Name, Fingerprint: k.Fingerprint},
			}
		}
	}
	return out, nil
}

func (d *KeyPairs) read(ctx context.Context, ids []string) ([]keyPair, error) {
	if len(ids) > 1 {
		return d.list(ctx)
	}
	c, err := d.s.Compute(ctx)
	if err != nil {
		return nil, err
	}
	k, err := keypairs.Get(ctx, c, ids[0], nil).Extract()
	err = cloud.Fault(err, "read key pair %s", ids[0])
	if fault.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []keyPair{{Name: k.Name, Fingerprint: k.Fingerprint}}, nil
}

// Update implements driver.Driver: nothing of a key pair can be changed in place.
func (d *KeyPairs) Update(context.Context, string, driver.Request[*computev1.KeyPairSpec]) error {
	return nil
}

// Delete implements driver.Driver.
func (d *KeyPairs) Delete(ctx context.Context, id string) error {
	c, err := d.s.Compute(ctx)
	if err != nil {
		return err
	}
	err = cloud.Fault(keypairs.Delete(ctx, c, id, nil).ExtractErr(), "delete key pair %s", id)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// ListMarked implements driver.Lister. A key pair's name has no room for the resource's.
func (d *KeyPairs) ListMarked(ctx context.Context) ([]driver.Marked, error) {
	all, err := d.list(ctx)
	if err != nil {
		return nil, err
	}
	var out []driver.Marked
	for _, k := range all {
		if key, ok := cloud.ParseKeyPairName(k.Name); ok {
			out = append(out, driver.Marked{ID: k.Name, Key: key})
		}
	}
	return out, nil
}

// Check implements driver.Checker: keys that can be read, and the quota.
func (d *KeyPairs) Check(ctx context.Context, items []driver.Item[*computev1.KeyPairSpec]) ([]driver.Finding, []driver.QuotaUse, error) {
	var findings []driver.Finding
	var need int64
	for _, i := range items {
		if i.Spec == nil {
			continue
		}
		if err := checkPublicKey(i.Spec.GetPublicKey()); err != nil && len(i.Unknown) == 0 {
			findings = append(findings, driver.Finding{Name: i.Name, Field: "spec.publicKey", Fault: err})
		}
		if i.Change == kindv1.Change_CHANGE_CREATE || i.Change == kindv1.Change_CHANGE_REPLACE {
			need++
		}
	}
	if need == 0 {
		return findings, nil, nil
	}
	limits, err := quotas(ctx, d.s)
	if err != nil {
		return nil, nil, err
	}
	all, err := d.list(ctx)
	if err != nil {
		return nil, nil, err
	}
	if l, ok := limits["key_pairs"]; ok {
		limits["key_pairs"] = cloud.Limit{Limit: l.Limit, Used: int64(len(all))}
	}
	return findings, cloud.QuotaUses("compute", map[string]int64{"key_pairs": need}, limits), nil
}

// checkPublicKey looks whether a line of authorized_keys holds a key: "<type> <base64> <comment>", where the base64
// begins with the type once more (RFC 4253, 6.6). The error is Invalid.
func checkPublicKey(line string) error {
	fields := strings.Fields(line)
	if len(fields) < 2 || strings.ContainsAny(strings.TrimSpace(line), "\r\n") {
		return fault.InField("spec.publicKey", "this is no public key; it should be one line: a type, e.g. ssh-ed25519, and the key in base64")
	}
	raw, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil {
		return fault.InField("spec.publicKey", "the key is not in base64; it may have been cut off")
	}
	typ, rest, ok := sshString(raw)
	if !ok || string(typ) != fields[0] {
		return fault.InField("spec.publicKey", "the key is damaged: it does not begin with its type, %s", fields[0])
	}
	for ok && len(rest) > 0 {
		_, rest, ok = sshString(rest)
	}
	if !ok {
		return fault.InField("spec.publicKey", "the key is damaged: its end is missing")
	}
	return nil
}

// sshString takes one string off a key: its length in four bytes, then its bytes (RFC 4251, 5). All parts of public keys
// are such strings.
func sshString(b []byte) (head, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := uint64(binary.BigEndian.Uint32(b))
	if n > uint64(len(b)-4) {
		return nil, nil, false
	}
	return b[4 : 4+n], b[4+n:], true
}
