package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"time"

	"github.com/shiplog/shiplog/runtime/containers"
)

// Bounds of a container's logs.
const (
	maxLogSize   = 10 << 20 // bytes of one file
	maxLogFiles  = 5
	logLookEvery = 10 * time.Second
)

// rotateLogs moves logs aside that have grown large: one look at all of them at a time.
func (a *Agent) rotateLogs(ctx context.Context) {
	tick := time.NewTicker(logLookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, st := range a.containers.List() {
			if st.State != containers.Running {
				continue
			}
			if info, err := os.Stat(st.LogPath); err != nil || info.Size() < maxLogSize {
				continue
			}
			if err := rotate(st.LogPath, a.now(), func() error { return a.containers.ReopenLog(st.ID) }); err != nil {
				a.log.Warn("rotating a log", "container", st.Name, "error", err)
			}
		}
	}
}

// rotate moves a log aside, has its writer open a new one, and removes the oldest of those aside.
func rotate(path string, now time.Time, reopen func() error) error {
	aside := fmt.Sprintf("%s.%s", path, now.UTC().Format("20060102-150405.000"))
	if err := os.Rename(path, aside); err != nil {
		return err
	}
	if err := reopen(); err != nil {
		// The writer still has the old file: give it its name back.
		return errors.Join(err, os.Rename(aside, path))
	}
	old, err := filepath.Glob(path + ".*")
	if err != nil {
		return err
	}
	sort.Strings(old)
	for len(old) > maxLogFiles-1 {
		if err := os.Remove(old[0]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		old = old[1:]
	}
	return nil
}

// removeLog removes a log with what was moved aside of it.
func removeLog(path string) {
	old, _ := filepath.Glob(path + ".*")
	for _, f := range append(old, path) {
		_ = os.Remove(f)
	}
}
