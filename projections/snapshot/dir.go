package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections/live"
	"github.com/shiplog/shiplog/projections/memory"
)

const (
	suffix    = ".snapshot"
	temporary = ".tmp"
	keep      = 2 // how many are kept: the newest, and one for the case that it cannot be used
)

// ErrUnusable is what every error is that says that a snapshot is not of this log, not of this build, or not whole, for errors.Is.
var ErrUnusable = errors.New("the snapshot cannot be used")

// UnusableError says why.
type UnusableError struct {
	Path string
	Err  error
}

func (e *UnusableError) Error() string {
	return fmt.Sprintf("the snapshot %s cannot be used: %v", e.Path, e.Err)
}

func (e *UnusableError) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrUnusable) true.
func (e *UnusableError) Is(target error) bool { return target == ErrUnusable }

// Dir is a directory of snapshots of one log.
type Dir struct {
	// Path of the directory; it is made when the first snapshot is written.
	Path  string
	Log   eventstore.Log
	Kinds *domain.Set
	// ReadOnly leaves unusable snapshots where they are.
	ReadOnly bool
	Logger   *slog.Logger     // default: nowhere
	Now      func() time.Time // default: time.Now

	fold string // default: foldHash; a test's
}

func (d *Dir) logger() *slog.Logger {
	if d.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return d.Logger
}

func (d *Dir) now() time.Time {
	if d.Now == nil {
		return time.Now()
	}
	return d.Now()
}

func (d *Dir) foldHash() string { return cmp.Or(d.fold, foldHash) }

// Info is what List tells of a file.
type Info struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
	Header
	Unusable string `json:"unusable,omitempty"` // why, if it is known without reading all of it
}

// names lists the files of snapshots, the newest first.
func (d *Dir) names() ([]string, error) {
	entries, err := os.ReadDir(d.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing snapshots: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names) // their positions have leading zeros
	slices.Reverse(names)
	return names, nil
}

// List tells of the snapshots that there are, the newest first. Without a Log they are not held against it.
func (d *Dir) List(ctx context.Context) ([]Info, error) {
	names, err := d.names()
	if err != nil {
		return nil, err
	}
	infos := make([]Info, 0, len(names))
	for _, name := range names {
		info := Info{Path: filepath.Join(d.Path, name)}
		f, err := os.Open(info.Path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a newer one has taken its place
		}
		if err != nil {
			return nil, fmt.Errorf("listing snapshots: %w", err)
		}
		if stat, err := f.Stat(); err == nil {
			info.Bytes = stat.Size()
		}
		_, info.Header, err = newReader(f)
		if err == nil {
			err = d.fits(ctx, info.Header)
		}
		if err != nil {
			info.Unusable = err.Error()
		}
		f.Close()
		infos = append(infos, info)
	}
	return infos, nil
}

// Base reads the newest snapshot that can be used: what live.Options.Base wants. There being none is no error. Those that cannot be
// used are said and removed.
func (d *Dir) Base(ctx context.Context) (*live.Base, error) {
	names, err := d.names()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		path := filepath.Join(d.Path, name)
		base, err := d.read(ctx, path)
		switch {
		case err == nil:
			return base, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case !errors.Is(err, ErrUnusable):
			return nil, fmt.Errorf("reading a snapshot: %w", err)
		}
		d.logger().Warn("a snapshot is left out; a new one will be made", "snapshot", path, "because", errors.Unwrap(err))
		if d.ReadOnly {
			continue
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("removing a snapshot that cannot be used: %w", err)
		}
	}
	return nil, nil
}

// read reads one snapshot. An *UnusableError says that it is of no use, any other error that the disk or the log did not answer.
func (d *Dir) read(ctx context.Context, path string) (*live.Base, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, header, err := newReader(f)
	if err != nil {
		return nil, unusable(path, err)
	}
	if err := d.fits(ctx, header); err != nil {
		return nil, unusable(path, err)
	}
	base := &live.Base{Objects: memory.NewStore(), Broken: map[domain.Ref]struct{}{}, Position: uint64(header.Position)}
	if err := d.fill(ctx, r, base); err != nil {
		return nil, unusable(path, err)
	}
	if n := base.Objects.Len(); n != header.Objects {
		return nil, &UnusableError{path, fmt.Errorf("%w: it holds %d objects, and should %d", errDamaged, n, header.Objects)}
	}
	return base, nil
}
