package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
)

// source is an image that is to be brought into the store, wherever it comes from.
type source struct {
	config []byte
	digest string   // of the manifest that names it; empty when the archive has none
	tags   []string // as written in the archive
	layers []layerSource
}

type layerSource struct {
	digest v1.Hash // of the bytes as they come, compressed or not; zero when nothing names it
	size   int64
	open   func(context.Context) (io.ReadCloser, error)
}

// Progress tells how far a load or pull has come, in bytes as they are transferred.
type Progress struct {
	Layer       string // the layer that this is about, by its diff id
	Done, Total int64  // of the layer
	Complete    bool   // the layer is in the store
}

// Load brings the images of an archive into the store: a tar as "docker save" writes it or an OCI layout, plain or
// compressed. It returns the images with their names. Errors are ErrArchive or ErrCorrupt when it is the archive's fault.
func (s *Store) Load(ctx context.Context, tarPath string) ([]Image, error) {
	a, err := openArchive(ctx, tarPath, s.tmpDir())
	if err != nil {
		return nil, fmt.Errorf("loading %s: %w", tarPath, err)
	}
	defer func() { _ = a.Close() }()
	sources, err := a.images()
	if err != nil {
		return nil, fmt.Errorf("loading %s: %w", tarPath, err)
	}
	var out []Image
	for _, src := range sources {
		var tags []string
		for _, t := range src.tags {
			full, err := Normalize(t)
			if err != nil {
				return nil, fmt.Errorf("loading %s: %w", tarPath, err)
			}
			if !isDigestRef(full) {
				tags = append(tags, full)
			}
		}
		i, err := s.bring(ctx, src, tags, nil, nil)
		if err != nil {
			return nil, fmt.Errorf("loading %s: %w", tarPath, err)
		}
		out = append(out, i)
	}
	return out, nil
}

// bring unpacks the layers that are missing and records the image.
func (s *Store) bring(ctx context.Context, src source, tags, digests []string, progress func(Progress)) (Image, error) {
	config, err := v1.ParseConfigFile(bytes.NewReader(src.config))
	if err != nil {
		return Image{}, fmt.Errorf("%w: its configuration: %w", ErrArchive, err)
	}
	if p := (v1.Platform{OS: config.OS, Architecture: config.Architecture}); !forThisNode(p) {
		return Image{}, fmt.Errorf("the image is for %s/%s: this node cannot run it", config.OS, config.Architecture)
	}
	diffIDs := config.RootFS.DiffIDs
	if len(diffIDs) != len(src.layers) {
		return Image{}, fmt.Errorf("%w: %d layers where its configuration names %d", ErrCorrupt, len(src.layers), len(diffIDs))
	}
	id, _, err := v1.SHA256(bytes.NewReader(src.config))
	if err != nil {
		return Image{}, err
	}
	i := Image{ID: id.String(), Created: config.Created.Time, Loaded: time.Now().UTC().Truncate(time.Second)}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(3)
	var size atomic.Int64
	for n, l := range src.layers {
		diffID := diffIDs[n]
		if diffID.Algorithm != "sha256" || len(diffID.Hex) != 64 {
			return Image{}, fmt.Errorf("%w: layer %d has the unknown digest %s", ErrArchive, n, diffID)
		}
		i.DiffIDs = append(i.DiffIDs, diffID.String())
		g.Go(func() error {
			bytes, err := s.layer(gctx, diffID.String(), l, progress)
			size.Add(bytes)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return Image{}, err
	}
	i.Size = size.Load()
	if err := s.writeConfig(id.Hex, src.config); err != nil {
		return Image{}, err
	}
	return s.add(i, tags, digests)
}

func (s *Store) writeConfig(hex string, data []byte) error {
	path := filepath.Join(s.configsDir(), hex)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	tmp := filepath.Join(s.tmpDir(), "config-"+hex)
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("keeping the image's configuration: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("keeping the image's configuration: %w", err)
	}
	return nil
}

// layer makes sure that a layer is unpacked; many who ask at once wait for the one that does it. It returns the layer's size.
func (s *Store) layer(ctx context.Context, diffID string, l layerSource, progress func(Progress)) (int64, error) {
	unlock, err := s.locks.lock(ctx, "layer "+diffID)
	if err != nil {
		return 0, err
	}
	defer unlock()
	dir := s.layerDir(diffID)
	if size, ok, err := readLayerMark(dir, diffID); ok || err != nil {
		if err == nil && progress != nil {
			progress(Progress{Layer: diffID, Done: l.size, Total: l.size, Complete: true})
		}
		return size, err
	}
	tmp, err := os.MkdirTemp(s.tmpDir(), "layer-")
	if err != nil {
		return 0, fmt.Errorf("unpacking layer %s: %w", diffID, err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	size, err := s.unpackLayer(ctx, filepath.Join(tmp, "fs"), diffID, l, progress)
	if err != nil {
		return 0, fmt.Errorf("unpacking layer %s: %w", diffID, err)
	}
	mark := fmt.Sprintf("%s %d\n", diffID, size)
	if err := os.WriteFile(filepath.Join(tmp, "layer"), []byte(mark), 0o600); err != nil {
		return 0, fmt.Errorf("unpacking layer %s: %w", diffID, err)
	}
	_ = os.RemoveAll(dir) // a directory without a mark is what a crash left
	if err := os.Rename(tmp, dir); err != nil {
		return 0, fmt.Errorf("unpacking layer %s: %w", diffID, err)
	}
	if progress != nil {
		progress(Progress{Layer: diffID, Done: l.size, Total: l.size, Complete: true})
	}
	return size, nil
}

func readLayerMark(dir, diffID string) (int64, bool, error) {
	data, err := os.ReadFile(filepath.Join(dir, "layer"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	var have string
	var size int64
	if _, err := fmt.Sscanf(string(data), "%s %d", &have, &size); err != nil {
		return 0, false, nil //nolint:nilerr // an unreadable mark means an unfinished layer, which is unpacked again
	}
	if have != diffID {
		return 0, false, fmt.Errorf("layer %s shares the first half of its digest with %s: %w", diffID, have, ErrCorrupt)
	}
	return size, true, nil
}

func (s *Store) unpackLayer(ctx context.Context, dir, diffID string, l layerSource, progress func(Progress)) (int64, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, err
	}
	in, err := l.open(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = in.Close() }()
	outer := sha256.New()
	raw := io.TeeReader(&countingReader{ctx: ctx, r: in, report: func(done int64) {
		if progress != nil {
			progress(Progress{Layer: diffID, Done: done, Total: l.size})
		}
	}}, outer)
	plain, err := decompressed(raw)
	if err != nil {
		return 0, err
	}
	defer func() { _ = plain.Close() }()
	inner := sha256.New()
	counted := &sizeReader{r: io.TeeReader(plain, inner)}
	if err := unpack(dir, counted); err != nil {
		return 0, err
	}
	// The digests are over everything, also over what follows the tar's end.
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return 0, err
	}
	if got := "sha256:" + hex.EncodeToString(inner.Sum(nil)); got != diffID {
		return 0, fmt.Errorf("its content is %s: %w", got, ErrCorrupt)
	}
	if l.digest.Hex != "" {
		if _, err := io.Copy(io.Discard, raw); err != nil {
			return 0, err
		}
		if got := hex.EncodeToString(outer.Sum(nil)); got != l.digest.Hex {
			return 0, fmt.Errorf("its blob is sha256:%s where the manifest names %s: %w", got, l.digest, ErrCorrupt)
		}
	}
	return counted.n, nil
}

type sizeReader struct {
	r io.Reader
	n int64
}

func (s *sizeReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.n += int64(n)
	return n, err
}

type countingReader struct {
	ctx    context.Context
	r      io.Reader
	n      int64
	said   int64
	report func(int64)
}

func (c *countingReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.n-c.said >= 1<<20 {
		c.said = c.n
		c.report(c.n)
	}
	return n, err
}

// shortID is how a person tells images apart.
func shortID(id string) string {
	_, hex, _ := strings.Cut(id, ":")
	return hex[:min(12, len(hex))]
}
