module github.com/weftcloud/weft/services/weft

go 1.26.0

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

require (
	charm.land/lipgloss/v2 v2.0.6 // indirect
	github.com/charmbracelet/colorprofile v0.4.3 // indirect
	github.com/charmbracelet/ultraviolet v0.0.0-20260811164956-006e29f97886 // indirect
	github.com/charmbracelet/x/ansi v0.11.9 // indirect
	github.com/charmbracelet/x/term v0.2.2 // indirect
	github.com/charmbracelet/x/termios v0.1.1 // indirect
	github.com/charmbracelet/x/windows v0.2.2 // indirect
	github.com/clipperhouse/displaywidth v0.11.0 // indirect
	github.com/clipperhouse/uax29/v2 v2.7.0 // indirect
	github.com/goccy/go-yaml v1.19.2 // indirect
	github.com/google/go-cmp v0.7.0 // indirect
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/lucasb-eyer/go-colorful v1.4.1 // indirect
	github.com/mattn/go-runewidth v0.0.27 // indirect
	github.com/muesli/cancelreader v0.2.2 // indirect
	github.com/rivo/uniseg v0.4.7 // indirect
	github.com/rogpeppe/go-internal v1.16.0 // indirect
	github.com/spf13/cobra v1.10.2 // indirect
	github.com/spf13/pflag v1.0.10 // indirect
	github.com/xo/terminfo v0.0.0-20220910002029-abceb7e1c41e // indirect
	go.yaml.in/yaml/v2 v2.4.4 // indirect
	golang.org/x/net v0.61.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/term v0.47.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20261012220534-4341edf3f941 // indirect
	google.golang.org/grpc v1.85.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
	sigs.k8s.io/yaml v1.6.0 // indirect
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
