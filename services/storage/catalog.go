package storage

import (
	"github.com/weftcloud/weft/pkg/cloud/openstack"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/service"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
	driveropenstack "github.com/weftcloud/weft/services/storage/internal/driver/openstack"
)

// Catalog is the list of kinds and providers.
func Catalog(sessions *openstack.Sessions) service.Catalog {
	return service.Catalog{
		Service: "storage",
		Kinds: []service.Kind{
			{Message: &storagev1.Volume{}},
			{Message: &storagev1.VolumeAttachment{}},
			{Message: &storagev1.VolumeSnapshot{}},
			{Message: &storagev1.Bucket{}},
			{Message: &storagev1.Share{}},
		},
		Providers: []driver.Provider{driveropenstack.Provider(sessions)},
	}
}
