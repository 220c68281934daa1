package api

import (
	"context"
	"log/slog"

	"k8s.io/klog/v2"
)

// RouteLibraryLogs sends what Kubernetes' libraries log to a logger, one level lower than they mean it: their "info" is our "debug".
// They log through one logger for the whole process, so the process says this once, in main.
func RouteLibraryLogs(to *slog.Logger) { klog.SetSlogLogger(slog.New(demoting{to.Handler()})) }

// demoting lowers informational records by one level.
type demoting struct{ slog.Handler }

func lower(l slog.Level) slog.Level {
	if l < slog.LevelWarn {
		return l - 4
	}
	return l
}

// Enabled implements slog.Handler.
func (d demoting) Enabled(ctx context.Context, l slog.Level) bool {
	return d.Handler.Enabled(ctx, lower(l))
}

// Handle implements slog.Handler.
func (d demoting) Handle(ctx context.Context, r slog.Record) error {
	r.Level = lower(r.Level)
	return d.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (d demoting) WithAttrs(a []slog.Attr) slog.Handler { return demoting{d.Handler.WithAttrs(a)} }

// WithGroup implements slog.Handler.
func (d demoting) WithGroup(name string) slog.Handler { return demoting{d.Handler.WithGroup(name)} }
