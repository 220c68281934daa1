package images

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Pull fetches an image from its registry, or a mirror of it, with the credentials given and then the node's own. Layers
// that the store has are not fetched again; two pulls of one image at a time become one. Progress may be nil. Errors are
// ErrUnauthorized, ErrNotInRegistry, ErrUnreachable, ErrCorrupt or ErrInvalidName.
func (s *Store) Pull(ctx context.Context, ref string, auth Credentials, progress func(Progress)) (Image, error) {
	full, err := Normalize(ref)
	if err != nil {
		return Image{}, err
	}
	unlock, err := s.locks.lock(ctx, "pull "+full)
	if err != nil {
		return Image{}, fmt.Errorf("pulling %s: %w", full, err)
	}
	defer unlock()
	var failures []error
	for _, endpoint := range s.endpoints(full) {
		i, err := s.pullFrom(ctx, full, endpoint, Join(auth, s.opts.Credentials), progress)
		if err == nil {
			return i, nil
		}
		if ctx.Err() != nil {
			return Image{}, fmt.Errorf("pulling %s: %w", full, ctx.Err())
		}
		if endpoint.mirror {
			s.log.Warn("mirror did not answer", "image", full, "mirror", endpoint.ref, "error", err)
		}
		failures = append(failures, err)
	}
	// What the registry itself said counts: it is asked last.
	return Image{}, explainPull(full, failures[len(failures)-1])
}

type endpoint struct {
	ref    string // what to ask this endpoint for
	plain  bool   // without TLS
	mirror bool
}

func (s *Store) endpoints(full string) []endpoint {
	host, rest, _ := strings.Cut(full, "/")
	var out []endpoint
	for _, m := range s.opts.Mirrors[host] {
		u, err := url.Parse(m)
		if err != nil || u.Host == "" {
			s.log.Warn("mirror is not an address", "registry", host, "mirror", m)
			continue
		}
		out = append(out, endpoint{ref: path.Join(u.Host, u.Path, rest), plain: u.Scheme == "http", mirror: true})
	}
	return append(out, endpoint{ref: full, plain: slices.Contains(s.opts.Insecure, host)})
}

func (s *Store) pullFrom(ctx context.Context, full string, e endpoint, auth authn.Keychain, progress func(Progress)) (Image, error) {
	var nameOpts []name.Option
	if e.plain {
		nameOpts = append(nameOpts, name.Insecure)
	}
	ref, err := name.ParseReference(e.ref, nameOpts...)
	if err != nil {
		return Image{}, fmt.Errorf("%w %q: %w", ErrInvalidName, full, err)
	}
	transport := newTransport(e.plain)
	defer transport.CloseIdleConnections()
	desc, err := remote.Get(ref, remote.WithContext(ctx), remote.WithAuthFromKeychain(auth), remote.WithTransport(transport),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}),
		// The agent's back-off decides when to try again; the pull itself does not.
		remote.WithRetryPredicate(func(error) bool { return false }))
	if err != nil {
		return Image{}, err
	}
	img, err := desc.Image()
	if err != nil {
		return Image{}, err
	}
	src, err := remoteSource(img)
	if err != nil {
		return Image{}, err
	}
	digests := []string{repository(full) + "@" + desc.Digest.String()}
	var tags []string
	if !isDigestRef(full) {
		tags = []string{full}
	}
	i, err := s.bring(ctx, src, tags, digests, progress)
	if err == nil {
		s.log.Debug("image pulled", "image", full, "id", shortID(i.ID), "from", e.ref)
	}
	return i, err
}

func remoteSource(img v1.Image) (source, error) {
	config, err := img.RawConfigFile() // ggcr checks it against the digest in the manifest
	if err != nil {
		return source{}, err
	}
	m, err := img.Manifest()
	if err != nil {
		return source{}, err
	}
	layers, err := img.Layers()
	if err != nil {
		return source{}, err
	}
	src := source{config: config}
	if len(layers) != len(m.Layers) {
		return source{}, errors.New("the manifest names other layers than the registry serves")
	}
	for n, l := range layers {
		src.layers = append(src.layers, layerSource{
			digest: m.Layers[n].Digest, size: m.Layers[n].Size,
			open: func(context.Context) (io.ReadCloser, error) { return l.Compressed() },
		})
	}
	return src, nil
}

func newTransport(plain bool) *http.Transport {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   4,
	}
	if plain {
		t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the operator named this registry insecure
	}
	return t
}
