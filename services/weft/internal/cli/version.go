package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/weftcloud/weft/pkg/fault"
)

// build says what a program was built of.
type build struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	// Revision is the commit; empty if the program was built outside of a repository.
	Revision string `json:"revision"`
	// Time is the commit's, as RFC 3339.
	Time string `json:"time"`
	// Modified tells whether the sources differed from the commit.
	Modified bool `json:"modified"`
}

// buildOf reads what the Go tool wrote into the program; nil if it wrote nothing.
func buildOf(info *debug.BuildInfo) build {
	b := build{Version: "devel", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info == nil {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

func (b build) text() string {
	revision := "revision " + cmp.Or(b.Revision, "unknown")
	if b.Modified {
		revision += " (modified)"
	}
	return fmt.Sprintf("weft %s %s %s %s\n", b.Version, revision, b.Go, b.Platform)
}

func (a *tool) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Say which build this is", Args: takes(0, 0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			info, _ := debug.ReadBuildInfo()
			b := buildOf(info)
			if a.output == "table" {
				return a.write([]byte(b.text()))
			}
			raw, err := json.MarshalIndent(b, "", "  ")
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
