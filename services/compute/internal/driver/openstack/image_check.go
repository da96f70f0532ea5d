package openstack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
	computev1 "github.com/weftcloud/weft/proto/gen/weft/compute/v1"
	kindv1 "github.com/weftcloud/weft/proto/gen/weft/kind/v1"

	cloud "github.com/weftcloud/weft/pkg/cloud/openstack"
)

// headSize is how much of an image's beginning tells its format: an ISO 9660 says so in its 17th sector of 2 KiB.
const headSize = 17 << 11

// sourceTimeout bounds the look at a source before a plan.
const sourceTimeout = 10 * time.Second

// magics are what data of each format begin with, and where.
//
//	qcow2  "QFI" 0xfb                            QEMU, docs/interop/qcow2.txt
//	vmdk   "KDMV", or a text descriptor          VMware, Virtual Disk Format 5.0
//	vdi    0x7f 0x10 0xda 0xbe at 64             VirtualBox, VDICore.h
//	vhdx   "vhdxfile"                            [MS-VHDX] 2.2.1
//	vhd    "conectix"                            Virtual Hard Disk Image Format Specification; a fixed disk has it at its end
//	iso    "CD001" at 32769                      ECMA-119, 8.1.2
func magics() []magic {
	return []magic{
		{computev1.DiskFormat_DISK_FORMAT_QCOW2, 0, "QFI\xfb"},
		{computev1.DiskFormat_DISK_FORMAT_VMDK, 0, "KDMV"},
		{computev1.DiskFormat_DISK_FORMAT_VMDK, 0, "# Disk DescriptorFile"},
		{computev1.DiskFormat_DISK_FORMAT_VDI, 64, "\x7f\x10\xda\xbe"},
		{computev1.DiskFormat_DISK_FORMAT_VHDX, 0, "vhdxfile"},
		{computev1.DiskFormat_DISK_FORMAT_VHD, 0, "conectix"},
		{computev1.DiskFormat_DISK_FORMAT_ISO, 32769, "CD001"},
	}
}

// magic is the sign of a format.
type magic struct {
	format computev1.DiskFormat
	at     int
	bytes  string
}

// formatOf tells the format of data by their beginning; unspecified if they bear no sign, as raw ones do.
func formatOf(head []byte) computev1.DiskFormat {
	for _, m := range magics() {
		if len(head) >= m.at && bytes.HasPrefix(head[m.at:], []byte(m.bytes)) {
			return m.format
		}
	}
	return computev1.DiskFormat_DISK_FORMAT_UNSPECIFIED
}

// checkFormat holds a format to what data begin with. The error is Invalid.
func checkFormat(want computev1.DiskFormat, head []byte) error {
	compressed := map[string]string{"\x1f\x8b": "gzip", "\xfd7zXZ": "xz", "\x28\xb5\x2f\xfd": "zstd", "BZh": "bzip2", "PK\x03\x04": "zip"}
	for magic, name := range compressed {
		if bytes.HasPrefix(head, []byte(magic)) {
			return fault.InField("spec.source.url", "the data are compressed by %s, which the cloud would take for a disk; put them there unpacked", name)
		}
	}
	if trimmed := bytes.ToLower(bytes.TrimSpace(head[:min(len(head), 256)])); bytes.HasPrefix(trimmed, []byte("<!doctype")) || bytes.HasPrefix(trimmed, []byte("<html")) {
		return fault.InField("spec.source.url", "what is there is a web page, not an image; name the address of the image itself")
	}
	found := formatOf(head)
	none := computev1.DiskFormat_DISK_FORMAT_UNSPECIFIED
	switch {
	case found == want:
		return nil
	case want == computev1.DiskFormat_DISK_FORMAT_RAW && found == none:
		return nil
	case want == computev1.DiskFormat_DISK_FORMAT_RAW && found == computev1.DiskFormat_DISK_FORMAT_ISO:
		return nil // a hybrid image is both
	case want == computev1.DiskFormat_DISK_FORMAT_VHD && found == none:
		return nil // its sign is at its end
	case found == none:
		return fault.InField("spec.diskFormat", "the data do not begin as %s ones do; they may be RAW, or damaged", strings.ToUpper(formatWord(want)))
	default:
		return fault.InField("spec.diskFormat", "the data are %s, not %s; say diskFormat: %s", strings.ToUpper(formatWord(found)), strings.ToUpper(formatWord(want)), strings.ToUpper(formatWord(found)))
	}
}

// knownProperties are properties that the compute and container services read (Glance, Useful image properties). Each is
// written with underscores; written otherwise it is kept and read by nobody.
func knownProperties() []string {
	return []string{
		"architecture", "hw_boot_menu", "hw_cpu_cores", "hw_cpu_sockets", "hw_cpu_threads", "hw_disk_bus", "hw_firmware_type", "hw_machine_type",
		"hw_qemu_guest_agent", "hw_rng_model", "hw_scsi_model", "hw_serial_port_count", "hw_video_model", "hw_vif_model", "hw_vif_multiqueue_enabled",
		"hw_watchdog_action", "hypervisor_type", "img_config_drive", "kernel_id", "kube_version", "os_admin_user", "os_distro", "os_require_quiesce",
		"os_secure_boot", "os_shutdown_timeout", "os_type", "os_version", "ramdisk_id", "vm_mode",
	}
}

// architectures are what people write, and what the services read.
func architectures() map[string]string {
	return map[string]string{"amd64": "x86_64", "x86-64": "x86_64", "x64": "x86_64", "arm64": "aarch64", "i386": "i686", "x86": "i686", "ppc64el": "ppc64le"}
}

// checkProperties looks whether properties are such as the cloud's services read, and whether those are there that an
// image's purpose needs. The errors are Invalid.
func checkProperties(spec *computev1.ImageSpec) []error {
	var out []error
	properties, known := spec.GetProperties(), knownProperties()
	for _, k := range slices.Sorted(maps.Keys(properties)) {
		plain := strings.ToLower(strings.NewReplacer("-", "_", ".", "_").Replace(k))
		switch {
		case strings.HasPrefix(k, cloud.MetadataPrefix):
			out = append(out, fault.InField("spec.properties."+k, "properties that begin with %q are Weft's own; choose another", cloud.MetadataPrefix))
		case !slices.Contains(known, k) && slices.Contains(known, plain):
			out = append(out, fault.InField("spec.properties."+k, "OpenStack reads %s, and nobody reads %s; write it so", plain, k))
		}
	}
	if right := architectures()[strings.ToLower(properties["architecture"])]; right != "" {
		out = append(out, fault.InField("spec.properties.architecture", "OpenStack calls %s %s; write it so", properties["architecture"], right))
	}
	if distro := properties["os_distro"]; distro != strings.ToLower(distro) {
		out = append(out, fault.InField("spec.properties.os_distro", "names of distributions are in small letters: %s", strings.ToLower(distro)))
	}
	if spec.GetPurpose() != computev1.ImagePurpose_IMAGE_PURPOSE_CLUSTER_NODE {
		return out
	}
	for _, need := range []struct{ name, example string }{{"os_distro", "ubuntu"}, {"kube_version", "v1.31.4"}} {
		if properties[need.name] == "" {
			out = append(out, fault.InField("spec.properties", "an image for nodes of a cluster needs the property %s; add e.g. %s: %s", need.name, need.name, need.example))
		}
	}
	return out
}

// Check implements driver.Checker: properties, and the beginning of the data where they are to be fetched.
func (d *Images) Check(ctx context.Context, items []driver.Item[*computev1.ImageSpec]) ([]driver.Finding, []driver.QuotaUse, error) {
	var findings []driver.Finding
	for _, i := range items {
		if i.Spec == nil {
			continue
		}
		wrong := checkProperties(i.Spec)
		if i.Change == kindv1.Change_CHANGE_CREATE || i.Change == kindv1.Change_CHANGE_REPLACE {
			if !unknown(i.Unknown, "spec.source.url") {
				wrong = append(wrong, d.checkSource(ctx, i.Spec))
			}
		}
		for _, err := range wrong {
			if err == nil || unknown(i.Unknown, fault.Field(err)) {
				continue
			}
			findings = append(findings, driver.Finding{Name: i.Name, Field: fault.Field(err), Fault: err})
		}
	}
	return findings, nil, ctx.Err()
}

// checkSource reads the beginning of a source and holds it to the format.
func (d *Images) checkSource(ctx context.Context, spec *computev1.ImageSpec) (err error) {
	ctx, cancel := context.WithTimeout(ctx, sourceTimeout)
	defer cancel()
	body, _, err := d.uploads.open(ctx, spec.GetSource().GetUrl())
	if err != nil {
		if fault.Field(err) == "" {
			err = &fault.Error{Kind: fault.KindOf(err), Field: "spec.source.url", Message: err.Error() + "; it must be reachable from the platform"}
		}
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	head, err := io.ReadAll(io.LimitReader(body, headSize))
	if err != nil {
		return fault.InField("spec.source.url", "read its beginning: %s", err)
	}
	return checkFormat(spec.GetDiskFormat(), head)
}
