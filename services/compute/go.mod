module github.com/weftcloud/weft/services/compute

go 1.26.0

require github.com/weftcloud/weft/proto v0.0.0

require github.com/weftcloud/weft/pkg v0.0.0

require github.com/weftcloud/weft/pkg/cloud/openstack v0.0.0

require (
	github.com/gophercloud/gophercloud/v2 v2.15.0 // indirect
	github.com/weftcloud/weft/services/sandbox v0.0.0
)

replace github.com/weftcloud/weft/proto => ../../proto

replace github.com/weftcloud/weft/pkg => ../../pkg

replace github.com/weftcloud/weft/pkg/cloud/openstack => ../../pkg/cloud/openstack

replace github.com/weftcloud/weft/services/sandbox => ../sandbox
