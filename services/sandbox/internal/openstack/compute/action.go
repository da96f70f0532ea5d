package compute

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/image"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

// actions by the key of the request body.
func (s *Service) actions() map[string]func(*rest.Request, *Server, json.RawMessage) (*rest.Response, error) {
	type call = func(*rest.Request, *Server, json.RawMessage) (*rest.Response, error)
	return map[string]call{
		"os-start":            s.power("start", "stopped", "powering-on", "active", 1),
		"os-stop":             s.power("stop", "active", "powering-off", "stopped", 4),
		"pause":               s.power("pause", "active", "pausing", "paused", 3),
		"unpause":             s.power("unpause", "paused", "unpausing", "active", 1),
		"suspend":             s.power("suspend", "active", "suspending", "suspended", 4),
		"resume":              s.power("resume", "suspended", "resuming", "active", 1),
		"reboot":              s.reboot,
		"resize":              s.resize,
		"confirmResize":       s.confirmResize,
		"revertResize":        s.revertResize,
		"rebuild":             s.rebuild,
		"createImage":         s.createImage,
		"lock":                s.lock,
		"unlock":              s.unlock,
		"os-getConsoleOutput": s.consoleOutput,
		"addSecurityGroup":    s.changeGroup(true),
		"removeSecurityGroup": s.changeGroup(false),
		"os-resetState":       s.resetState,
		"forceDelete": func(r *rest.Request, _ *Server, _ json.RawMessage) (*rest.Response, error) {
			return s.deleteServer(r)
		},
		"changePassword": func(_ *rest.Request, v *Server, _ json.RawMessage) (*rest.Response, error) {
			if err := changeable(v, "changePassword", "active"); err != nil {
				return nil, err
			}
			return nil, conflict("QEMU guest agent is not enabled")
		},
	}
}

// unlockedOnly are the actions that a lock does not stop.
var unlockedOnly = []string{"lock", "unlock", "os-getConsoleOutput"}

func (s *Service) serverAction(r *rest.Request) (*rest.Response, error) {
	body := map[string]json.RawMessage{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	for name, args := range body {
		do := s.actions()[name]
		if do == nil {
			if strings.HasPrefix(name, "os-get") {
				return nil, notFound("The resource could not be found.")
			}
			return nil, bad("There is no such action: %s", name)
		}
		v, err := s.server(r)
		if err != nil {
			return nil, err
		}
		if v.Locked && !r.Token.Admin() && !slices.Contains(unlockedOnly, name) {
			return nil, conflict("Instance %s is locked", v.ID)
		}
		return do(r, v, args)
	}
	return nil, bad("Malformed request body")
}

// task starts a task of a server and plans its end.
func (s *Service) task(r *rest.Request, v *Server, task string, steps ...Step) {
	v.TaskState = task
	s.plan(r.Now, v, steps...)
}

func accepted() (*rest.Response, error) { return rest.Status(http.StatusAccepted, nil) }

func (s *Service) power(verb, from, task, to string, power int) func(*rest.Request, *Server, json.RawMessage) (*rest.Response, error) {
	return func(r *rest.Request, v *Server, _ json.RawMessage) (*rest.Response, error) {
		if (verb == "start" || verb == "stop") && (v.VMState == "building" || v.VMState == "error" && v.LaunchedAt.IsZero()) {
			return nil, conflict("Instance %s is not ready", v.ID)
		}
		from := []string{from}
		if verb == "stop" {
			from = append(from, "error")
		}
		if err := changeable(v, verb, from...); err != nil {
			return nil, err
		}
		s.task(r, v, task, Step{At: s.at(r.Now, "server."+to, 100), VM: to, Power: power})
		return accepted()
	}
}

func (s *Service) reboot(r *rest.Request, v *Server, args json.RawMessage) (*rest.Response, error) {
	in := struct{ Type string }{}
	if err := json.Unmarshal(args, &in); err != nil {
		return nil, invalid("reboot", string(args), "is not of type 'object'")
	}
	kind := strings.ToUpper(in.Type)
	if kind != "HARD" && kind != "SOFT" {
		return nil, invalid("type", in.Type, fmt.Sprintf("'%s' is not one of ['HARD', 'Hard', 'hard', 'SOFT', 'Soft', 'soft']", in.Type))
	}
	states := []string{"active"}
	task := "rebooting"
	if kind == "HARD" {
		states, task = []string{"active", "stopped", "paused", "suspended", "error"}, "rebooting_hard"
	}
	if err := changeable(v, "reboot", states...); err != nil {
		return nil, err
	}
	s.task(r, v, task, Step{At: s.at(r.Now, "server.rebooted", 100), VM: "active", Power: 1})
	return accepted()
}

func (s *Service) resize(r *rest.Request, v *Server, args json.RawMessage) (*rest.Response, error) {
	in := struct{ FlavorRef string }{}
	if err := json.Unmarshal(args, &in); err != nil || in.FlavorRef == "" {
		return nil, invalid("resize", string(args), "'flavorRef' is a required property")
	}
	if err := changeable(v, "resize", "active", "stopped"); err != nil {
		return nil, err
	}
	f := s.flavors.Get(in.FlavorRef)
	if f == nil {
		return nil, bad("Flavor %s could not be found.", in.FlavorRef)
	}
	if f.ID == v.Flavor.ID {
		return nil, bad("When resizing, instances must change flavor!")
	}
	if f.Disk < v.Flavor.Disk && f.Disk == 0 && v.ImageID != "" {
		return nil, bad("Resize to zero disk flavor is not allowed.")
	}
	if err := s.checkUsage(v.Project, usage{0, f.VCPUs - v.Flavor.VCPUs, f.RAM - v.Flavor.RAM}); err != nil {
		return nil, err
	}
	before, power := v.VMState, v.Power
	if f.Disk < v.Flavor.Disk && v.ImageID != "" {
		// The hypervisor cannot shrink a disk: the server comes back as it was, as in the lab.
		s.task(r, v, "resize_prep", Step{At: s.at(r.Now, "server.resized", 30), VM: before, Power: power})
		return accepted()
	}
	flavor := *f
	v.NewFlavor = &flavor
	s.task(r, v, "resize_prep",
		Step{At: s.at(r.Now, "server.resized", 20), VM: before, Task: "resize_migrating", Power: power},
		Step{At: s.at(r.Now, "server.resized", 70), VM: before, Task: "resize_migrated", Power: power},
		Step{At: s.at(r.Now, "server.resized", 80), VM: before, Task: "resize_finish", Power: power},
		Step{At: s.at(r.Now, "server.resized", 100), VM: "resized", Power: power, Do: "resized"},
	)
	return accepted()
}

func (s *Service) confirmResize(r *rest.Request, v *Server, _ json.RawMessage) (*rest.Response, error) {
	if err := changeable(v, "confirmResize", "resized"); err != nil {
		return nil, err
	}
	if len(v.Next) > 0 { // the server shows nothing of a confirmation that is going on, but there is no resize left to confirm
		return nil, bad("Instance has not been resized.")
	}
	s.plan(r.Now, v, Step{At: s.at(r.Now, "server.resize_confirmed", 100), VM: restState(v.Power), Power: v.Power, Do: "confirmed"})
	return rest.Status(http.StatusNoContent, nil)
}

// restState is the vm state that goes with a power state.
func restState(power int) string {
	if power == 1 {
		return "active"
	}
	return "stopped"
}

func (s *Service) revertResize(r *rest.Request, v *Server, _ json.RawMessage) (*rest.Response, error) {
	if err := changeable(v, "revertResize", "resized"); err != nil {
		return nil, err
	}
	s.task(r, v, "resize_reverting", Step{At: s.at(r.Now, "server.resized", 100), VM: restState(v.Power), Power: v.Power, Do: "reverted"})
	return accepted()
}

func (s *Service) rebuild(r *rest.Request, v *Server, args json.RawMessage) (*rest.Response, error) {
	in := struct {
		ImageRef, Name, Description, AdminPass *string
		Metadata                               map[string]string
		UserData                               *string `json:"user_data"`
		KeyName                                *string `json:"key_name"`
	}{}
	if err := json.Unmarshal(args, &in); err != nil || in.ImageRef == nil {
		return nil, invalid("rebuild", string(args), "'imageRef' is a required property")
	}
	if v.VMState == "error" && v.LaunchedAt.IsZero() {
		return nil, conflict("Instance %s is in an invalid state for 'rebuild'", v.ID)
	}
	if err := changeable(v, "rebuild", "active", "stopped", "paused", "suspended", "error"); err != nil {
		return nil, err
	}
	project := r.Token.ProjectID
	if r.Token.Admin() {
		project = ""
	}
	if s.images.Find(*in.ImageRef, project) == nil {
		return nil, bad("Cannot find image for rebuild")
	}
	for _, f := range []struct{ from, to *string }{{in.ImageRef, &v.ImageID}, {in.Name, &v.Name}, {in.Description, &v.Description}, {in.UserData, &v.UserData}, {in.KeyName, &v.KeyName}} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
	if in.Metadata != nil {
		v.Metadata = in.Metadata
	}
	end, power := "active", 1
	if v.VMState == "stopped" {
		end, power = "stopped", 4
	}
	s.task(r, v, "rebuilding",
		Step{At: s.at(r.Now, "server.rebuilt", 60), VM: v.VMState, Task: "rebuild_spawning", Power: v.Power},
		Step{At: s.at(r.Now, "server.rebuilt", 100), VM: end, Power: power, Do: "launched"},
	)
	view := s.viewOne(r, v)
	if r.Minor >= 57 {
		view["user_data"] = word(v.UserData)
	}
	view["adminPass"] = rest.NewHex()[:12]
	if in.AdminPass != nil {
		view["adminPass"] = *in.AdminPass
	}
	return &rest.Response{Status: http.StatusAccepted, Body: rest.M{"server": view}, Header: map[string]string{"Location": r.Base + "/compute/v2.1/servers/" + v.ID}}, nil
}

func (s *Service) createImage(r *rest.Request, v *Server, args json.RawMessage) (*rest.Response, error) {
	in := struct {
		Name     string
		Metadata map[string]string
	}{}
	if err := json.Unmarshal(args, &in); err != nil || in.Name == "" {
		return nil, invalid("createImage", string(args), "'name' is a required property")
	}
	if err := changeable(v, "createImage", "active", "stopped", "paused", "suspended"); err != nil {
		return nil, err
	}
	props := map[string]string{"image_type": "snapshot", "instance_uuid": v.ID, "user_id": v.User, "base_image_ref": v.ImageID}
	if base := s.images.Find(v.ImageID, ""); base != nil {
		for k, value := range base.Properties {
			props[k] = value
		}
	}
	for k, value := range in.Metadata {
		props[k] = value
	}
	img := &image.Image{
		ID: rest.NewID(), Name: in.Name, Status: "queued", Visibility: "private", Owner: v.Project, DiskFormat: "qcow2", ContainerFormat: "bare", Size: -1,
		MinDisk: v.Flavor.Disk, Properties: props, CreatedAt: r.Now, UpdatedAt: r.Now,
	}
	s.images.Add(img)
	s.task(r, v, "image_snapshot_pending",
		Step{At: s.at(r.Now, "image.active", 40), VM: v.VMState, Task: "image_uploading", Power: v.Power},
		Step{At: s.at(r.Now, "image.active", 100), VM: v.VMState, Power: v.Power, Do: "image " + img.ID},
	)
	if r.Minor >= 45 {
		return rest.Status(http.StatusAccepted, rest.M{"image_id": img.ID})
	}
	return &rest.Response{Status: http.StatusAccepted, Header: map[string]string{"Location": r.Base + "/compute/images/" + img.ID}}, nil
}

func (s *Service) lock(r *rest.Request, v *Server, args json.RawMessage) (*rest.Response, error) {
	in := struct {
		Reason string `json:"locked_reason"`
	}{}
	if string(args) != "null" && r.Minor >= 73 {
		if err := json.Unmarshal(args, &in); err != nil {
			return nil, invalid("lock", string(args), "is not of type 'object'")
		}
	}
	v.Locked, v.LockedReason = true, in.Reason
	s.servers.Put(v.ID, v)
	return accepted()
}

func (s *Service) unlock(_ *rest.Request, v *Server, _ json.RawMessage) (*rest.Response, error) {
	v.Locked, v.LockedReason = false, ""
	s.servers.Put(v.ID, v)
	return accepted()
}

func (s *Service) consoleOutput(_ *rest.Request, v *Server, args json.RawMessage) (*rest.Response, error) {
	if v.LaunchedAt.IsZero() {
		return nil, conflict("Instance %s is not ready", v.ID)
	}
	if v.Power != 1 { // libvirt keeps no console of a domain that does not run
		return nil, rest.Errorf(http.StatusNotFound, "", "Guest does not have a console available.")
	}
	in := struct{ Length any }{}
	if string(args) != "null" && len(args) > 0 {
		if err := json.Unmarshal(args, &in); err != nil {
			return nil, invalid("os-getConsoleOutput", string(args), "is not of type 'object'")
		}
	}
	lines := []string{"sandbox: booting " + v.Name}
	for _, a := range s.networks.Addresses(v.ID) {
		lines = append(lines, "sandbox: "+a.MAC+" has "+a.Address)
	}
	lines = append(lines, "sandbox: ready", v.Hostname+" login:")
	if n, err := count(in.Length); in.Length != nil && err == nil && n >= 0 && n < len(lines) {
		lines = lines[len(lines)-n:]
	}
	return rest.OK(rest.M{"output": strings.Join(lines, "\n")})
}

func (s *Service) changeGroup(add bool) func(*rest.Request, *Server, json.RawMessage) (*rest.Response, error) {
	return func(r *rest.Request, v *Server, args json.RawMessage) (*rest.Response, error) {
		in := struct{ Name string }{}
		if err := json.Unmarshal(args, &in); err != nil || in.Name == "" {
			return nil, bad("Missing parameter dict")
		}
		g := s.networks.FindGroup(r.Token, r.Now, in.Name)
		if g == nil {
			return nil, notFound("Security group %s is not found for project %s", in.Name, v.Project)
		}
		if !s.networks.SetGroup(r.Now, v.ID, g.ID, add) && !add {
			return nil, notFound("Security group %s not associated with the instance %s", g.ID, v.ID)
		}
		return accepted()
	}
}

func (s *Service) resetState(r *rest.Request, v *Server, args json.RawMessage) (*rest.Response, error) {
	if !r.Token.Admin() {
		return nil, policy("os_compute_api:os-admin-actions:reset_state")
	}
	in := struct{ State string }{}
	if err := json.Unmarshal(args, &in); err != nil || in.State != "active" && in.State != "error" {
		return nil, invalid("state", in.State, fmt.Sprintf("'%s' is not one of ['active', 'error']", in.State))
	}
	v.VMState, v.TaskState = in.State, ""
	s.plan(r.Now, v)
	return accepted()
}
