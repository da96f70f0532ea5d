module github.com/weftcloud/weft/services/sandbox

go 1.26

require github.com/weftcloud/weft/proto v0.0.0
require github.com/weftcloud/weft/pkg v0.0.0

replace github.com/weftcloud/weft/proto => ../../proto
replace github.com/weftcloud/weft/pkg => ../../pkg
