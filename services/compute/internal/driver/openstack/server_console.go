package openstack

import (
	"context"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	"github.com/weftcloud/weft/pkg/fault"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// ConsoleLog implements driver.Console. The service gives the last lines that are asked for, and some versions one more.
func (d *Servers) ConsoleLog(ctx context.Context, id string, lines int) (string, error) {
	c, err := d.s.Compute(ctx)
	if err != nil {
		return "", err
	}
	text, err := servers.ShowConsoleOutput(ctx, c, id, servers.ShowConsoleOutputOpts{Length: lines}).Extract()
	if err = cloud.Fault(err, "read the console of server %s", id); fault.Is(err, fault.NotFound) {
		return "", d.noConsole(ctx, id, err)
	}
	if err != nil {
		return "", err
	}
	if all := strings.SplitAfter(text, "\n"); lines > 0 && len(all) > lines {
		text = strings.Join(all[len(all)-lines:], "")
	}
	return text, nil
}

// noConsole tells why there is no console: the server is gone, or it does not run, and the hypervisor keeps none for it then.
func (d *Servers) noConsole(ctx context.Context, id string, cause error) error {
	s, err := d.one(ctx, id)
	if err != nil {
		return err
	}
	return fault.New(fault.Precondition, "server %s is %s; start it to read its console: %s", id, s.Status, cause)
}
