package openstack

import (
	"context"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2/openstack/compute/v2/flavors"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/quota"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// Check implements driver.Checker: flavors, images and whether they fit, availability zones, and the quotas of the
// compute service and for ports.
func (d *Servers) Check(ctx context.Context, items []driver.Item[*computev1.ServerSpec]) ([]driver.Finding, []driver.QuotaUse, error) {
	items = slices.DeleteFunc(slices.Clone(items), func(i driver.Item[*computev1.ServerSpec]) bool { return i.Spec == nil })
	if len(items) == 0 {
		return nil, nil, nil
	}
	if err := d.s.Offers(ctx); err != nil { // the cloud is asked once; the items are held to what it says now
		return nil, nil, err
	}
	zones, err := zoneNames(ctx, d.s)
	if err != nil {
		return nil, nil, err
	}
	var findings []driver.Finding
	need := map[string]int64{}
	for _, i := range items {
		found, err := d.checkOne(ctx, i, zones, need)
		if err != nil {
			return nil, nil, err
		}
		findings = append(findings, found...)
	}
	uses, err := d.quotaUses(ctx, need)
	return findings, uses, err
}

// checkOne checks one server and adds what it needs.
func (d *Servers) checkOne(ctx context.Context, i driver.Item[*computev1.ServerSpec], zones []string, need map[string]int64) ([]driver.Finding, error) {
	var findings []driver.Finding
	// report keeps what is wrong with the item; any other error means that the look failed
	report := func(err error) error {
		if err == nil || !fault.Is(err, fault.Invalid) {
			return err
		}
		field := fault.Field(err)
		if !unknown(i.Unknown, field) {
			findings = append(findings, driver.Finding{Name: i.Name, Field: field, Fault: err})
		}
		return nil
	}
	flavor, flavorErr := d.s.Flavor(ctx, "spec.flavor", i.Spec.GetFlavor(), false)
	if err := report(flavorErr); err != nil {
		return nil, err
	}
	image, imageErr := d.s.ImageByRef(ctx, "spec.image", i.Spec.GetImage(), false)
	if err := report(imageErr); err != nil {
		return nil, err
	}
	checks := []error{checkMetadata(i.Spec.GetMetadata()), checkZone(zones, i.Spec.GetAvailabilityZone())}
	if imageErr == nil {
		checks = append(checks, checkImage(image))
	}
	if imageErr == nil && flavorErr == nil {
		checks = append(checks, checkFit(image, flavor)...)
	}
	for _, err := range checks {
		if err := report(err); err != nil {
			return nil, err
		}
	}
	if flavorErr == nil {
		if err := d.addNeed(ctx, i, flavor, need); err != nil {
			return nil, err
		}
	}
	return findings, nil
}

// unknown tells whether a field's value is known only later; paths may or may not begin with spec.
func unknown(paths []string, field string) bool {
	return slices.Contains(paths, field) || slices.Contains(paths, strings.TrimPrefix(field, "spec."))
}

// checkZone looks whether a zone exists and takes servers. The error is Invalid.
func checkZone(zones []string, zone string) error {
	if zone == "" || slices.Contains(zones, zone) {
		return nil
	}
	return cloud.Unknown("spec.availabilityZone", "availability zone", zone, zones)
}

// checkImage looks whether servers can start from an image. The error is Invalid.
func checkImage(image images.Image) error {
	if image.Status != images.ImageStatusActive {
		return fault.InField("spec.image", "image %q is %s at the cloud, not active", image.Name, image.Status)
	}
	return nil
}

// checkFit compares an image's needs with a flavor: disk, memory and architecture. A flavor without a disk of its own
// takes the image's size. The errors are Invalid.
func checkFit(image images.Image, flavor flavors.Flavor) []error {
	var out []error
	if flavor.Disk > 0 && image.MinDiskGigabytes > flavor.Disk {
		out = append(out, fault.InField("spec.flavor", "image %q needs a disk of %d GiB, flavor %q has %d", image.Name, image.MinDiskGigabytes, flavor.Name, flavor.Disk))
	}
	if flavor.Disk > 0 && image.SizeBytes > int64(flavor.Disk)<<30 {
		out = append(out, fault.InField("spec.flavor", "image %q is larger than the disk of flavor %q, %d GiB", image.Name, flavor.Name, flavor.Disk))
	}
	if image.MinRAMMegabytes > flavor.RAM {
		out = append(out, fault.InField("spec.flavor", "image %q needs %d MiB of memory, flavor %q has %d", image.Name, image.MinRAMMegabytes, flavor.Name, flavor.RAM))
	}
	imageArch, _ := image.Properties["architecture"].(string)
	flavorArch := ""
	for _, key := range []string{"architecture", "capabilities:cpu_info:arch", "trait:architecture"} {
		if flavor.ExtraSpecs[key] != "" {
			flavorArch = flavor.ExtraSpecs[key]
		}
	}
	if imageArch != "" && flavorArch != "" && imageArch != flavorArch {
		out = append(out, fault.InField("spec.image", "image %q is for %s, flavor %q for %s", image.Name, imageArch, flavor.Name, flavorArch))
	}
	return out
}

// addNeed adds what a plan draws from the quotas for one server: all of a new one, or the difference of the flavors.
func (d *Servers) addNeed(ctx context.Context, i driver.Item[*computev1.ServerSpec], flavor flavors.Flavor, need map[string]int64) error {
	switch i.Change {
	case kindv1.Change_CHANGE_CREATE, kindv1.Change_CHANGE_REPLACE:
		need["instances"]++
		need["cores"] += int64(flavor.VCPUs)
		need["ram"] += int64(flavor.RAM)
		need["port"] += int64(max(len(i.Spec.GetNetworks()), 1))
	case kindv1.Change_CHANGE_IN_PLACE, kindv1.Change_CHANGE_RESTART:
		if i.Former.GetFlavor() == "" || i.Former.GetFlavor() == i.Spec.GetFlavor() {
			return nil
		}
		former, err := d.s.Flavor(ctx, "spec.flavor", i.Former.GetFlavor(), false)
		if err != nil && !fault.Is(err, fault.Invalid) {
			return err
		}
		need["cores"] += int64(max(flavor.VCPUs-former.VCPUs, 0))
		need["ram"] += int64(max(flavor.RAM-former.RAM, 0))
	}
	return nil
}

// quotaUses joins needs with the quotas of the compute service and, for ports, of the network service.
func (d *Servers) quotaUses(ctx context.Context, need map[string]int64) ([]driver.QuotaUse, error) {
	limits, err := quotas(ctx, d.s)
	if err != nil {
		return nil, err
	}
	uses := cloud.QuotaUses("compute", map[string]int64{"instances": need["instances"], "cores": need["cores"], "ram": need["ram"]}, limits)
	if need["port"] == 0 {
		return uses, nil
	}
	c, err := d.s.Network(ctx)
	if err != nil {
		return nil, err
	}
	networkLimits, err := d.s.Limits(ctx, c, "quotas/"+d.s.ProjectID+"/details.json", "quota")
	if err != nil {
		return nil, err
	}
	return append(uses, cloud.QuotaUses("network", map[string]int64{"port": need["port"]}, networkLimits)...), nil
}

// Sizes implements driver.Sized: a server takes what its flavor has.
func (d *Servers) Sizes(ctx context.Context, specs []*computev1.ServerSpec) ([]map[string]int64, error) {
	out := make([]map[string]int64, len(specs))
	for i, spec := range specs {
		flavor, err := d.s.Flavor(ctx, "spec.flavor", spec.GetFlavor(), false)
		if err != nil {
			return nil, err
		}
		out[i] = map[string]int64{quota.VCPUs: int64(flavor.VCPUs), quota.RAMMiB: int64(flavor.RAM)}
	}
	return out, nil
}
