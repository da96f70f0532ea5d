package storage

import (
	"google.golang.org/protobuf/proto"

	"github.com/weftcloud/weft/pkg/cloud/openstack"
	"github.com/weftcloud/weft/pkg/driver"
	"github.com/weftcloud/weft/pkg/quota"
	"github.com/weftcloud/weft/pkg/service"
	storagev1 "github.com/weftcloud/weft/proto/gen/weft/storage/v1"
	driveropenstack "github.com/weftcloud/weft/services/storage/internal/driver/openstack"
)

// Catalog is the list of kinds and providers.
func Catalog(sessions *openstack.Sessions) service.Catalog {
	return service.Catalog{
		Service: "storage",
		Kinds: []service.Kind{
			{Message: &storagev1.Volume{}, Draws: []quota.Draw{{Quota: quota.Volumes}, {Quota: quota.VolumeGiB, Field: "size", Amount: size}}},
			{Message: &storagev1.VolumeAttachment{}},
			{Message: &storagev1.VolumeSnapshot{}, Draws: []quota.Draw{{Quota: quota.Snapshots}}},
			{Message: &storagev1.Bucket{}},
			{Message: &storagev1.Share{}, Draws: []quota.Draw{{Quota: quota.Shares}, {Quota: quota.ShareGiB, Field: "size", Amount: size}}},
		},
		Providers: []driver.Provider{driveropenstack.Provider(sessions)},
	}
}

// size gives the size of a volume or a share in GiB.
func size(spec proto.Message) int64 {
	sized, ok := spec.(interface{ GetSize() string })
	if !ok {
		return 0
	}
	return quota.GiB(sized.GetSize())
}
