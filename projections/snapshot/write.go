package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
	"github.com/shiplog/shiplog/projections/live"
)

// Write makes a snapshot of a state and removes what is older than the last two. When it returns without error the snapshot is on the
// disk; until then it does not stand among the others.
func (d *Dir) Write(ctx context.Context, s live.State) (info Info, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing a snapshot of position %d: %w", s.Objects.Position(), err)
		}
	}()
	header, err := d.header(ctx, s)
	if err != nil {
		return Info{}, err
	}
	if err := os.MkdirAll(d.Path, 0o700); err != nil {
		return Info{}, err
	}
	path := filepath.Join(d.Path, fmt.Sprintf("%020d%s", header.Position, suffix))
	size, err := writeFile(ctx, path+temporary, header, s)
	if err != nil {
		return Info{}, errors.Join(err, ignoreNotExist(os.Remove(path+temporary)))
	}
	if err := os.Rename(path+temporary, path); err != nil {
		return Info{}, err
	}
	if err := syncDir(d.Path); err != nil {
		return Info{}, err
	}
	return Info{Path: path, Bytes: size, Header: header}, d.prune(path)
}

func (d *Dir) header(ctx context.Context, s live.State) (Header, error) {
	position := eventstore.Position(s.Objects.Position())
	identity, err := projections.LogIdentity(ctx, d.Log)
	if err != nil {
		return Header{}, err
	}
	anchor, err := d.anchor(ctx, position, anchorWithin)
	if err != nil {
		return Header{}, err
	}
	h := Header{
		Log: identity, Position: position, Anchor: anchor, Schema: domain.SchemaVersion, Fold: d.foldHash(),
		Objects: s.Objects.Len(), Created: d.now().UTC(),
	}
	if chained, ok := d.Log.(eventstore.Chained); ok {
		digest, err := chained.DigestAt(ctx, position)
		if err != nil {
			return Header{}, fmt.Errorf("reading the log's digest at position %d: %w", position, err)
		}
		h.Digest = &digest
	}
	return h, nil
}

func writeFile(ctx context.Context, path string, h Header, s live.State) (size int64, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() {
		if closed := f.Close(); err == nil {
			err = closed
		}
	}()
	w, err := newWriter(f, h)
	if err != nil {
		return 0, err
	}
	for frame := range frames(s.Objects, s.IsBroken) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if err := w.frame(frame); err != nil {
			return 0, err
		}
	}
	if err := w.end(); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	stat, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return stat.Size(), nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// prune removes what is older than the last two, of which written is one, and what a process that was killed left.
func (d *Dir) prune(written string) error {
	entries, err := os.ReadDir(d.Path)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix+temporary) {
			errs = append(errs, ignoreNotExist(os.Remove(filepath.Join(d.Path, e.Name()))))
		}
	}
	names, err := d.names()
	if err != nil {
		return err
	}
	kept := 1
	for _, name := range names {
		if name == filepath.Base(written) {
			continue
		}
		if kept++; kept > keep {
			errs = append(errs, ignoreNotExist(os.Remove(filepath.Join(d.Path, name))))
		}
	}
	return errors.Join(errs...)
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
