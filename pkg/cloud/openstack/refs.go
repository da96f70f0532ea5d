package openstack

import (
	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/fault"
)

// Ref gives the cloud's id of the resource that field of a spec refers to by name. The error is Precondition while the
// resource, or its object at the cloud, does not exist.
func Ref[M proto.Message](refs driver.Refs, field, name string, id func(M) string) (string, error) {
	m, ok := refs[name].(M)
	if !ok {
		return "", &fault.Error{Kind: fault.Precondition, Field: field, Message: name + " does not exist yet"}
	}
	got := id(m)
	if got == "" {
		return "", &fault.Error{Kind: fault.Precondition, Field: field, Message: name + " does not exist at the cloud yet"}
	}
	return got, nil
}
