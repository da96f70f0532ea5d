module github.com/weftcloud/weft/services/weft

go 1.26

require github.com/weftcloud/weft/proto v0.0.0
require github.com/weftcloud/weft/pkg v0.0.0
require github.com/weftcloud/weft/pkg/cloud/openstack v0.0.0
require github.com/weftcloud/weft/pkg/cloud/kubernetes v0.0.0
require github.com/weftcloud/weft/services/network v0.0.0
require github.com/weftcloud/weft/services/storage v0.0.0
require github.com/weftcloud/weft/services/compute v0.0.0
require github.com/weftcloud/weft/services/container v0.0.0
require github.com/weftcloud/weft/services/orchestrator v0.0.0
require github.com/weftcloud/weft/services/sandbox v0.0.0

replace github.com/weftcloud/weft/proto => ../../proto
replace github.com/weftcloud/weft/pkg => ../../pkg
replace github.com/weftcloud/weft/pkg/cloud/openstack => ../../pkg/cloud/openstack
replace github.com/weftcloud/weft/pkg/cloud/kubernetes => ../../pkg/cloud/kubernetes
replace github.com/weftcloud/weft/services/network => ../../services/network
replace github.com/weftcloud/weft/services/storage => ../../services/storage
replace github.com/weftcloud/weft/services/compute => ../../services/compute
replace github.com/weftcloud/weft/services/container => ../../services/container
replace github.com/weftcloud/weft/services/orchestrator => ../../services/orchestrator
replace github.com/weftcloud/weft/services/sandbox => ../../services/sandbox
