package compute

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/network"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

// createFields are the fields of a create request with the microversion that brought them.
var createFields = map[string]int{
	"name": 1, "imageRef": 1, "flavorRef": 1, "networks": 1, "metadata": 1, "adminPass": 1, "accessIPv4": 1, "accessIPv6": 1,
	"key_name": 1, "security_groups": 1, "user_data": 1, "availability_zone": 1, "config_drive": 1, "block_device_mapping": 1,
	"block_device_mapping_v2": 1, "min_count": 1, "max_count": 1, "return_reservation_id": 1, "OS-DCF:diskConfig": 1, "personality": 1,
	"description": 19, "tags": 52, "trusted_image_certificates": 63, "host": 74, "hypervisor_hostname": 74, "hostname": 90,
}

type createRequest struct {
	Name        string
	ImageRef    *string
	FlavorRef   string
	Networks    json.RawMessage
	Metadata    map[string]string
	AdminPass   string
	AccessIPv4  string
	AccessIPv6  string
	KeyName     *string                 `json:"key_name"`
	Groups      []struct{ Name string } `json:"security_groups"`
	UserData    *string                 `json:"user_data"`
	Zone        *string                 `json:"availability_zone"`
	ConfigDrive any                     `json:"config_drive"`
	Disks       []struct {
		BootIndex           any    `json:"boot_index"`
		UUID                string `json:"uuid"`
		SourceType          string `json:"source_type"`
		DestinationType     string `json:"destination_type"`
		Size                any    `json:"volume_size"`
		DeleteOnTermination any    `json:"delete_on_termination"`
		DeviceName          string `json:"device_name"`
		Tag                 string `json:"tag"`
		VolumeType          string `json:"volume_type"`
		NoDevice            any    `json:"no_device"`
		DiskBus             string `json:"disk_bus"`
		DeviceType          string `json:"device_type"`
		GuestFormat         string `json:"guest_format"`
	} `json:"block_device_mapping_v2"`
	MinCount    any      `json:"min_count"`
	MaxCount    any      `json:"max_count"`
	Reservation any      `json:"return_reservation_id"`
	Description *string  `json:"description"`
	Tags        []string `json:"tags"`
	Hostname    string   `json:"hostname"`
}

// invalid is how Nova refuses a value by its schema.
func invalid(field string, value any, why string) error {
	return bad("Invalid input for field/attribute %s. Value: %v. %s", field, value, why)
}

func (s *Service) readCreate(r *rest.Request) (*createRequest, error) {
	body := map[string]json.RawMessage{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	raw, ok := body["server"]
	if !ok {
		return nil, bad("'server' is a required property")
	}
	fields := map[string]any{}
	in := &createRequest{}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, invalid("server", string(raw), "is not of type 'object'")
	}
	shown := strings.ReplaceAll(string(raw), `"`, "'")
	for name := range fields {
		if since, ok := createFields[name]; !ok || since > r.Minor || name == "personality" && r.Minor >= 57 {
			return nil, invalid("server", shown, fmt.Sprintf("Additional properties are not allowed ('%s' was unexpected)", name))
		}
	}
	for _, name := range []string{"name", "flavorRef"} {
		if _, ok := fields[name]; !ok {
			return nil, invalid("server", shown, fmt.Sprintf("'%s' is a required property", name))
		}
	}
	if id, ok := fields["flavorRef"].(float64); ok {
		fields["flavorRef"] = strconv.Itoa(int(id))
		patched, err := json.Marshal(fields)
		if err != nil {
			return nil, err
		}
		raw = patched
	}
	if err := json.Unmarshal(raw, in); err != nil {
		return nil, invalid("server", shown, err.Error())
	}
	if _, ok := fields["networks"]; !ok && r.Minor >= 37 {
		return nil, invalid("server", shown, "'networks' is a required property")
	}
	return in, in.check()
}

func (in *createRequest) check() error {
	if in.Name == "" {
		return invalid("name", "", "'' is too short")
	}
	if len(in.Name) > 255 {
		return invalid("name", in.Name, fmt.Sprintf("'%s' is too long", in.Name))
	}
	if err := checkMetadata(in.Metadata); err != nil {
		return err
	}
	if len(in.Tags) > 50 {
		return invalid("tags", in.Tags, "is too long")
	}
	for i, tag := range in.Tags {
		if err := checkTag(strconv.Itoa(i), tag); err != nil {
			return err
		}
	}
	if in.UserData == nil {
		return nil
	}
	if len(*in.UserData) > 65535 {
		return invalid("user_data", *in.UserData, fmt.Sprintf("'%s' is too long", *in.UserData))
	}
	// Characters outside the alphabet are skipped, as the check of the real API does.
	letters := regexp.MustCompile(`[^A-Za-z0-9+/=]`).ReplaceAllString(*in.UserData, "")
	if _, err := base64.StdEncoding.DecodeString(letters); err != nil {
		return invalid("user_data", *in.UserData, fmt.Sprintf("'%s' is not a 'base64'", *in.UserData))
	}
	return nil
}

func checkMetadata(meta map[string]string) error {
	for k, v := range meta {
		if len(v) > 255 {
			return invalid(k, v, fmt.Sprintf("'%s' is too long", v))
		}
		if k == "" || len(k) > 255 || !metadataKey.MatchString(k) {
			return invalid("metadata", meta, fmt.Sprintf("Additional properties are not allowed ('%s' was unexpected)", k))
		}
	}
	return nil
}

var metadataKey = regexp.MustCompile(`^[a-zA-Z0-9-_:. ]{1,255}$`)

func checkTag(field, tag string) error {
	if strings.ContainsAny(tag, ",/") {
		return invalid(field, tag, fmt.Sprintf("'%s' does not match '^[^,/]*$'", tag))
	}
	if tag == "" {
		return invalid(field, tag, "'' is too short")
	}
	if len(tag) > 60 {
		return invalid(field, tag, fmt.Sprintf("'%s' is too long", tag))
	}
	return nil
}

func count(v any) (int, error) {
	switch v := v.(type) {
	case nil:
		return 1, nil
	case float64:
		return int(v), nil
	case string:
		return strconv.Atoi(v)
	}
	return 0, fmt.Errorf("%v", v)
}

func (s *Service) createServer(r *rest.Request) (*rest.Response, error) {
	in, err := s.readCreate(r)
	if err != nil {
		return nil, err
	}
	lowest, errMin := count(in.MinCount)
	highest, errMax := count(in.MaxCount)
	if in.MaxCount == nil {
		highest = lowest
	}
	if errMin != nil || errMax != nil || lowest < 1 || highest < lowest {
		return nil, bad("min_count must be <= max_count")
	}
	template := &Server{
		Name: in.Name, Project: r.Token.ProjectID, User: r.Token.UserID, Zone: "nova", Metadata: in.Metadata, Tags: unique(in.Tags),
		AccessIPv4: in.AccessIPv4, AccessIPv6: in.AccessIPv6, Caller: rest.Token{UserID: r.Token.UserID, UserName: r.Token.UserName, ProjectID: r.Token.ProjectID, Roles: r.Token.Roles},
	}
	if err := s.fill(r, in, template); err != nil {
		return nil, err
	}
	if err := s.checkQuota(r.Token.ProjectID, template, highest); err != nil {
		return nil, err
	}
	if made := slices.DeleteFunc(slices.Clone(template.Networks), func(a network.Attachment) bool { return a.Port != "" }); !s.networks.RoomForPorts(r.Token.ProjectID, len(made)*highest) {
		return nil, rest.Errorf(http.StatusForbidden, "", "Maximum number of ports exceeded")
	}
	if err := s.checkDisks(r, template, highest); err != nil {
		return nil, err
	}
	var first *Server
	for i := range highest {
		v := s.launch(r, template, i, highest)
		if first == nil {
			first = v
		}
	}
	return s.created(r, in, first)
}

func (s *Service) created(r *rest.Request, in *createRequest, v *Server) (*rest.Response, error) {
	pass := in.AdminPass
	if pass == "" {
		pass = rest.NewHex()[:12]
	}
	if want, _ := rest.ParseBool(fmt.Sprint(in.Reservation)); want {
		return rest.Status(http.StatusAccepted, rest.M{"reservation_id": "r-" + v.ID[:8]})
	}
	groups := []rest.M{}
	for _, name := range v.GroupNames {
		groups = append(groups, rest.M{"name": name})
	}
	return &rest.Response{
		Status: http.StatusAccepted, Header: map[string]string{"Location": r.Base + "/compute/v2.1/servers/" + v.ID},
		Body: rest.M{"server": rest.M{"id": v.ID, "links": serverLinks(r, v.ID), "OS-DCF:diskConfig": "MANUAL", "security_groups": groups, "adminPass": pass}},
	}, nil
}

func unique(tags []string) []string {
	out := slices.Clone(tags)
	slices.Sort(out)
	return slices.Compact(out)
}

// launch makes one server and plans its build.
func (s *Service) launch(r *rest.Request, template *Server, i, n int) *Server {
	v := *template
	v.ID = rest.NewID()
	v.CreatedAt, v.UpdatedAt = r.Now, r.Now
	v.Disks = slices.Clone(template.Disks)
	for k := range v.Disks {
		v.Disks[k].ID = rest.NewID()
	}
	if n > 1 {
		v.Name = fmt.Sprintf("%s-%d", template.Name, i+1)
	}
	if v.Hostname == "" {
		v.Hostname = hostname(v.Name)
	}
	s.number++
	v.Number = s.number
	v.VMState, v.TaskState = "building", "scheduling"
	s.count(&v, 1)
	s.reserveDisks(r.Now, &v)
	s.plan(r.Now, &v,
		Step{At: s.at(r.Now, "server.active", 20), VM: "building", Task: "block_device_mapping", Do: "network"},
		Step{At: s.at(r.Now, "server.active", 50), VM: "building", Task: "spawning"},
		Step{At: s.at(r.Now, "server.active", 100), VM: "active", Power: 1, Do: "launched"},
	)
	return &v
}

var notHost = regexp.MustCompile(`[^a-z0-9-]+`)

func hostname(name string) string {
	name = notHost.ReplaceAllString(strings.ToLower(strings.NewReplacer(" ", "-", "_", "-", ".", "-").Replace(name)), "")
	return strings.Trim(name[:min(len(name), 63)], "-")
}

// fill resolves what a create request refers to.
func (s *Service) fill(r *rest.Request, in *createRequest, v *Server) error {
	if in.Description != nil {
		v.Description = *in.Description
	}
	if r.Minor < 19 {
		v.Description = in.Name
	}
	v.Hostname = in.Hostname
	if len(in.Metadata) > s.limits(v.Project)["metadata_items"] && s.limits(v.Project)["metadata_items"] >= 0 {
		return rest.Errorf(http.StatusForbidden, "", "Maximum number of metadata items exceeds %d", s.limits(v.Project)["metadata_items"])
	}
	if in.Zone != nil && *in.Zone != "" && *in.Zone != "nova" && *in.Zone != "nova:"+network.Host {
		return bad("The requested availability zone is not available")
	}
	if on, ok := rest.ParseBool(fmt.Sprint(in.ConfigDrive)); ok {
		v.ConfigDrive = on
	}
	if in.UserData != nil {
		v.UserData = *in.UserData
	}
	if in.KeyName != nil {
		if s.keypairs.Get(v.User+"/"+*in.KeyName) == nil {
			return bad("Invalid key_name provided.")
		}
		v.KeyName = *in.KeyName
	}
	flavor := s.flavors.Get(in.FlavorRef)
	if flavor == nil {
		return bad("Flavor %s could not be found.", in.FlavorRef)
	}
	v.Flavor = *flavor
	if err := s.fillDisks(r, in, v); err != nil {
		return err
	}
	if err := s.fillGroups(r, in, v); err != nil {
		return err
	}
	if err := s.fillNetworks(r, in, v); err != nil {
		return err
	}
	return s.fillHints(r, v)
}

func (s *Service) fillHints(r *rest.Request, v *Server) error {
	hints := struct {
		A struct{ Group string } `json:"os:scheduler_hints"`
		B struct{ Group string } `json:"OS-SCH-HNT:scheduler_hints"`
	}{}
	if err := json.Unmarshal(r.Body, &hints); err != nil {
		return nil // hints of another form than a group name are no concern of the sandbox
	}
	group := hints.A.Group + hints.B.Group
	if group == "" {
		return nil
	}
	g := s.groups.Get(group)
	if g == nil || g.Project != v.Project {
		return bad("Instance group %s could not be found.", group)
	}
	if limit := s.limits(v.Project)["server_group_members"]; limit >= 0 && s.servers.Count(byGroup, group) >= limit {
		return rest.Errorf(http.StatusForbidden, "", "Quota exceeded, too many servers in group")
	}
	v.ServerGroup = group
	return nil
}

func (s *Service) fillGroups(r *rest.Request, in *createRequest, v *Server) error {
	v.GroupNames = []string{"default"}
	if len(in.Groups) == 0 {
		return nil
	}
	v.GroupNames = nil
	for _, want := range in.Groups {
		g := s.networks.FindGroup(r.Token, r.Now, want.Name)
		if g == nil {
			return bad("Unable to find security_group with name or id '%s'", want.Name)
		}
		v.Groups = append(v.Groups, g.ID)
		v.GroupNames = append(v.GroupNames, want.Name)
	}
	return nil
}

func (s *Service) fillNetworks(r *rest.Request, in *createRequest, v *Server) error {
	word := ""
	if len(in.Networks) > 0 && json.Unmarshal(in.Networks, &word) == nil && word != "" {
		if r.Minor < 37 {
			return invalid("networks", word, fmt.Sprintf("'%s' is not of type 'array'", word))
		}
		if word != "auto" && word != "none" {
			return invalid("networks", word, fmt.Sprintf("'%s' is not one of ['none', 'auto']", word))
		}
		v.NoNetwork = word == "none"
	}
	wants := []struct {
		UUID, Port, Tag string
		FixedIP         string `json:"fixed_ip"`
	}{}
	if len(in.Networks) > 0 && word == "" {
		if err := json.Unmarshal(in.Networks, &wants); err != nil {
			return invalid("networks", string(in.Networks), "is not valid under any of the given schemas")
		}
	}
	if len(wants) == 0 && !v.NoNetwork {
		nets := s.networks.Networks(r.Token)
		if len(nets) > 1 {
			return conflict("Multiple possible networks found, use a Network ID to be more specific.")
		}
		for _, id := range nets {
			if err := s.networks.CheckAttachment(r.Token, network.Attachment{Network: id}); err != nil {
				return err
			}
			v.Networks = append(v.Networks, network.Attachment{Network: id})
		}
	}
	for _, n := range wants {
		if n.UUID != "" && !rest.IsID(n.UUID) || n.Port != "" && !rest.IsID(n.Port) {
			return invalid("networks", strings.ReplaceAll(string(in.Networks), `"`, "'"), strings.ReplaceAll(string(in.Networks), `"`, "'")+" is not valid under any of the given schemas")
		}
		a := network.Attachment{Network: n.UUID, Port: n.Port, FixedIP: n.FixedIP, Tag: n.Tag}
		if err := s.networks.CheckAttachment(r.Token, a); err != nil {
			return err
		}
		v.Networks = append(v.Networks, a)
	}
	return nil
}

// fillDisks resolves the image and the block devices.
func (s *Service) fillDisks(r *rest.Request, in *createRequest, v *Server) error {
	visible := r.Token.ProjectID
	if r.Token.Admin() {
		visible = ""
	}
	if in.ImageRef != nil && *in.ImageRef != "" {
		id := (*in.ImageRef)[strings.LastIndex(*in.ImageRef, "/")+1:]
		if !rest.IsID(id) {
			return invalid("imageRef", *in.ImageRef, fmt.Sprintf("'%s' is not valid under any of the given schemas", *in.ImageRef))
		}
		img := s.images.Find(id, visible)
		if img == nil {
			return bad("Can not find requested image")
		}
		if img.Status != "active" {
			return bad("Image %s is not active.", id)
		}
		if v.Flavor.RAM < img.MinRAM {
			return bad("Flavor's memory is too small for requested image.")
		}
		if v.Flavor.Disk > 0 && v.Flavor.Disk < img.MinDisk {
			return bad("Flavor's disk is too small for requested image. Flavor disk is %d bytes, image is %d bytes.", v.Flavor.Disk<<30, int64(img.MinDisk)<<30)
		}
		v.ImageID = id
	}
	booted := v.ImageID != ""
	for i, want := range in.Disks {
		d, boots, err := s.fillDisk(r, in, i, visible)
		if err != nil {
			return err
		}
		if boots && v.ImageID != "" && want.SourceType != "image" {
			return bad("Block Device Mapping is Invalid: Boot sequence for the instance and image/block device mapping combination is not valid.")
		}
		if boots && want.DestinationType != "volume" {
			booted = true
			continue // the image itself, on the local disk
		}
		booted = booted || boots
		v.Disks = append(v.Disks, d)
	}
	if !booted && len(in.Disks) == 0 {
		return bad("Missing imageRef attribute")
	}
	if !booted {
		return bad("Block Device Mapping is Invalid: Boot sequence for the instance and image/block device mapping combination is not valid.")
	}
	nameDevices(v)
	return nil
}

func (s *Service) fillDisk(r *rest.Request, in *createRequest, i int, visible string) (Disk, bool, error) {
	want := in.Disks[i]
	d := Disk{Source: want.SourceType, Destination: want.DestinationType, UUID: want.UUID, Tag: want.Tag, VolumeType: want.VolumeType, BootIndex: -1}
	if n, err := count(want.BootIndex); want.BootIndex != nil && err == nil {
		d.BootIndex = n
	}
	if want.Size != nil {
		n, err := count(want.Size)
		if err != nil || n < 1 {
			return d, false, invalid("volume_size", want.Size, "is not a positive integer")
		}
		d.Size = n
	}
	d.DeleteOnTermination, _ = rest.ParseBool(fmt.Sprint(want.DeleteOnTermination))
	if d.Destination == "" {
		d.Destination = "volume"
		if d.Source == "image" && d.BootIndex == 0 && d.Size == 0 {
			d.Destination = "local"
		}
	}
	if d.Destination == "local" {
		return d, d.BootIndex == 0, nil
	}
	switch d.Source {
	case "volume":
		if s.volumes.Find(r.Token, d.UUID) == nil {
			return d, false, bad("Volume %s could not be found.", d.UUID)
		}
		d.Volume = d.UUID
	case "image":
		if s.images.Find(d.UUID, visible) == nil {
			return d, false, bad("Block Device Mapping is Invalid: failed to get image %s.", d.UUID)
		}
		if d.Size == 0 {
			return d, false, bad("Images with destination_type 'volume' need to have a non-zero size specified")
		}
	case "snapshot":
		if s.volumes.Snapshot(r.Token, d.UUID) == nil {
			return d, false, bad("Block Device Mapping is Invalid: failed to get snapshot %s.", d.UUID)
		}
	case "blank":
		if d.Size == 0 {
			return d, false, bad("Blank volumes (source: 'blank', dest: 'volume') need to have non-zero size")
		}
	default:
		return d, false, invalid("source_type", d.Source, fmt.Sprintf("'%s' is not one of ['volume', 'image', 'snapshot', 'blank']", d.Source))
	}
	return d, d.BootIndex == 0, nil
}

// nameDevices puts the boot disk first and gives every volume the next free device name.
func nameDevices(v *Server) {
	rank := func(d Disk) int {
		if d.BootIndex == 0 {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(v.Disks, func(a, b Disk) int { return rank(a) - rank(b) })
	next := byte('a')
	if v.ImageID != "" || len(v.Disks) > 0 && v.Disks[0].BootIndex != 0 {
		next = 'b' // vda is the local root disk
	}
	for i := range v.Disks {
		v.Disks[i].Device = "/dev/vd" + string(next)
		next++
	}
}

// checkDisks says whether the existing volumes of the request can be taken.
func (s *Service) checkDisks(r *rest.Request, v *Server, n int) error {
	for _, d := range v.Disks {
		if d.Volume == "" {
			continue
		}
		if n > 1 {
			return bad("Volume attachment is only supported for a single server: max_count must be 1.")
		}
		vol := s.volumes.Find(r.Token, d.Volume)
		if vol.Status != "available" {
			return bad("Invalid volume: Invalid input received: Invalid volume: Volume %s status must be available or in-use or downloading to reserve, but the current status is %s.", vol.ID, vol.Status)
		}
	}
	return nil
}

// reserveDisks takes the existing volumes at once, as the API does; the build takes the rest.
func (s *Service) reserveDisks(now time.Time, v *Server) {
	for i := range v.Disks {
		d := &v.Disks[i]
		if vol := s.volumes.Find(&v.Caller, d.Volume); vol != nil {
			d.Attachment = s.volumes.Reserve(now, vol, v.ID, d.Device, s.at(now, "server.active", 100))
		}
	}
}

// Quotas.

var defaultQuotas = map[string]int{
	"cores": 20, "instances": 10, "key_pairs": 100, "metadata_items": 128, "ram": 51200, "server_group_members": 10, "server_groups": 10,
}

// oldQuotas are shown before 2.36 (networks) and 2.57 (files).
var oldQuotas = map[string]int{
	"fixed_ips": -1, "floating_ips": -1, "security_group_rules": -1, "security_groups": -1, "injected_file_content_bytes": 10240,
	"injected_file_path_bytes": 255, "injected_files": 5,
}

func (s *Service) limits(project string) map[string]int {
	out := map[string]int{}
	for k, v := range defaultQuotas {
		out[k] = v
	}
	if own := s.quotas.Get(project); own != nil {
		for k, v := range *own {
			out[k] = v
		}
	}
	return out
}

func (s *Service) usageOf(project string) usage {
	if u := s.used[project]; u != nil {
		return *u
	}
	return usage{}
}

func (s *Service) checkQuota(project string, v *Server, n int) error {
	return s.checkUsage(project, usage{n, n * v.Flavor.VCPUs, n * v.Flavor.RAM})
}

func (s *Service) checkUsage(project string, want usage) error {
	limits, used := s.limits(project), s.usageOf(project)
	var names, asked, had, allowed []string
	for _, q := range []struct {
		name       string
		want, used int
	}{{"cores", want.cores, used.cores}, {"instances", want.instances, used.instances}, {"ram", want.ram, used.ram}} {
		limit := limits[q.name]
		if limit < 0 || q.want <= 0 || q.used+q.want <= limit {
			continue
		}
		names, asked = append(names, q.name), append(asked, strconv.Itoa(q.want))
		had, allowed = append(had, strconv.Itoa(q.used)), append(allowed, strconv.Itoa(limit))
	}
	if len(names) == 0 {
		return nil
	}
	list := strings.Join(names, ", ")
	return rest.Errorf(http.StatusForbidden, "", "Quota exceeded for %s: Requested %s, but already used %s of %s %s", list, strings.Join(asked, ", "), strings.Join(had, ", "), strings.Join(allowed, ", "), list)
}

// SetQuotas sets limits of a project.
func (s *Service) SetQuotas(project string, limits map[string]int) error {
	for key := range limits {
		if _, ok := defaultQuotas[key]; !ok {
			return bad("Bad key(s) in quota set: %s", key)
		}
	}
	next := map[string]int{}
	if own := s.quotas.Get(project); own != nil {
		for k, v := range *own {
			next[k] = v
		}
	}
	for k, v := range limits {
		next[k] = v
	}
	s.quotas.Put(project, &next)
	return nil
}

// Quotas yields the limits that were set, by project.
func (s *Service) Quotas() map[string]map[string]int {
	out := map[string]map[string]int{}
	for project, own := range s.quotas.All() {
		copied := map[string]int{}
		for k, v := range *own {
			copied[k] = v
		}
		out[project] = copied
	}
	return out
}

func stamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return rest.Micros(t)
}
