package seal

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Key signs checkpoints.
type Key struct{ private ed25519.PrivateKey }

// NewKey makes a key.
func NewKey() (*Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key to sign with: %w", err)
	}
	return &Key{private}, nil
}

// Public is the key that signatures are checked with.
func (k *Key) Public() ed25519.PublicKey {
	return k.private.Public().(ed25519.PublicKey) //nolint:forcetypeassert // the key of this kind has no other
}

// KeyID names a public key: the beginning of its SHA-256, in hexadecimal.
func KeyID(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:8])
}

// PublicPath is where EnsureKey puts the public key that belongs to a private one: beside it, ending in ".pub" in place of ".key".
func PublicPath(path string) string { return strings.TrimSuffix(path, ".key") + ".pub" }

// EnsureKey reads the key in a file (PKCS #8, PEM), which it makes, readable by its owner alone, when it is not there. The public key
// is put beside it. A key that does not read is an error, never replaced: signatures made with it would be worth nothing any more.
func EnsureKey(path string) (*Key, error) {
	key, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if key, err = NewKey(); err == nil {
			err = key.write(path)
		}
	}
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(PublicPath(path)); errors.Is(err, fs.ErrNotExist) {
		if err := writePEM(PublicPath(path), "PUBLIC KEY", key.Public(), 0o644); err != nil {
			return nil, err
		}
	}
	return key, nil
}

func readKey(path string) (*Key, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the key that signs the log: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no key in PEM: put back the key that the log was signed with, or remove the file to sign with a new one", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	private, ok := parsed.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s holds no ed25519 key: put back the key that the log was signed with, or remove the file to sign with a new one", path)
	}
	return &Key{private}, nil
}

func (k *Key) write(path string) error { return writePEM(path, "PRIVATE KEY", k.private, 0o600) }

// writePEM puts a key into a file as a whole.
func writePEM(path, kind string, key any, mode fs.FileMode) (err error) {
	var der []byte
	if public, ok := key.(ed25519.PublicKey); ok {
		der, err = x509.MarshalPKIXPublicKey(public)
	} else {
		der, err = x509.MarshalPKCS8PrivateKey(key)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	if err := errors.Join(f.Chmod(mode), pem.Encode(f, &pem.Block{Type: kind, Bytes: der}), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// ReadPublicKey reads the key in a file that signatures are checked with (PEM).
func ReadPublicKey(path string) (ed25519.PublicKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the public key: %w", err)
	}
	return ParsePublicKey(data)
}

// ParsePublicKey reads a public key (PEM).
func ParsePublicKey(data []byte) (ed25519.PublicKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("reading the public key: it is not in PEM: give the .pub file that lies beside the cluster's key")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	public, ok := parsed.(ed25519.PublicKey)
	if err != nil || !ok {
		return nil, errors.New("reading the public key: it is no ed25519 public key: give the .pub file that lies beside the cluster's key")
	}
	return public, nil
}
