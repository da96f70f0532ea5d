package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/weftcloud/weft/pkg/fault"
)

func (a *tool) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Say which build this is", Args: takes(0, 0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			version := map[string]string{"version": "devel", "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok {
				if info.Main.Version != "" && info.Main.Version != "(devel)" {
					version["version"] = info.Main.Version
				}
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						version["revision"] = s.Value
					}
				}
			}
			if a.output == "table" {
				return a.write(fmt.Appendf(nil, "weft %s %s %s\n", version["version"], version["go"], version["platform"]))
			}
			raw, err := json.MarshalIndent(version, "", "  ")
			if err != nil {
				return fault.Wrap(err, "write JSON")
			}
			if a.output == "yaml" {
				return a.writeYAML(raw)
			}
			return a.write(append(raw, '\n'))
		},
	}
}

func mustExist(path string) error {
	if _, err := os.Stat(path); err != nil {
		return fault.New(fault.NotFound, "%s", err)
	}
	return nil
}
