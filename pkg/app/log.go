package app

import (
	"io"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/weftcloud/weft/pkg/fault"
)

// LogConfig is how a program logs.
type LogConfig struct {
	// Level is debug, info, warn or error; empty means info.
	Level string `koanf:"level"`
	// Format is text or json; empty means text on a terminal and json elsewhere.
	Format string `koanf:"format"`
}

// NewLogger makes a logger that writes to w. Attributes whose names say that they are secret are written as "(hidden)",
// however they came there. The error is Invalid.
func NewLogger(w io.Writer, cfg LogConfig) (*slog.Logger, error) {
	level := slog.LevelInfo
	if cfg.Level != "" {
		if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
			return nil, fault.InField("log.level", "%q is none of debug, info, warn, error", cfg.Level)
		}
	}
	format := cfg.Format
	if format == "" {
		format = "json"
		if f, isFile := w.(*os.File); isFile && term.IsTerminal(int(f.Fd())) {
			format = "text"
		}
	}
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: hide}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	default:
		return nil, fault.InField("log.format", "%q is neither text nor json", cfg.Format)
	}
}

// secretWords are parts of the names of attributes that must not be written.
var secretWords = []string{"password", "passwd", "secret", "token", "credential", "kubeconfig", "private", "authorization", "apikey", "api_key", "userdata", "user_data"}

func hide(_ []string, a slog.Attr) slog.Attr {
	name := strings.ToLower(a.Key)
	for _, word := range secretWords {
		if strings.Contains(name, word) {
			return slog.String(a.Key, "(hidden)")
		}
	}
	return a
}
