package cluster

import (
	"context"
	"log/slog"

	"k8s.io/klog/v2"
)

// quietKubernetes lets Kubernetes' libraries log through our logger, their information as details: what they find worth telling
// an operator of their own programs is noise in ours.
func quietKubernetes(logger *slog.Logger) {
	klog.SetSlogLogger(slog.New(demoted{logger.Handler()}).With("room", "kubernetes"))
}

// demoted lowers Info to Debug.
type demoted struct{ slog.Handler }

func (d demoted) Enabled(ctx context.Context, level slog.Level) bool {
	return d.Handler.Enabled(ctx, lower(level))
}

func (d demoted) Handle(ctx context.Context, r slog.Record) error {
	r.Level = lower(r.Level)
	return d.Handler.Handle(ctx, r)
}

func (d demoted) WithAttrs(attrs []slog.Attr) slog.Handler {
	return demoted{d.Handler.WithAttrs(attrs)}
}
func (d demoted) WithGroup(name string) slog.Handler { return demoted{d.Handler.WithGroup(name)} }

func lower(level slog.Level) slog.Level {
	if level < slog.LevelWarn {
		return min(level, slog.LevelDebug)
	}
	return level
}
