package embed

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.uber.org/zap/zapcore"
)

// orDiscard gives the logger, or one that writes nothing.
func orDiscard(logger *slog.Logger) *slog.Logger {
	if logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return logger
}

// zapCore writes what etcd logs to slog, one level lower: what is news to etcd is a detail to us. Errors stay errors.
type zapCore struct {
	logger *slog.Logger
	fields []zapcore.Field
}

// level maps zap's levels.
func (c *zapCore) level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

// Enabled implements zapcore.Core.
func (c *zapCore) Enabled(l zapcore.Level) bool {
	return l > zapcore.DebugLevel && c.logger.Enabled(context.Background(), c.level(l))
}

// With implements zapcore.Core.
func (c *zapCore) With(fields []zapcore.Field) zapcore.Core {
	return &zapCore{logger: c.logger, fields: append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

// Check implements zapcore.Core.
func (c *zapCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// falseAlarm is logged as an error by every new member in its first moment, when it has nothing to update yet.
const falseAlarm = "failed to update storage version"

// Write implements zapcore.Core.
func (c *zapCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	if e.Message == falseAlarm {
		return nil
	}
	encoder := zapcore.NewMapObjectEncoder()
	for _, f := range c.fields {
		f.AddTo(encoder)
	}
	for _, f := range fields {
		f.AddTo(encoder)
	}
	attrs := make([]slog.Attr, 0, len(encoder.Fields))
	for k, v := range encoder.Fields {
		attrs = append(attrs, slog.Any(k, v))
	}
	c.logger.LogAttrs(context.Background(), c.level(e.Level), e.Message, attrs...)
	return nil
}

// Sync implements zapcore.Core.
func (c *zapCore) Sync() error { return nil }

// natsLogger writes what the NATS server logs to slog.
type natsLogger struct{ logger *slog.Logger }

func (l natsLogger) log(level slog.Level, format string, v []any) {
	ctx := context.Background()
	if !l.logger.Enabled(ctx, level) {
		return
	}
	record := slog.NewRecord(time.Now(), level, fmt.Sprintf(format, v...), 0)
	if err := l.logger.Handler().Handle(ctx, record); err != nil {
		l.logger.ErrorContext(ctx, "log of the NATS server", "error", err)
	}
}

// Noticef implements server.Logger.
func (l natsLogger) Noticef(format string, v ...any) { l.log(slog.LevelDebug, format, v) }

// Warnf implements server.Logger.
func (l natsLogger) Warnf(format string, v ...any) { l.log(slog.LevelInfo, format, v) }

// Fatalf implements server.Logger.
func (l natsLogger) Fatalf(format string, v ...any) { l.log(slog.LevelError, format, v) }

// Errorf implements server.Logger.
func (l natsLogger) Errorf(format string, v ...any) { l.log(slog.LevelError, format, v) }

// Debugf implements server.Logger.
func (l natsLogger) Debugf(string, ...any) {}

// Tracef implements server.Logger.
func (l natsLogger) Tracef(string, ...any) {}
