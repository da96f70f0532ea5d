package openstack

import (
	"regexp"
	"strings"
)

// The mark is how an object at the cloud bears the key of its resource. It always travels in the call that makes the
// object, so that there is no moment in which the object exists unmarked:
//
//	network service    description = "weft key=<key> name=<resource name>"; lists filter by the exact description
//	servers            metadata weft-key and weft-name, and the tag "weft-key=<key>", by which lists filter
//	volumes            metadata weft-key and weft-name; lists filter by metadata
//	key pairs          the name itself: "weft-<id>-<key>"
//	attachments        none: server and volume together are their identity

// MetadataKey and MetadataName are the metadata keys of the mark. All metadata keys that begin with MetadataPrefix are
// Weft's own.
const (
	MetadataPrefix = "weft-"
	MetadataKey    = MetadataPrefix + "key"
	MetadataName   = MetadataPrefix + "name"
	// MetadataKept stands in place of MetadataKey on an object that was kept for its data when its resource was deleted:
	// it bears the key of that resource.
	MetadataKept = MetadataPrefix + "kept"
)

// maxDescription is the longest description that the network service keeps, in bytes.
const maxDescription = 255

var (
	descriptionPattern = regexp.MustCompile(`^weft key=([0-9a-zA-Z-]+)(?: name=(\S+))?$`)
	keyPairPattern     = regexp.MustCompile(`^weft-.*-([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$`)
	notInKeyPairName   = regexp.MustCompile(`[^A-Za-z0-9_-]`)
)

// Description gives the mark as a description. It is a function of key and name alone. A name too long for the
// description is left out: a part of a name would mislead.
func Description(key, name string) string {
	full := "weft key=" + key + " name=" + name
	if name == "" || len(full) > maxDescription {
		return "weft key=" + key
	}
	return full
}

// ParseDescription reads a mark; it gives false for a description that is none. The name is empty if the mark has none.
func ParseDescription(description string) (key, name string, ok bool) {
	m := descriptionPattern.FindStringSubmatch(description)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// Metadata gives the mark as metadata. A name longer than a value may be is left out.
func Metadata(key, name string) map[string]string {
	m := map[string]string{MetadataKey: key}
	if name != "" && len(name) <= maxDescription {
		m[MetadataName] = name
	}
	return m
}

// ParseMetadata reads a mark; it gives false for metadata that bear none.
func ParseMetadata(metadata map[string]string) (key, name string, ok bool) {
	key = metadata[MetadataKey]
	return key, metadata[MetadataName], key != ""
}

// ParseKept reads the mark of an object that was kept; it gives false for metadata that bear none.
func ParseKept(metadata map[string]string) (key, name string, ok bool) {
	key = metadata[MetadataKept]
	return key, metadata[MetadataName], key != "" && metadata[MetadataKey] == ""
}

// Tag gives the mark as a server's tag. Tags hold up to 60 characters and neither comma nor slash.
func Tag(key string) string { return MetadataKey + "=" + key }

// KeyPairName gives the name at the cloud of a key pair. Only letters, digits, hyphens and underscores are allowed
// before microversion 2.92, and 255 characters at most.
func KeyPairName(key, name string) string {
	return "weft-" + notInKeyPairName.ReplaceAllString(LastPart(name), "-") + "-" + key
}

// ParseKeyPairName reads the key in a key pair's name; it gives false for a name that is not ours.
func ParseKeyPairName(name string) (key string, ok bool) {
	m := keyPairPattern.FindStringSubmatch(name)
	if m == nil {
		return "", false
	}
	return m[1], true
}

// LastPart gives the last part of a resource name: how the object is called at the cloud.
func LastPart(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }
