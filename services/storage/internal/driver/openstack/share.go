package openstack

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/sharedfilesystems/v2/shares"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// share is a share, as far as the driver looks at it.
type share struct {
	ID       string            `json:"id"`
	Status   string            `json:"status"`
	Size     int64             `json:"size"`
	TypeName string            `json:"share_type_name"`
	Metadata map[string]string `json:"metadata"`
}

// accessRule is one rule of who may use a share.
type accessRule struct {
	ID    string `json:"id"`
	Type  string `json:"access_type"`
	To    string `json:"access_to"`
	Level string `json:"access_level"`
	State string `json:"state"`
}

// leaving tells whether a rule is on its way out.
func (r accessRule) leaving() bool {
	return r.State == "queued_to_deny" || r.State == "denying" || r.State == "deleted"
}

// Shares is the driver of Share, for the shared file system service (Manila). Who may use a share is asked for rule by rule
// when it stands, so Update follows Create.
type Shares struct{ s *cloud.Session }

// NewShares makes the driver.
func NewShares(s *cloud.Session) *Shares { return &Shares{s} }

// sharesPerPage is how many shares one call lists; the service gives no links to the next page.
const sharesPerPage = 1000

func (d *Shares) list(ctx context.Context, query url.Values) ([]share, error) {
	c, err := d.s.SharedFileSystem(ctx)
	if err != nil {
		return nil, err
	}
	var out []share
	for {
		q := url.Values{"limit": {fmt.Sprint(sharesPerPage)}, "offset": {fmt.Sprint(len(out))}}
		for k, v := range query {
			q[k] = v
		}
		page, err := cloud.List[share](ctx, c, "shares/detail", "shares", q)
		if err != nil {
			return nil, err
		}
		if out = append(out, page...); len(page) < sharesPerPage {
			return out, nil
		}
	}
}

// one reads one share. The error is NotFound if it does not exist.
func (d *Shares) one(ctx context.Context, id string) (share, error) {
	c, err := d.s.SharedFileSystem(ctx)
	if err != nil {
		return share{}, err
	}
	var answer struct{ Share share }
	resp, err := c.Get(ctx, c.ServiceURL("shares", id), &answer, nil)
	if err != nil {
		return share{}, cloud.Fault(err, "read share %s", id)
	}
	return answer.Share, cloud.Fault(resp.Body.Close(), "read share %s", id)
}

// Find implements driver.Driver. What the service filtered is compared once more.
func (d *Shares) Find(ctx context.Context, r driver.Request[*storagev1.ShareSpec]) ([]string, error) {
	if r.Key == "" {
		return nil, fault.New(fault.Internal, "find share: no key is given")
	}
	all, err := d.list(ctx, url.Values{"metadata": {fmt.Sprintf("{'%s':'%s'}", cloud.MetadataKey, r.Key)}})
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, s := range all {
		if s.Metadata[cloud.MetadataKey] == r.Key && !isGone(s.Status) {
			ids = append(ids, s.ID)
		}
	}
	return ids, nil
}

// protocolOf gives the service's word for a protocol.
func protocolOf(p storagev1.ShareProtocol) string {
	if p == storagev1.ShareProtocol_SHARE_PROTOCOL_CIFS {
		return "CIFS"
	}
	return "NFS"
}

// Create implements driver.Driver.
func (d *Shares) Create(ctx context.Context, r driver.Request[*storagev1.ShareSpec]) (string, error) {
	size, err := sizeGiB(r.Spec.GetSize())
	if err != nil {
		return "", err
	}
	c, err := d.s.SharedFileSystem(ctx)
	if err != nil {
		return "", err
	}
	var answer struct{ Share share }
	err = shares.Create(ctx, c, shares.CreateOpts{
		ShareProto: protocolOf(r.Spec.GetProtocol()), Size: int(size), Name: cloud.LastPart(r.Name), ShareType: r.Spec.GetType(), Metadata: cloud.Metadata(r.Key, r.Name),
	}).ExtractInto(&answer)
	return answer.Share.ID, cloud.Fault(err, "create share %s", r.Name)
}

// NeedsUpdate implements driver.TwoStep.
func (d *Shares) NeedsUpdate() bool { return true }

// Observe implements driver.Driver: one list, and of each share that stands who may use it and where it is mounted.
func (d *Shares) Observe(ctx context.Context, ids []string) (map[string]driver.Observation[*storagev1.ShareObserved], error) {
	var all []share
	var err error
	switch len(ids) {
	case 0:
		err = ctx.Err()
	case 1:
		var s share
		if s, err = d.one(ctx, ids[0]); err == nil {
			all = []share{s}
		} else if fault.Is(err, fault.NotFound) {
			err = nil
		}
	default:
		all, err = d.list(ctx, nil)
	}
	if err != nil {
		return nil, err
	}
	out := map[string]driver.Observation[*storagev1.ShareObserved]{}
	for _, s := range all {
		if !slices.Contains(ids, s.ID) || isGone(s.Status) {
			continue
		}
		o, err := d.observe(ctx, s)
		if fault.Is(err, fault.NotFound) {
			continue // it went meanwhile
		}
		if err != nil {
			return nil, err
		}
		out[s.ID] = o
	}
	return out, nil
}

// observe gives how one share stands. One whose rules are yet to be made is outdated: the service takes none before it stands.
func (d *Shares) observe(ctx context.Context, s share) (o driver.Observation[*storagev1.ShareObserved], err error) {
	o.Observed = &storagev1.ShareObserved{ShareId: s.ID, SizeGib: s.Size, Type: s.TypeName}
	if strings.HasSuffix(s.Status, "error") {
		o.State, o.Fault = driver.Failed, fault.New(fault.Unavailable, "share %s is in status %s at the cloud", s.ID, s.Status)
		return o, nil
	}
	if s.Status != "available" {
		return o, nil
	}
	rules, err := d.rules(ctx, s.ID)
	if err != nil {
		return o, err
	}
	o.State = driver.Ready
	for _, r := range rules {
		switch {
		case r.State == "error":
			o.State, o.Fault = driver.Failed, fault.New(fault.Unavailable, "the cloud could not let %s use share %s (%s); its backend may not know such rules for this protocol", r.To, s.ID, r.Level)
			return o, nil
		case r.State != "active":
			o.State = driver.Progressing
		}
		o.Observed.Clients = append(o.Observed.Clients, r.To+" "+r.Level)
	}
	slices.Sort(o.Observed.Clients)
	if s.Metadata[metadataPending] != "" && o.State == driver.Ready {
		o.State = driver.Outdated
	}
	o.Observed.MountTargets, err = d.exports(ctx, s.ID)
	if len(o.Observed.GetMountTargets()) > 0 {
		o.Observed.MountTarget = o.Observed.GetMountTargets()[0]
	}
	return o, err
}

// rules lists who may use a share.
func (d *Shares) rules(ctx context.Context, id string) ([]accessRule, error) {
	c, err := d.s.SharedFileSystem(ctx)
	if err != nil {
		return nil, err
	}
	all, err := cloud.List[accessRule](ctx, c, "share-access-rules", "access_list", url.Values{"share_id": {id}})
	if fault.Is(err, fault.Invalid) { // of a share that does not exist the service says that the request is wrong
		if _, readErr := d.one(ctx, id); readErr != nil {
			return nil, readErr
		}
	}
	return all, err
}

// exports lists the paths by which a share is mounted, the preferred ones first.
func (d *Shares) exports(ctx context.Context, id string) ([]string, error) {
	c, err := d.s.SharedFileSystem(ctx)
	if err != nil {
		return nil, err
	}
	type location struct {
		Path      string `json:"path"`
		Preferred bool   `json:"preferred"`
	}
	all, err := cloud.List[location](ctx, c, "shares/"+id+"/export_locations", "export_locations", nil)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(all, func(a, b location) int {
		if a.Preferred != b.Preferred {
			return map[bool]int{true: -1, false: 1}[a.Preferred]
		}
		return cmp.Compare(a.Path, b.Path)
	})
	var out []string
	for _, l := range all {
		out = append(out, l.Path)
	}
	return out, nil
}

// access is one client that is wanted: what the rule is for, and what it may.
type access struct{ typ, to, level string }

// clients gives the rules that a spec asks for. A server is let in by each of its addresses.
func clients(r driver.Request[*storagev1.ShareSpec]) ([]access, error) {
	var out []access
	for i, c := range r.Spec.GetClients() {
		level := map[bool]string{true: "ro", false: "rw"}[c.GetReadOnly()]
		switch {
		case c.GetUser() != "":
			out = append(out, access{"user", c.GetUser(), level})
		case c.GetCidr() != "":
			out = append(out, access{"ip", strings.TrimSuffix(c.GetCidr(), "/32"), level})
		default:
			field := fmt.Sprintf("spec.clients[%d].server", i)
			_, err := cloud.Ref(r.Refs, field, c.GetServer(), func(s *computev1.Server) string { return s.GetObserved().GetAddress() })
			if err != nil {
				return nil, err
			}
			server, _ := r.Refs[c.GetServer()].(*computev1.Server)
			out = append(out, access{"ip", server.GetObserved().GetAddress(), level})
			for _, n := range server.GetObserved().GetInterfaces() {
				if n.GetAddress() != "" && n.GetAddress() != server.GetObserved().GetAddress() {
					out = append(out, access{"ip", n.GetAddress(), level})
				}
			}
		}
	}
	return out, nil
}

// Update implements driver.Driver: it grows, and the rules become those that are wanted. What cannot be asked for while the
// share is being changed is noted at it, and Observe asks for another Update.
func (d *Shares) Update(ctx context.Context, id string, r driver.Request[*storagev1.ShareSpec]) error {
	size, err := sizeGiB(r.Spec.GetSize())
	if err != nil {
		return err
	}
	want, err := clients(r)
	if err != nil {
		return err
	}
	s, err := d.one(ctx, id)
	if err != nil {
		return err
	}
	if s.Size > size {
		return fault.InField("spec.size", "share %s has %d GiB; a share cannot shrink to %d GiB", r.Name, s.Size, size)
	}
	c, err := d.s.SharedFileSystem(ctx)
	if err != nil {
		return err
	}
	path := "shares/" + id + "/metadata"
	if s.Status != "available" && (len(want) > 0 || s.Size < size) {
		return setMetadata(ctx, c, path, map[string]string{metadataPending: "yes"})
	}
	busy, err := d.allow(ctx, id, want)
	if err != nil {
		return err
	}
	if busy != (s.Metadata[metadataPending] != "") {
		if err := setMetadata(ctx, c, path, map[bool]map[string]string{true: {metadataPending: "yes"}, false: {}}[busy], map[bool][]string{false: {metadataPending}}[busy]...); err != nil {
			return err
		}
	}
	if s.Size == size {
		return nil
	}
	return cloud.Fault(shares.Extend(ctx, c, id, shares.ExtendOpts{NewSize: int(size)}).ExtractErr(), "extend share %s to %d GiB", r.Name, size)
}

// allow makes the rules of a share those that are wanted. A rule of one address at another level can be made only when the
// former one is gone: busy says that this is being waited for.
func (d *Shares) allow(ctx context.Context, id string, want []access) (busy bool, err error) {
	rules, err := d.rules(ctx, id)
	if err != nil {
		return false, err
	}
	c, err := d.s.SharedFileSystem(ctx)
	if err != nil {
		return false, err
	}
	taken := map[string]bool{}
	for _, r := range rules {
		if slices.Contains(want, access{r.Type, r.To, r.Level}) && !r.leaving() && r.State != "error" {
			taken[r.Type+" "+r.To] = true
			continue
		}
		taken[r.Type+" "+r.To] = true
		busy = busy || slices.ContainsFunc(want, func(a access) bool { return a.typ == r.Type && a.to == r.To })
		if r.leaving() {
			continue
		}
		err := cloud.Fault(shares.RevokeAccess(ctx, c, id, shares.RevokeAccessOpts{AccessID: r.ID}).ExtractErr(), "no longer let %s use share %s", r.To, id)
		if err != nil && !fault.Is(err, fault.NotFound) {
			return false, err
		}
	}
	for _, a := range want {
		if taken[a.typ+" "+a.to] {
			continue
		}
		taken[a.typ+" "+a.to] = true
		_, err := shares.GrantAccess(ctx, c, id, shares.GrantAccessOpts{AccessType: a.typ, AccessTo: a.to, AccessLevel: a.level}).Extract()
		if err != nil {
			return false, cloud.Fault(err, "let %s use share %s", a.to, id)
		}
	}
	return busy, nil
}

// Delete implements driver.Driver. The service says of a share that is being deleted, or is at something else, that it is
// forbidden.
func (d *Shares) Delete(ctx context.Context, id string) error {
	c, err := d.s.SharedFileSystem(ctx)
	if err != nil {
		return err
	}
	err = cloud.Fault(shares.Delete(ctx, c, id).ExtractErr(), "delete share %s", id)
	if err == nil || fault.Is(err, fault.NotFound) {
		return nil
	}
	if !fault.Is(err, fault.Denied) && !fault.Is(err, fault.Conflict) {
		return err
	}
	s, readErr := d.one(ctx, id)
	switch {
	case fault.Is(readErr, fault.NotFound) || readErr == nil && s.Status == "deleting":
		return nil
	case readErr == nil && s.Status != "available" && s.Status != "error":
		return fault.New(fault.Conflict, "share %s cannot be deleted while it is %s", id, s.Status)
	}
	return err
}

// Blockers implements driver.Blockable: the snapshots of a share, which others made.
func (d *Shares) Blockers(ctx context.Context, id string) ([]*kindv1.Blocker, error) {
	out := []*kindv1.Blocker{}
	if _, err := d.one(ctx, id); err != nil {
		if fault.Is(err, fault.NotFound) {
			return out, nil
		}
		return nil, err
	}
	c, err := d.s.SharedFileSystem(ctx)
	if err != nil {
		return nil, err
	}
	all, err := cloud.List[struct{ ID, Name string }](ctx, c, "snapshots", "snapshots", url.Values{"share_id": {id}})
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		out = append(out, &kindv1.Blocker{Kind: "share snapshot", Id: s.ID, Owner: d.s.Whose("", s.Name, d.s.ProjectID), Action: "delete share snapshot " + s.ID})
	}
	return out, nil
}

// ListMarked implements driver.Lister.
func (d *Shares) ListMarked(ctx context.Context) ([]driver.Marked, error) {
	all, err := d.list(ctx, nil)
	if fault.Is(err, fault.Unsupported) {
		return nil, nil // a cloud without this service has no shares
	}
	if err != nil {
		return nil, err
	}
	var out []driver.Marked
	for _, s := range all {
		if m, ok := marked(s.ID, s.Metadata, s.Status); ok {
			out = append(out, m)
		}
	}
	return out, nil
}

// Keep implements driver.Keeper.
func (d *Shares) Keep(ctx context.Context, id, key, name string) error {
	c, err := d.s.SharedFileSystem(ctx)
	if err != nil {
		return err
	}
	err = setMetadata(ctx, c, "shares/"+id+"/metadata", map[string]string{cloud.MetadataKept: key, cloud.MetadataName: name}, cloud.MetadataKey, metadataPending)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// TakenUp implements driver.Keeper: a kept share is not taken up.
func (d *Shares) TakenUp(context.Context, string) (bool, error) { return false, nil }

// shareType is a share type that the project may use.
type shareType struct {
	ID    string         `json:"id"`
	Name  string         `json:"name"`
	Specs map[string]any `json:"extra_specs"`
}

func shareTypes(ctx context.Context, s *cloud.Session) ([]shareType, error) {
	c, err := s.SharedFileSystem(ctx)
	if err != nil {
		return nil, err
	}
	return cloud.List[shareType](ctx, c, "types", "share_types", nil)
}

// Check implements driver.Checker: sizes, types and the quotas.
func (d *Shares) Check(ctx context.Context, items []driver.Item[*storagev1.ShareSpec]) ([]driver.Finding, []driver.QuotaUse, error) {
	if !slices.ContainsFunc(items, func(i driver.Item[*storagev1.ShareSpec]) bool { return i.Spec != nil }) {
		return nil, nil, nil
	}
	types, err := shareTypes(ctx, d.s)
	if fault.Is(err, fault.Unsupported) {
		return []driver.Finding{{Fault: fault.Wrap(err, "shares need a shared file system service")}}, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	c, err := d.s.SharedFileSystem(ctx)
	if err != nil {
		return nil, nil, err
	}
	limits, err := d.s.Limits(ctx, c, "quota-sets/"+d.s.ProjectID+"/detail", "quota_set")
	if err != nil {
		return nil, nil, err
	}
	var findings []driver.Finding
	need := map[string]int64{}
	for _, i := range items {
		if i.Spec == nil {
			continue
		}
		size, err := sizeGiB(i.Spec.GetSize())
		if err != nil && !slices.Contains(i.Unknown, "size") {
			findings = append(findings, driver.Finding{Name: i.Name, Field: "spec.size", Fault: err})
		}
		if err := knownShareType(types, i.Spec.GetType()); err != nil {
			findings = append(findings, driver.Finding{Name: i.Name, Field: "spec.type", Fault: err})
		}
		switch i.Change {
		case kindv1.Change_CHANGE_CREATE, kindv1.Change_CHANGE_REPLACE:
			need["shares"]++
			need["gigabytes"] += size
		case kindv1.Change_CHANGE_IN_PLACE, kindv1.Change_CHANGE_RESTART:
			if former, err := sizeGiB(i.Former.GetSize()); err == nil {
				need["gigabytes"] += max(size-former, 0)
			}
		}
	}
	return findings, cloud.QuotaUses("shared-file-system", need, limits), nil
}

// knownShareType looks whether there is such a type, and whether shares of it can be made without a network of their own.
func knownShareType(types []shareType, ref string) error {
	names := make([]string, 0, len(types))
	for _, t := range types {
		if t.Name == ref || t.ID == ref {
			if strings.EqualFold(fmt.Sprint(t.Specs["driver_handles_share_servers"]), "true") {
				return fault.InField("spec.type", "shares of type %q need a share network of their own; choose a type without (driver_handles_share_servers = false)", ref)
			}
			return nil
		}
		names = append(names, t.Name)
	}
	if ref == "" {
		return nil
	}
	return cloud.Unknown("spec.type", "share type", ref, names)
}
