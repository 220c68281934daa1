package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// measureTend runs what operators run over a whole log, on one of a million events that nobody has open.
func measureTend(ctx context.Context, b *bench) error {
	dir, remove, err := tempDir()
	if err != nil {
		return err
	}
	defer remove()
	log, file, restored := filepath.Join(dir, "log"), filepath.Join(dir, "backup"), filepath.Join(dir, "restored")
	if err := makeBigLog(ctx, log); err != nil {
		return err
	}
	server, err := b.serveLog(ctx, filepath.Join(dir, "served"))
	if err != nil {
		return err
	}
	defer server.stop()
	for _, m := range []struct {
		what string
		args []string
	}{
		{"verify log", []string{"verify", "log", "--dir", log}},
		{"backup", []string{"backup", file, "--dir", log}},
		{"backup inspect", []string{"backup", "inspect", file}},
		{"restore", []string{"restore", file, "--data-dir", restored}},
		{"eventstore copy into another process", []string{"eventstore", "copy", "--from", restored, "--to", server.connection()}},
	} {
		began := time.Now()
		if out, err := exec.CommandContext(ctx, b.bin, m.args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", m.what, err, out)
		}
		took := time.Since(began)
		b.report(m.what+", 1,000,000 events", "%.1f s (%.0f events/s)", took.Seconds(), bigEvents/took.Seconds())
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	b.report("backup of 1,000,000 events, size", "%d MB", info.Size()>>20)
	return nil
}
