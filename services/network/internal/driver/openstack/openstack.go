// Package openstack holds the drivers of the network kinds for OpenStack's network service (Neutron) and load balancer service (Octavia).
package openstack

import (
	"context"
	"encoding/json"
	"net/url"

	"github.com/gophercloud/gophercloud/v2"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// Provider gives the drivers of the network kinds. Sessions are shared with the other services of the process.
func Provider(sessions *cloud.Sessions) driver.Provider {
	return driver.Provider{Name: cloud.ProviderName, Open: func(ctx context.Context, c driver.Credentials) (driver.Session, error) {
		s, err := sessions.Get(ctx, c)
		if err != nil {
			return driver.Session{}, err
		}
		return driver.Session{Drivers: Drivers(s), Probe: func(ctx context.Context) ([]driver.Feature, error) { return probe(ctx, s) }}, nil
	}}
}

// Drivers gives the drivers of one session by resource type.
func Drivers(s *cloud.Session) map[string]driver.Any {
	return map[string]driver.Any{
		"network.weft.cloud/Network":        driver.Erase(NewNetworks(s)),
		"network.weft.cloud/Subnet":         driver.Erase(NewSubnets(s)),
		"network.weft.cloud/Router":         driver.Erase(NewRouters(s)),
		"network.weft.cloud/SecurityGroup":  driver.Erase(NewSecurityGroups(s)),
		"network.weft.cloud/FloatingIP":     driver.Erase(NewFloatingIPs(s)),
		"network.weft.cloud/PortForwarding": driver.Erase(NewPortForwardings(s)),
		"network.weft.cloud/LoadBalancer":   driver.Erase(NewLoadBalancers(s)),
	}
}

// base is what the answers for all kinds have in common.
type base struct {
	ID          string `json:"id"`
	Description string `json:"description"`
	ProjectID   string `json:"project_id"`
	Status      string `json:"status"`
}

func (b base) common() base { return b }

// manyIDs is from how many ids on all of a project's objects are listed, 1,000 a page, instead of 100 ids a call.
const manyIDs = 200

// objects is what the drivers of all kinds have in common: how objects are found, listed and read in batches.
type objects[T interface{ common() base }] struct {
	s *cloud.Session
	// path is the collection's address, field its name in answers.
	path, field string
}

// client gives the network service's client.
func (o objects[T]) client(ctx context.Context) (*gophercloud.ServiceClient, error) {
	return o.s.Network(ctx)
}

// list reads the objects that fit a query.
func (o objects[T]) list(ctx context.Context, query url.Values) ([]T, error) {
	c, err := o.client(ctx)
	if err != nil {
		return nil, err
	}
	return cloud.List[T](ctx, c, o.path, o.field, query)
}

// find gives the ids of the objects that bear the key. The list is asked for by the exact description, and what comes is
// compared once more: a service that does not know the filter may answer with everything.
func (o objects[T]) find(ctx context.Context, key, name string) ([]string, error) {
	if key == "" {
		return nil, fault.New(fault.Internal, "find in %s: no key is given", o.path)
	}
	mark := cloud.Description(key, name)
	all, err := o.list(ctx, url.Values{"description": {mark}})
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, item := range all {
		if item.common().Description == mark {
			ids = append(ids, item.common().ID)
		}
	}
	return ids, nil
}

// byIDs reads objects by id; what does not exist is absent. Where all that the project has is the shorter way, that is listed;
// what is asked for and belongs to another project is then asked for by itself.
func (o objects[T]) byIDs(ctx context.Context, ids []string) (map[string]T, error) {
	c, err := o.client(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[string]T, len(ids))
	rest := ids
	if len(ids) > manyIDs {
		all, err := o.list(ctx, url.Values{"project_id": {o.s.ProjectID}, "limit": {"1000"}})
		if err != nil {
			return nil, err
		}
		known := make(map[string]T, len(all))
		for _, item := range all {
			known[item.common().ID] = item
		}
		rest = nil
		for _, id := range ids {
			if item, ok := known[id]; ok {
				out[id] = item
			} else {
				rest = append(rest, id)
			}
		}
	}
	some, err := cloud.ListByValues[T](ctx, c, o.path, o.field, "id", rest, nil)
	if err != nil {
		return nil, err
	}
	for _, item := range some {
		out[item.common().ID] = item
	}
	return out, nil
}

// created reads the object out of the answer to its create, where it stands under field, and gives its id. The service makes
// networks, subnets, routers, security groups and floating IPs before it answers, and the answer is what a GET would give (API
// reference, "Networking API v2.0": each POST's response parameters are those of the show call). So the object is told to what
// follows in the same look, see driver.Teller.
func (o objects[T]) created(ctx context.Context, r gophercloud.Result, field string) (string, error) {
	answer := map[string]json.RawMessage{}
	if err := r.ExtractInto(&answer); err != nil {
		return "", err
	}
	var item T
	if err := json.Unmarshal(answer[field], &item); err != nil {
		return "", err
	}
	o.tell(ctx, item)
	return item.common().ID, nil
}

// tell keeps an object as an answer showed it, told gives it again, and forget drops it since it is another now.
func (o objects[T]) tell(ctx context.Context, item T) {
	driver.Tell(ctx, o.path+" "+item.common().ID, item)
}

func (o objects[T]) told(ctx context.Context, id string) (T, bool) {
	return driver.Recall[T](ctx, o.path+" "+id)
}

func (o objects[T]) forget(ctx context.Context, id string) {
	driver.Tell(ctx, o.path+" "+id, struct{}{})
}

// one reads one object, if no answer of this look showed it. The error is NotFound if it does not exist.
func (o objects[T]) one(ctx context.Context, id string) (T, error) {
	if item, ok := o.told(ctx, id); ok {
		return item, nil
	}
	all, err := o.byIDs(ctx, []string{id})
	if err != nil {
		var none T
		return none, err
	}
	item, ok := all[id]
	if !ok {
		return item, fault.New(fault.NotFound, "%s %s does not exist", o.path, id)
	}
	return item, nil
}

// ListMarked lists the project's objects that bear our mark.
func (o objects[T]) ListMarked(ctx context.Context) ([]driver.Marked, error) {
	all, err := o.list(ctx, url.Values{"project_id": {o.s.ProjectID}, "limit": {"1000"}})
	if err != nil {
		return nil, err
	}
	var out []driver.Marked
	for _, item := range all {
		if key, name, ok := cloud.ParseDescription(item.common().Description); ok {
			out = append(out, driver.Marked{ID: item.common().ID, Key: key, Name: name})
		}
	}
	return out, nil
}

// gone makes the answer to a deletion: an object that is not there is what was asked for.
func gone(err error, what, id string) error {
	err = cloud.Fault(err, "delete %s %s", what, id)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// stateOf gives the state for a status word of the network service. DOWN is no failure: it is the status of a floating IP
// that leads nowhere, and of a network that no agent serves yet.
func stateOf(status, what, id string) (driver.State, error) {
	switch status {
	case "ERROR":
		return driver.Failed, fault.New(fault.Unavailable, "%s %s is in status ERROR at the cloud, which tells no reason", what, id)
	case "BUILD", "PENDING_CREATE", "PENDING_UPDATE", "PENDING_DELETE", "ALLOCATING":
		return driver.Progressing, nil
	default:
		return driver.Ready, nil
	}
}
