package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// archive is a tar file whose entries can be read in any order: names and where their bytes stand, found in one pass.
type archive struct {
	file    *os.File
	entries map[string]section
	links   map[string]string
}

type section struct{ offset, size int64 }

// openArchive indexes a tar file. A compressed one is expanded into tmpDir first. OCI layout directories are read in place.
func openArchive(ctx context.Context, file, tmpDir string) (*archive, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	expanded, err := expand(ctx, f, tmpDir)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	if expanded != f {
		_ = f.Close()
	}
	a := &archive{file: expanded, entries: map[string]section{}, links: map[string]string{}}
	if err := a.index(ctx); err != nil {
		_ = a.Close()
		return nil, err
	}
	return a, nil
}

func (a *archive) Close() error { return a.file.Close() }

func (a *archive) index(ctx context.Context) error {
	tr := tar.NewReader(a.file)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrArchive, err)
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		switch h.Typeflag {
		case tar.TypeReg:
			at, err := a.file.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			a.entries[name] = section{at, h.Size}
		case tar.TypeSymlink:
			a.links[name] = strings.TrimPrefix(path.Clean("/"+path.Join(path.Dir(name), h.Linkname)), "/")
		case tar.TypeLink:
			a.links[name] = strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")
		}
	}
}

func (a *archive) has(name string) bool {
	_, ok := a.section(name)
	return ok
}

func (a *archive) section(name string) (section, bool) {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	for range 10 {
		if s, ok := a.entries[name]; ok {
			return s, true
		}
		to, ok := a.links[name]
		if !ok {
			break
		}
		name = to
	}
	return section{}, false
}

func (a *archive) open(name string) (io.Reader, int64, error) {
	s, ok := a.section(name)
	if !ok {
		return nil, 0, fmt.Errorf("%w: it names %q but does not hold it", ErrArchive, name)
	}
	return io.NewSectionReader(a.file, s.offset, s.size), s.size, nil
}

func (a *archive) read(name string) ([]byte, error) {
	r, size, err := a.open(name)
	if err != nil {
		return nil, err
	}
	if size > 16<<20 {
		return nil, fmt.Errorf("%w: %q is too large to be metadata (%d bytes)", ErrArchive, name, size)
	}
	return io.ReadAll(r)
}

// images lists what the archive holds, whichever of the two formats it is in.
func (a *archive) images() ([]source, error) {
	switch {
	case a.has("manifest.json"):
		return a.dockerImages()
	case a.has("index.json"):
		return a.ociImages()
	}
	return nil, fmt.Errorf("%w: it holds neither manifest.json (docker save) nor index.json (OCI layout)", ErrArchive)
}

func (a *archive) dockerImages() ([]source, error) {
	data, err := a.read("manifest.json")
	if err != nil {
		return nil, err
	}
	var list []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("%w: manifest.json: %w", ErrArchive, err)
	}
	var out []source
	for _, m := range list {
		config, err := a.read(m.Config)
		if err != nil {
			return nil, err
		}
		src := source{config: config, tags: m.RepoTags}
		for _, l := range m.Layers {
			_, size, err := a.open(l)
			if err != nil {
				return nil, err
			}
			src.layers = append(src.layers, layerSource{size: size, open: a.opener(l)})
		}
		out = append(out, src)
	}
	return out, nil
}

func (a *archive) opener(name string) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) {
		r, _, err := a.open(name)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(r), nil
	}
}

func (a *archive) ociImages() ([]source, error) {
	data, err := a.read("index.json")
	if err != nil {
		return nil, err
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("%w: index.json: %w", ErrArchive, err)
	}
	var out []source
	for _, d := range index.Manifests {
		src, ok, err := a.ociImage(d, 0)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		for _, key := range []string{"io.containerd.image.name", "org.opencontainers.image.ref.name"} {
			if name := d.Annotations[key]; name != "" {
				// A bare tag ("latest") is no name of an image.
				if strings.ContainsAny(name, "/:") {
					src.tags = append(src.tags, name)
				}
				break
			}
		}
		out = append(out, src)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: no image in it is for %s/%s", ErrArchive, runtime.GOOS, runtime.GOARCH)
	}
	return out, nil
}

func blobPath(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

func (a *archive) blob(h v1.Hash) ([]byte, error) {
	data, err := a.read(blobPath(h))
	if err != nil {
		return nil, err
	}
	got, _, err := v1.SHA256(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if got != h {
		return nil, fmt.Errorf("blob %s: %w", h, ErrCorrupt)
	}
	return data, nil
}

func (a *archive) ociImage(d v1.Descriptor, depth int) (source, bool, error) {
	if d.Platform != nil && !forThisNode(*d.Platform) {
		return source{}, false, nil
	}
	if d.MediaType.IsIndex() {
		if depth > 3 {
			return source{}, false, fmt.Errorf("%w: indexes nested too deeply", ErrArchive)
		}
		data, err := a.blob(d.Digest)
		if err != nil {
			return source{}, false, err
		}
		var index v1.IndexManifest
		if err := json.Unmarshal(data, &index); err != nil {
			return source{}, false, fmt.Errorf("%w: index %s: %w", ErrArchive, d.Digest, err)
		}
		for _, m := range index.Manifests {
			if !a.has(blobPath(m.Digest)) {
				continue // an archive of one platform keeps the index of all
			}
			src, ok, err := a.ociImage(m, depth+1)
			if err != nil || ok {
				src.digest = d.Digest.String()
				return src, ok, err
			}
		}
		return source{}, false, nil
	}
	if !d.MediaType.IsImage() {
		return source{}, false, nil
	}
	data, err := a.blob(d.Digest)
	if err != nil {
		return source{}, false, err
	}
	var m v1.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return source{}, false, fmt.Errorf("%w: manifest %s: %w", ErrArchive, d.Digest, err)
	}
	if m.Config.MediaType != types.OCIConfigJSON && m.Config.MediaType != types.DockerConfigJSON {
		return source{}, false, nil // an artifact or an attestation, not an image
	}
	config, err := a.blob(m.Config.Digest)
	if err != nil {
		return source{}, false, err
	}
	src := source{config: config, digest: d.Digest.String()}
	for _, l := range m.Layers {
		_, size, err := a.open(blobPath(l.Digest))
		if err != nil {
			return source{}, false, err
		}
		src.layers = append(src.layers, layerSource{digest: l.Digest, size: size, open: a.opener(blobPath(l.Digest))})
	}
	return src, true, nil
}

func forThisNode(p v1.Platform) bool {
	return (p.OS == "" || p.OS == "linux") && (p.Architecture == "" || p.Architecture == runtime.GOARCH)
}

// decompressed recognises a stream's compression by its first bytes.
func decompressed(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzip.NewReader(br)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(br)
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case bytes.HasPrefix(head, []byte("BZh")):
		return io.NopCloser(bzip2.NewReader(br)), nil
	}
	return io.NopCloser(br), nil
}

// expand returns the file itself when it is not compressed, else an unnamed temporary file with the content.
func expand(ctx context.Context, f *os.File, tmpDir string) (*os.File, error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(f, head); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrArchive, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	plain := !bytes.HasPrefix(head, []byte{0x1f, 0x8b}) && !bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) && !bytes.HasPrefix(head, []byte("BZh"))
	if plain {
		return f, nil
	}
	tmp, err := os.CreateTemp(tmpDir, "archive-")
	if err != nil {
		return nil, err
	}
	_ = os.Remove(tmp.Name())
	r, err := decompressed(&contextReader{ctx, f})
	if err == nil {
		_, err = io.Copy(tmp, r)
		_ = r.Close()
	}
	if err == nil {
		_, err = tmp.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = tmp.Close()
		return nil, fmt.Errorf("expanding the archive: %w", err)
	}
	return tmp, nil
}

// contextReader ends reading when the context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
