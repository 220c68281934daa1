package images

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// The kinds of error of this package, tested with errors.Is.
var (
	// ErrNotFound says that the store holds no such image.
	ErrNotFound = errors.New("no such image")
	// ErrInvalidName says that a reference is not well formed.
	ErrInvalidName = errors.New("invalid image name")
	// ErrUnauthorized says that the registry refused the credentials, or wants some.
	ErrUnauthorized = errors.New("not authorized by the registry")
	// ErrNotInRegistry says that the registry has no such image.
	ErrNotInRegistry = errors.New("not found in the registry")
	// ErrUnreachable says that no registry answered.
	ErrUnreachable = errors.New("registry unreachable")
	// ErrCorrupt says that content does not match its digest.
	ErrCorrupt = errors.New("content does not match its digest")
	// ErrArchive says that a file is not an image archive that can be read.
	ErrArchive = errors.New("not an image archive")
	// ErrInUse says that containers use the image.
	ErrInUse = errors.New("image is in use")
)

// explainPull adds to a registry's answer what it means and what to do.
func explainPull(ref string, err error) error {
	var answer *transport.Error
	if errors.As(err, &answer) {
		switch answer.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return fmt.Errorf("pulling %s: %w: check the pod's imagePullSecrets, and that the name is right: %w", ref, ErrUnauthorized, err)
		case http.StatusNotFound:
			return fmt.Errorf("pulling %s: %w: check the name and the tag, or load it with \"shiplog image load FILE\": %w", ref, ErrNotInRegistry, err)
		}
		return fmt.Errorf("pulling %s: %w", ref, err)
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("pulling %s: %w", ref, err)
	}
	var netErr net.Error
	var opErr *net.OpError
	if errors.As(err, &netErr) || errors.As(err, &opErr) {
		return fmt.Errorf("pulling %s: %w: check the network and the mirrors, or load the image with \"shiplog image load FILE\": %w", ref, ErrUnreachable, err)
	}
	return fmt.Errorf("pulling %s: %w", ref, err)
}
