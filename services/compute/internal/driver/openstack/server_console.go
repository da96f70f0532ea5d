package openstack

import (
	"context"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/servers"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// ConsoleLog implements driver.Console. The service gives the last lines that are asked for, and some versions one more.
func (d *Servers) ConsoleLog(ctx context.Context, id string, lines int) (string, error) {
	c, err := d.s.Compute(ctx)
	if err != nil {
		return "", err
	}
	text, err := servers.ShowConsoleOutput(ctx, c, id, servers.ShowConsoleOutputOpts{Length: lines}).Extract()
	if err != nil {
		return "", cloud.Fault(err, "read the console of server %s", id)
	}
	if all := strings.SplitAfter(text, "\n"); lines > 0 && len(all) > lines {
		text = strings.Join(all[len(all)-lines:], "")
	}
	return text, nil
}
