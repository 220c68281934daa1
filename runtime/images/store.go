package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// Options of a store.
type Options struct {
	// Mirrors are asked, in order, before the registry itself: registry host ("docker.io") to base addresses
	// ("http://mirror:5000", "https://mirror.example.com/hub").
	Mirrors map[string][]string
	// Insecure registries are spoken to without TLS, or without verifying it. Those on localhost always are.
	Insecure []string
	// Credentials of the node itself, after those of the pod.
	Credentials Credentials
	Logger      *slog.Logger
}

// Image is one image of the store.
type Image struct {
	ID      string    `json:"id"`                // digest of its configuration, "sha256:..."
	Tags    []string  `json:"tags,omitempty"`    // in full: "docker.io/library/busybox:latest"
	Digests []string  `json:"digests,omitempty"` // in full: "docker.io/library/busybox@sha256:..."
	DiffIDs []string  `json:"diffIDs"`           // of its layers, the lowest first
	Size    int64     `json:"size"`              // bytes of its layers, unpacked
	Created time.Time `json:"created,omitzero"`
	Loaded  time.Time `json:"loaded,omitzero"`
}

// Ref is how a container status names the image: a digest when the image came from a registry, else its id.
func (i Image) Ref() string {
	if len(i.Digests) > 0 {
		return i.Digests[0]
	}
	return i.ID
}

// Store is a directory of images. One process at a time has it open. Its methods are safe for many goroutines.
type Store struct {
	dir  string
	opts Options
	log  *slog.Logger

	mu     sync.RWMutex
	images map[string]*Image // by id

	locks keyed // layers and pulls that are under way
}

// Open opens a store, creating it when the directory is empty, and clears away what an interrupted load left behind.
func Open(dir string, opts Options) (*Store, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{dir: dir, opts: opts, log: opts.Logger, images: map[string]*Image{}}
	for _, d := range []string{s.layersDir(), s.configsDir(), s.tmpDir()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("opening the image store: %w", err)
		}
	}
	leftovers, err := os.ReadDir(s.tmpDir())
	if err != nil {
		return nil, fmt.Errorf("opening the image store: %w", err)
	}
	for _, l := range leftovers {
		if err := os.RemoveAll(filepath.Join(s.tmpDir(), l.Name())); err != nil {
			return nil, fmt.Errorf("clearing an interrupted load: %w", err)
		}
	}
	data, err := os.ReadFile(s.indexPath())
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening the image store: %w", err)
	}
	var list []*Image
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("reading %s: %w: remove the directory %s and load the images again", s.indexPath(), err, dir)
	}
	for _, i := range list {
		s.images[i.ID] = i
	}
	return s, nil
}

func (s *Store) layersDir() string  { return filepath.Join(s.dir, "layers") }
func (s *Store) configsDir() string { return filepath.Join(s.dir, "configs") }
func (s *Store) tmpDir() string     { return filepath.Join(s.dir, "tmp") }
func (s *Store) indexPath() string  { return filepath.Join(s.dir, "images.json") }

// layerDir is short, because all layers of an image must fit into the options of one mount: half of a digest is enough to
// tell layers apart, and the whole one is compared before a layer is used.
func (s *Store) layerDir(diffID string) string {
	_, hex, _ := strings.Cut(diffID, ":")
	return filepath.Join(s.layersDir(), hex[:min(32, len(hex))])
}

// List returns the images ordered by their first tag.
func (s *Store) List() []Image {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]Image, 0, len(s.images))
	for _, i := range s.images {
		out = append(out, i.clone())
	}
	sort.Slice(out, func(a, b int) bool { return out[a].sortKey() < out[b].sortKey() })
	return out
}

func (i *Image) sortKey() string { return strings.Join(i.Tags, ",") + " " + i.ID }

func (i *Image) clone() Image {
	c := *i
	c.Tags, c.Digests, c.DiffIDs = slices.Clone(i.Tags), slices.Clone(i.Digests), slices.Clone(i.DiffIDs)
	return c
}

// Resolve returns the image that a reference means: a name with or without tag, a name with a digest, or an id. The error is
// ErrNotFound or ErrInvalidName.
func (s *Store) Resolve(ref string) (Image, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	i, err := s.resolve(ref)
	if err != nil {
		return Image{}, err
	}
	return i.clone(), nil
}

// Has tells whether the store holds the image that a reference means.
func (s *Store) Has(ref string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, err := s.resolve(ref)
	return err == nil
}

func (s *Store) resolve(ref string) (*Image, error) {
	if hex, ok := imageIDPrefix(ref); ok {
		var found *Image
		for id, i := range s.images {
			if strings.HasPrefix(id, "sha256:"+hex) {
				if found != nil {
					return nil, fmt.Errorf("%w %q: the id is short enough to mean several images", ErrInvalidName, ref)
				}
				found = i
			}
		}
		if found != nil {
			return found, nil
		}
	}
	full, err := Normalize(ref)
	if err != nil {
		return nil, err
	}
	for _, i := range s.images {
		if slices.Contains(i.Tags, full) || slices.Contains(i.Digests, full) {
			return i, nil
		}
	}
	return nil, fmt.Errorf("%w: %s: load it with \"shiplog image load FILE\" or pull it with \"shiplog image pull %s\"", ErrNotFound, full, ref)
}

// Config returns an image's configuration: environment, command, user and the like.
func (s *Store) Config(i Image) (*v1.ConfigFile, error) {
	_, hex, _ := strings.Cut(i.ID, ":")
	f, err := os.Open(filepath.Join(s.configsDir(), hex))
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of image %s: %w", i.ID, err)
	}
	defer func() { _ = f.Close() }()
	c, err := v1.ParseConfigFile(f)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of image %s: %w", i.ID, err)
	}
	return c, nil
}

// Layers returns the directories of an image's unpacked layers, the uppermost first, as overlayfs wants its lower directories.
func (s *Store) Layers(i Image) []string {
	out := make([]string, 0, len(i.DiffIDs))
	for n := len(i.DiffIDs) - 1; n >= 0; n-- {
		out = append(out, filepath.Join(s.layerDir(i.DiffIDs[n]), "fs"))
	}
	return out
}

// Remove takes a name from its image. When that was the last one, or the reference is an id, the image itself goes, with
// the layers that no other image has; inUse says whether containers still use an image (nil: none do) and then nothing
// is removed and the error is ErrInUse. It returns what was removed, in words for a person.
func (s *Store) Remove(_ context.Context, ref string, inUse func(id string) bool) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, err := s.resolve(ref)
	if err != nil {
		return nil, err
	}
	var said []string
	rest := i.clone()
	if full, err := Normalize(ref); err == nil && (slices.Contains(i.Tags, full) || slices.Contains(i.Digests, full)) {
		rest.Tags = slices.DeleteFunc(rest.Tags, func(t string) bool { return t == full })
		rest.Digests = slices.DeleteFunc(rest.Digests, func(d string) bool { return d == full })
		if len(rest.Tags) > 0 {
			s.images[i.ID] = &rest
			return []string{"untagged " + full}, s.save()
		}
		said = append(said, "untagged "+full)
	}
	if inUse != nil && inUse(i.ID) {
		return nil, fmt.Errorf("removing image %s: %w: delete the pods that use it first", ref, ErrInUse)
	}
	delete(s.images, i.ID)
	if err := s.save(); err != nil {
		s.images[i.ID] = i
		return nil, err
	}
	used := map[string]bool{}
	for _, other := range s.images {
		for _, d := range other.DiffIDs {
			used[d] = true
		}
	}
	for _, d := range i.DiffIDs {
		if used[d] {
			continue
		}
		if err := s.removeLayer(d); err != nil {
			return said, err
		}
	}
	_, hex, _ := strings.Cut(i.ID, ":")
	if err := os.Remove(filepath.Join(s.configsDir(), hex)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return said, fmt.Errorf("removing image %s: %w", ref, err)
	}
	return append(said, "removed "+i.ID), nil
}

// removeLayer moves a layer aside first, so that an interrupted removal leaves no half layer that looks whole.
func (s *Store) removeLayer(diffID string) error {
	aside, err := os.MkdirTemp(s.tmpDir(), "gone-")
	if err != nil {
		return fmt.Errorf("removing layer %s: %w", diffID, err)
	}
	if err := os.Rename(s.layerDir(diffID), filepath.Join(aside, "layer")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing layer %s: %w", diffID, err)
	}
	if err := os.RemoveAll(aside); err != nil {
		return fmt.Errorf("removing layer %s: %w", diffID, err)
	}
	return nil
}

// add records an image under names, which are taken from the images that had them.
func (s *Store) add(i Image, tags, digests []string) (Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := map[string]*Image{}
	for id, other := range s.images {
		c := other.clone()
		c.Tags = slices.DeleteFunc(c.Tags, func(t string) bool { return slices.Contains(tags, t) })
		now[id] = &c
	}
	merged := i.clone()
	if have, ok := now[i.ID]; ok {
		merged = have.clone()
	}
	merged.Tags = union(merged.Tags, tags)
	merged.Digests = union(merged.Digests, digests)
	now[i.ID] = &merged
	before := s.images
	s.images = now
	if err := s.save(); err != nil {
		s.images = before
		return Image{}, err
	}
	return merged.clone(), nil
}

func union(a, b []string) []string {
	for _, x := range b {
		if !slices.Contains(a, x) {
			a = append(a, x)
		}
	}
	sort.Strings(a)
	return a
}

// save writes the index so that a crash leaves the old or the new one, and, before it, everything that it names.
func (s *Store) save() error {
	list := make([]*Image, 0, len(s.images))
	for _, i := range s.images {
		list = append(list, i)
	}
	sort.Slice(list, func(a, b int) bool { return list[a].ID < list[b].ID })
	data, err := json.MarshalIndent(list, "", " ")
	if err != nil {
		return fmt.Errorf("saving the image index: %w", err)
	}
	tmp, err := os.CreateTemp(s.tmpDir(), "index-")
	if err != nil {
		return fmt.Errorf("saving the image index: %w", err)
	}
	_, err = tmp.Write(data)
	if err == nil {
		// One call makes the unpacked layers and the index durable together.
		err = unix.Syncfs(int(tmp.Fd()))
	}
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), s.indexPath())
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fmt.Errorf("saving the image index: %w", err)
	}
	return nil
}

// keyed is a set of locks by name, waited for with a context.
type keyed struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

func (k *keyed) lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		k.mu.Lock()
		if k.held == nil {
			k.held = map[string]chan struct{}{}
		}
		wait, taken := k.held[key]
		if !taken {
			done := make(chan struct{})
			k.held[key] = done
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, key)
				k.mu.Unlock()
				close(done)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
