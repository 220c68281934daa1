package images

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"
)

// Normalize writes a reference in full, as docker understands it: "busybox" is "docker.io/library/busybox:latest". A
// reference with a digest keeps the digest and loses the tag, which says nothing beside it.
func Normalize(ref string) (string, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", fmt.Errorf("%w %q: %w", ErrInvalidName, ref, err)
	}
	return reference.TagNameOnly(named).String(), nil
}

// IsLatest tells whether a reference means the tag "latest", named or not: such images are pulled each time unless the
// pull policy says otherwise.
func IsLatest(ref string) bool {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return false
	}
	if _, digested := named.(reference.Digested); digested {
		return false
	}
	tagged, ok := named.(reference.Tagged)
	return !ok || tagged.Tag() == "latest"
}

// repository returns the part of a normalised reference before the tag or digest.
func repository(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return named.Name()
}

// isDigestRef tells whether a normalised reference holds a digest.
func isDigestRef(ref string) bool { return strings.Contains(ref, "@") }

// imageIDPrefix recognises "sha256:<hex>" and bare hex ids, in full or shortened to at least 12 characters.
func imageIDPrefix(ref string) (string, bool) {
	hex := strings.TrimPrefix(ref, "sha256:")
	if len(hex) < 12 || len(hex) > 64 {
		return "", false
	}
	for _, c := range hex {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", false
		}
	}
	return hex, true
}
