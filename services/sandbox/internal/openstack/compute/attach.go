package compute

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/weftcloud/weft/services/sandbox/internal/openstack/network"
	"github.com/weftcloud/weft/services/sandbox/internal/openstack/rest"
)

// Volume attachments.

func diskView(r *rest.Request, v *Server, d Disk) rest.M {
	out := rest.M{"volumeId": d.Volume, "serverId": v.ID, "device": d.Device}
	if r.Minor < 89 {
		out["id"] = d.Volume
	}
	if r.Minor >= 70 {
		out["tag"] = word(d.Tag)
	}
	if r.Minor >= 79 {
		out["delete_on_termination"] = d.DeleteOnTermination
	}
	if r.Minor >= 89 {
		out["attachment_id"], out["bdm_uuid"] = d.Attachment, d.ID
	}
	return out
}

func (s *Service) listDisks(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	out := []rest.M{}
	for _, d := range v.Disks {
		if d.Volume != "" {
			out = append(out, diskView(r, v, d))
		}
	}
	return rest.OK(rest.M{"volumeAttachments": out})
}

func (s *Service) disk(r *rest.Request) (*Server, int, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, 0, err
	}
	at := slices.IndexFunc(v.Disks, func(d Disk) bool { return d.Volume != "" && d.Volume == r.Params["volume"] })
	if at < 0 {
		return nil, 0, notFound("Instance %s is not attached to volume %s", v.ID, r.Params["volume"])
	}
	return v, at, nil
}

func (s *Service) getDisk(r *rest.Request) (*rest.Response, error) {
	v, at, err := s.disk(r)
	if err != nil {
		return nil, err
	}
	return rest.OK(rest.M{"volumeAttachment": diskView(r, v, v.Disks[at])})
}

func (s *Service) attachDisk(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	body := struct {
		Attachment *struct {
			VolumeID            string `json:"volumeId"`
			Device, Tag         *string
			DeleteOnTermination bool `json:"delete_on_termination"`
		} `json:"volumeAttachment"`
	}{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	in := body.Attachment
	if in == nil || in.VolumeID == "" {
		return nil, bad("'volumeId' is a required property")
	}
	vol := s.volumes.Find(r.Token, in.VolumeID)
	if vol == nil {
		return nil, notFound("Volume %s could not be found.", in.VolumeID)
	}
	if err := changeable(v, "attach_volume", "active", "paused", "stopped", "resized"); err != nil {
		return nil, err
	}
	for _, a := range vol.Attachments {
		return nil, bad("Invalid volume: volume %s is already attached to instances: %s", vol.ID, a.Server)
	}
	if vol.Status != "available" {
		return nil, bad("Invalid volume: Invalid input received: Invalid volume: Volume %s status must be available or in-use or downloading to reserve, but the current status is %s. (HTTP 400) (Request-ID: )", vol.ID, vol.Status)
	}
	d := Disk{ID: rest.NewID(), Source: "volume", Destination: "volume", UUID: vol.ID, Volume: vol.ID, Device: nextDevice(v), DeleteOnTermination: in.DeleteOnTermination, BootIndex: -1}
	if in.Tag != nil {
		d.Tag = *in.Tag
	}
	d.Attachment = s.volumes.Reserve(r.Now, vol, v.ID, d.Device, s.World.Later(r.Now, "volume.volume.attached"))
	v.Disks, v.UpdatedAt = append(slices.Clone(v.Disks), d), r.Now
	s.servers.Put(v.ID, v)
	view := diskView(r, v, d)
	view["id"] = vol.ID
	delete(view, "attachment_id")
	delete(view, "bdm_uuid")
	return rest.OK(rest.M{"volumeAttachment": view})
}

func nextDevice(v *Server) string {
	for c := 'b'; c <= 'z'; c++ {
		name := "/dev/vd" + string(c)
		if !slices.ContainsFunc(v.Disks, func(d Disk) bool { return d.Device == name }) {
			return name
		}
	}
	return fmt.Sprintf("/dev/vda%d", len(v.Disks))
}

func (s *Service) detachDisk(r *rest.Request) (*rest.Response, error) {
	v, at, err := s.disk(r)
	if err != nil {
		return nil, err
	}
	d := v.Disks[at]
	if d.BootIndex == 0 {
		return nil, bad("Cannot detach a root device volume")
	}
	if err := changeable(v, "detach_volume", "active", "paused", "stopped", "resized"); err != nil {
		return nil, err
	}
	vol := s.volumes.Find(r.Token, d.Volume)
	if vol != nil && vol.Status != "in-use" {
		return nil, bad("Invalid volume: Invalid input received: Invalid volume: Unable to detach volume. Volume status must be 'in-use' and attach_status must be 'attached' to detach. (HTTP 400)")
	}
	s.volumes.Detach(r.Now, d.Volume, v.ID)
	v.Disks, v.UpdatedAt = slices.Delete(slices.Clone(v.Disks), at, at+1), r.Now
	s.servers.Put(v.ID, v)
	return accepted()
}

func (s *Service) updateDisk(r *rest.Request) (*rest.Response, error) {
	v, at, err := s.disk(r)
	if err != nil {
		return nil, err
	}
	body := struct {
		Attachment struct {
			VolumeID            string `json:"volumeId"`
			DeleteOnTermination *bool  `json:"delete_on_termination"`
		} `json:"volumeAttachment"`
	}{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Attachment.VolumeID != v.Disks[at].Volume {
		return nil, policy("os_compute_api:os-volumes-attachments:swap")
	}
	v.Disks = slices.Clone(v.Disks)
	if body.Attachment.DeleteOnTermination != nil {
		v.Disks[at].DeleteOnTermination = *body.Attachment.DeleteOnTermination
	}
	s.servers.Put(v.ID, v)
	return accepted()
}

// Interfaces.

func (s *Service) portView(r *rest.Request, v *Server, p *network.Port) rest.M {
	out := rest.M{
		"net_id": p.Network, "port_id": p.ID, "mac_addr": p.MAC, "port_state": s.networks.PortStatus(p, r.Now), "fixed_ips": append([]network.FixedIP{}, p.FixedIPs...),
	}
	if r.Minor >= 70 {
		out["tag"] = nil
		for _, sp := range v.Ports {
			if sp.ID == p.ID {
				out["tag"] = word(sp.Tag)
			}
		}
	}
	return out
}

func (s *Service) listPorts(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	out := []rest.M{}
	for _, p := range s.networks.PortsOf(v.ID) {
		out = append(out, s.portView(r, v, p))
	}
	return rest.OK(rest.M{"interfaceAttachments": out})
}

func (s *Service) getPort(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	p := s.networks.Port(r.Params["port"])
	if p == nil {
		return nil, notFound("Port id %s could not be found.", r.Params["port"])
	}
	if p.Device != v.ID {
		return nil, notFound("Instance %s does not have a port with id %s", v.ID, p.ID)
	}
	return rest.OK(rest.M{"interfaceAttachment": s.portView(r, v, p)})
}

func (s *Service) attachPort(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	body := struct {
		Attachment struct {
			Net, Port, Tag string
			NetID          string `json:"net_id"`
			PortID         string `json:"port_id"`
			Fixed          []struct {
				Address string `json:"ip_address"`
			} `json:"fixed_ips"`
		} `json:"interfaceAttachment"`
	}{}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if err := changeable(v, "attach_interface", "active", "paused", "stopped"); err != nil {
		return nil, err
	}
	in := body.Attachment
	a := network.Attachment{Network: in.NetID, Port: in.PortID, Tag: in.Tag}
	if len(in.Fixed) > 0 {
		if in.NetID == "" {
			return nil, bad("Must input network_id when request IP address")
		}
		a.FixedIP = in.Fixed[0].Address
	}
	if a.Network != "" && a.Port != "" {
		return nil, bad("Must not input both network_id and port_id")
	}
	if a.Network == "" && a.Port == "" {
		nets := s.networks.Networks(r.Token)
		if len(nets) != 1 {
			return nil, bad("Multiple possible networks found, use a Network ID to be more specific.")
		}
		a.Network = nets[0]
	}
	if err := s.networks.CheckAttachment(r.Token, a); err != nil {
		if a.Port == "" && !s.networks.Known(a.Network) {
			// The conductor fails on it, and the API has no better answer.
			return nil, rest.Errorf(http.StatusInternalServerError, "", "Unexpected API Error. Please report this at http://bugs.launchpad.net/nova/ and attach the Nova API log if possible.\n<class 'oslo_messaging.rpc.client.RemoteError'>")
		}
		if e, ok := errors.AsType[*rest.Error](err); ok && e.Status == http.StatusBadRequest && a.Port != "" && s.networks.Port(a.Port) == nil {
			return nil, notFound("%s", e.Message)
		}
		return nil, err
	}
	if a.Port == "" && !s.networks.RoomForPorts(v.Project, 1) {
		return nil, rest.Errorf(http.StatusForbidden, "", "Maximum number of ports exceeded")
	}
	if err := s.plug(r.Now, s.World.Later(r.Now, "network.port.active"), v, a); err != nil {
		return nil, err
	}
	s.servers.Put(v.ID, v)
	return rest.OK(rest.M{"interfaceAttachment": s.portView(r, v, s.networks.Port(v.Ports[len(v.Ports)-1].ID))})
}

func (s *Service) detachPort(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	if err := changeable(v, "detach_interface", "active", "paused", "stopped"); err != nil {
		return nil, err
	}
	at := slices.IndexFunc(v.Ports, func(p ServerPort) bool { return p.ID == r.Params["port"] })
	if at < 0 {
		return nil, notFound("Port %s not found", r.Params["port"])
	}
	v.Ports = slices.Clone(v.Ports)
	if v.Ports[at].DetachAt.IsZero() {
		v.Ports[at].DetachAt = s.World.Later(r.Now, "compute.interface.detached")
		s.servers.Put(v.ID, v)
		s.watchDetach(v.ID, v.Ports[at])
	}
	return accepted()
}

// watchDetach takes a port away from its server when its time has come.
func (s *Service) watchDetach(server string, p ServerPort) {
	if p.DetachAt.IsZero() {
		return
	}
	s.World.Agenda.At(p.DetachAt, func(at time.Time) {
		v := s.servers.Get(server)
		if v == nil {
			return
		}
		i := slices.IndexFunc(v.Ports, func(have ServerPort) bool { return have.ID == p.ID && !have.DetachAt.IsZero() })
		if i < 0 {
			return
		}
		s.networks.Detach(at, p.ID, p.Made)
		v.Ports = slices.Delete(slices.Clone(v.Ports), i, i+1)
		s.servers.Put(v.ID, v)
	})
}

func (s *Service) listAddresses(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	out := map[string][]rest.M{}
	for _, a := range s.networks.Addresses(v.ID) {
		out[a.Network] = append(out[a.Network], rest.M{"version": a.Version, "addr": a.Address})
	}
	name, ok := r.Params["network"]
	if !ok {
		return rest.OK(rest.M{"addresses": out})
	}
	if out[name] == nil {
		return nil, notFound("Instance is not a member of specified network")
	}
	return rest.OK(rest.M{name: out[name]})
}

func (s *Service) listGroups(r *rest.Request) (*rest.Response, error) {
	v, err := s.server(r)
	if err != nil {
		return nil, err
	}
	out := []rest.M{}
	for _, name := range s.networks.GroupNames(v.ID) {
		g := s.networks.FindGroup(&v.Caller, r.Now, name)
		if g == nil {
			continue
		}
		rules := []rest.M{}
		out = append(out, rest.M{"id": g.ID, "name": g.Name, "description": g.Description, "tenant_id": g.Project, "rules": rules})
	}
	return rest.OK(rest.M{"security_groups": out})
}
