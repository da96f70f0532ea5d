package openstack

import (
	"context"
	"net/url"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"
	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/tags"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// importedServer is a server with what only its description needs.
type importedServer struct {
	server
	Name    string   `json:"name"`
	KeyName string   `json:"key_name"`
	Groups  []string `json:"server_groups"`
}

// Describe implements driver.Importer. Volumes are no part of the spec: each is attached by an attachment of its own.
func (d *Servers) Describe(ctx context.Context, ids []string) ([]driver.Described, error) {
	c, err := d.s.Compute(ctx)
	if err != nil {
		return nil, err
	}
	all, err := cloud.List[importedServer](ctx, c, "servers/detail", "servers", nil) // a page would hide what cannot be seen
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(s importedServer) bool { return s.isGone() || len(ids) > 0 && !slices.Contains(ids, s.ID) })
	for _, s := range all {
		if err := s.unseen(); err != nil {
			return nil, err
		}
	}
	about, err := d.surroundings(ctx, all)
	if err != nil {
		return nil, err
	}
	out := []driver.Described{}
	for _, s := range all {
		described, err := d.describe(ctx, s, about)
		if err != nil {
			return nil, err
		}
		out = append(out, described)
	}
	return out, nil
}

// surroundings is what servers are described with.
type surroundings struct {
	ports    map[string][]port
	keys     []string // the names of the user's key pairs
	defaults []string // the project's default security groups
}

func (d *Servers) surroundings(ctx context.Context, all []importedServer) (surroundings, error) {
	out := surroundings{}
	ids := []string{}
	for _, s := range all {
		ids = append(ids, s.ID)
	}
	var err error
	if out.ports, err = d.ports(ctx, ids); err != nil || len(ids) == 0 {
		return out, err
	}
	keys, err := NewKeyPairs(d.s).list(ctx)
	if err != nil {
		return out, err
	}
	for _, k := range keys {
		out.keys = append(out.keys, k.Name)
	}
	c, err := d.s.Network(ctx)
	if err != nil {
		return out, err
	}
	defaults, err := cloud.List[struct{ ID string }](ctx, c, "security-groups", "security_groups", url.Values{"name": {"default"}, "project_id": {d.s.ProjectID}})
	for _, g := range defaults {
		out.defaults = append(out.defaults, g.ID)
	}
	return out, err
}

// describe gives one server as a spec, and what a spec cannot say of it.
func (d *Servers) describe(ctx context.Context, s importedServer, about surroundings) (driver.Described, error) {
	spec := &computev1.ServerSpec{Metadata: map[string]string{}}
	out := driver.Described{ID: s.ID, Name: s.Name, Spec: spec}
	if key, owner, ok := cloud.ParseMetadata(s.Metadata); ok {
		out.Key, out.Owner = key, owner
	}
	for k, v := range s.Metadata {
		if !strings.HasPrefix(k, cloud.MetadataPrefix) {
			spec.Metadata[k] = v
		}
	}
	for _, t := range s.Tags {
		if !strings.HasPrefix(t, cloud.MetadataKey+"=") {
			spec.Tags = append(spec.Tags, t)
		}
	}
	flavor, err := d.s.Flavor(ctx, "spec.flavor", s.flavorName(), false)
	if err != nil && !fault.Is(err, fault.Invalid) {
		return out, err
	}
	if spec.Flavor = flavor.Name; err != nil {
		out.Obstacles = append(out.Obstacles, "its flavor "+s.flavorName()+" is gone")
	}
	if slices.Contains(about.keys, s.KeyName) {
		spec.KeyPair = s.KeyName // one that is gone, or another user's, leads nowhere
	}
	if len(s.Groups) > 0 {
		out.Obstacles = append(out.Obstacles, "it is in server group "+strings.Join(s.Groups, ", ")+", which is not imported")
	}
	switch s.Status {
	case "ACTIVE":
	case "SHUTOFF":
		spec.PowerState = computev1.PowerState_POWER_STATE_OFF
	default:
		out.Obstacles = append(out.Obstacles, "it is "+s.Status+"; it must be ACTIVE or SHUTOFF")
	}
	describeNetworks(&out, spec, s, about)
	return out, d.describeImage(ctx, &out, spec, s)
}

// describeNetworks puts a server's networks and security groups into its spec.
func describeNetworks(out *driver.Described, spec *computev1.ServerSpec, s importedServer, about surroundings) {
	interfaces := inOrder(about.ports[s.ID], s.Addresses)
	for i, p := range interfaces {
		if i > 0 && groupsOf([]port{p}) != groupsOf(interfaces[:1]) {
			out.Obstacles = append(out.Obstacles, "its interfaces have different security groups")
			break
		}
	}
	switch len(interfaces) {
	case 0:
		out.Obstacles = append(out.Obstacles, "it has no network")
		return
	case 1:
		spec.Network = interfaces[0].NetworkID
	default:
		for _, p := range interfaces {
			spec.Networks = append(spec.Networks, &computev1.ServerNetwork{Network: p.NetworkID})
		}
	}
	groups := slices.Sorted(slices.Values(interfaces[0].SecurityGroups))
	switch {
	case slices.Equal(groups, slices.Sorted(slices.Values(about.defaults))):
	case len(groups) == 0:
		out.Obstacles = append(out.Obstacles, "it has no security group; without one in the spec it gets the default group")
	default:
		spec.SecurityGroups = groups
	}
}

// describeImage puts a server's image into its spec, by its name if only it has that name.
func (d *Servers) describeImage(ctx context.Context, out *driver.Described, spec *computev1.ServerSpec, s importedServer) error {
	id, err := s.imageID()
	if err != nil {
		return err
	}
	if id == "" {
		out.Obstacles = append(out.Obstacles, "it boots from a volume")
		return nil
	}
	image, err := d.s.ImageByRef(ctx, "spec.image", id, false)
	if fault.Is(err, fault.Invalid) {
		out.Obstacles = append(out.Obstacles, "its image "+id+" is gone")
		return nil
	}
	if err != nil {
		return err
	}
	spec.Image = id
	if image.Name == "" {
		return nil
	}
	named, err := d.s.ImageByRef(ctx, "spec.image", image.Name, false)
	switch {
	case fault.Is(err, fault.Invalid): // a name of several is none to call it by
		return nil
	case err != nil:
		return err
	case named.ID == id:
		spec.Image = image.Name
	}
	return nil
}

// Mark implements driver.Importer: the metadata first, which says whose it is, then the tag, by which it is found.
func (d *Servers) Mark(ctx context.Context, id, key, name string) error {
	s, err := d.one(ctx, id)
	if err != nil {
		return err
	}
	if other := s.Metadata[cloud.MetadataKey]; other != "" && other != key {
		return fault.New(fault.Exists, "server %s bears the key %s already", id, other)
	}
	c, err := d.s.Compute(ctx)
	if err != nil {
		return err
	}
	mark := cloud.Metadata(key, name)
	if _, known := s.Metadata[metadataRebuilt]; !known {
		mark[metadataRebuilt] = ""
	}
	if _, err := servers.UpdateMetadata(ctx, c, id, servers.MetadataOpts(mark)).Extract(); err != nil {
		return cloud.Fault(err, "mark server %s", id)
	}
	if cloud.Minor(c) < cloud.TagsMinor {
		return nil
	}
	return cloud.Fault(tags.Add(ctx, c, id, cloud.Tag(key)).ExtractErr(), "tag server %s", id)
}

// Unmark implements driver.Importer: the tag first, so that a server without its tag is still known as ours.
func (d *Servers) Unmark(ctx context.Context, id, key, _ string) error {
	s, err := d.one(ctx, id)
	if fault.Is(err, fault.NotFound) || err == nil && s.Metadata[cloud.MetadataKey] != key {
		return nil
	}
	if err != nil {
		return err
	}
	c, err := d.s.Compute(ctx)
	if err != nil {
		return err
	}
	if slices.Contains(s.Tags, cloud.Tag(key)) {
		if err := cloud.Fault(tags.Delete(ctx, c, id, cloud.Tag(key)).ExtractErr(), "take the tag off server %s", id); err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	for _, k := range []string{metadataRebuilt, cloud.MetadataName, cloud.MetadataKey} {
		if _, bears := s.Metadata[k]; !bears {
			continue
		}
		err := cloud.Fault(servers.DeleteMetadatum(ctx, c, id, k).ExtractErr(), "take %s off server %s", k, id)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	return nil
}

// Describe implements driver.Importer. The name of a key pair cannot be changed, so one that somebody else made bears no
// mark: its record says whose it is.
func (d *KeyPairs) Describe(ctx context.Context, ids []string) ([]driver.Described, error) {
	c, err := d.s.Compute(ctx)
	if err != nil {
		return nil, err
	}
	wrapped, err := cloud.List[struct {
		KeyPair struct {
			Name      string `json:"name"`
			PublicKey string `json:"public_key"`
		} `json:"keypair"`
	}](ctx, c, "os-keypairs", "keypairs", nil)
	if err != nil {
		return nil, err
	}
	out := []driver.Described{}
	for _, w := range wrapped {
		if len(ids) > 0 && !slices.Contains(ids, w.KeyPair.Name) {
			continue
		}
		described := driver.Described{
			ID: w.KeyPair.Name, Name: w.KeyPair.Name, Unmarkable: true, Spec: &computev1.KeyPairSpec{PublicKey: strings.TrimSpace(w.KeyPair.PublicKey)},
		}
		if key, ok := cloud.ParseKeyPairName(w.KeyPair.Name); ok {
			described.Key = key
		}
		out = append(out, described)
	}
	return out, nil
}

// Mark implements driver.Importer.
func (d *KeyPairs) Mark(ctx context.Context, id, _, _ string) error {
	seen, err := d.Observe(ctx, []string{id})
	if err != nil {
		return err
	}
	if _, stands := seen[id]; !stands {
		return fault.New(fault.NotFound, "key pair %s does not exist", id)
	}
	return nil
}

// Unmark implements driver.Importer: there is no mark.
func (d *KeyPairs) Unmark(ctx context.Context, _, _, _ string) error { return ctx.Err() }
