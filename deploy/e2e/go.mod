module github.com/weftcloud/weft/deploy/e2e

go 1.26.0

require (
	cloud.google.com/go/longrunning v1.5.0
	github.com/google/go-cmp v0.7.0
	github.com/nats-io/nats.go v1.55.0
	google.golang.org/genproto/googleapis/rpc v0.0.0-20261012220534-4341edf3f941
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
	sigs.k8s.io/yaml v1.6.0
)

require github.com/weftcloud/weft/proto v0.0.0

require github.com/weftcloud/weft/pkg v0.0.0

require (
	buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go v1.36.12-20260825204119-511051f7f437.1 // indirect
	buf.build/go/protovalidate v1.4.0 // indirect
	cel.dev/cel-go v0.33.2 // indirect
	cel.dev/expr v0.25.3 // indirect
	github.com/antlr4-go/antlr/v4 v4.13.1 // indirect
	github.com/beorn7/perks v1.0.1 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/go-viper/mapstructure/v2 v2.4.0 // indirect
	github.com/gophercloud/gophercloud/v2 v2.15.0 // indirect
	github.com/grpc-ecosystem/go-grpc-middleware/v2 v2.3.4 // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/knadh/koanf/maps v0.1.2 // indirect
	github.com/knadh/koanf/v2 v2.4.1 // indirect
	github.com/mitchellh/copystructure v1.2.0 // indirect
	github.com/mitchellh/reflectwalk v1.0.2 // indirect
	github.com/munnerz/goautoneg v0.0.0-20191010083416-a7dc8b61c822 // indirect
	github.com/nats-io/nkeys v0.4.16 // indirect
	github.com/nats-io/nuid v1.0.1 // indirect
	github.com/prometheus/client_golang v1.25.0 // indirect
	github.com/prometheus/client_model v0.6.3 // indirect
	github.com/prometheus/common v0.72.0 // indirect
	github.com/prometheus/procfs v0.22.0 // indirect
	go.yaml.in/yaml/v2 v2.4.4 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/exp v0.0.0-20260820142414-ca536658362e // indirect
	golang.org/x/net v0.61.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/term v0.47.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	google.golang.org/genproto/googleapis/api v0.0.0-20261012220534-4341edf3f941 // indirect
	k8s.io/apimachinery v0.37.2 // indirect
)

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

replace github.com/weftcloud/weft/services/weft => ../../services/weft
