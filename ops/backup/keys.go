package backup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"filippo.io/age"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/ops/datadir"
)

// Keys are the files of a data directory without which a log alone does not make the same cluster again: names as in
// "pki/ca.key", and what is in them.
type Keys map[string][]byte

// sealedKeys is what is encrypted. The log is in it so that nobody can put the keys of one backup into another.
type sealedKeys struct {
	Log   eventstore.Digest `json:"log"`
	Head  Mark              `json:"head"`
	Files Keys              `json:"files"`
}

// ReadKeys reads the keys of a data directory.
func ReadKeys(dir string) (Keys, error) {
	keys := Keys{}
	for _, sub := range datadir.KeyDirs {
		err := filepath.WalkDir(filepath.Join(dir, sub), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // made when it is first needed, or replaced while we looked
			}
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			name, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				return err
			}
			keys[filepath.ToSlash(name)] = data
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("reading the keys of the cluster: %w", err)
		}
	}
	return keys, nil
}

func (k Keys) equal(other Keys) bool { return maps.EqualFunc(k, other, bytes.Equal) }

// write writes the files into a data directory that has none.
func (k Keys) write(dir string) error {
	for _, name := range slices.Sorted(maps.Keys(k)) {
		top, _, _ := cutPath(name)
		if !filepath.IsLocal(name) || !slices.Contains(datadir.KeyDirs, top) {
			return fmt.Errorf("the backup holds a key named %q, which is no place for one", name)
		}
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := writeFile(path, k[name], 0o600); err != nil {
			return err
		}
	}
	return nil
}

// seal encrypts keys with a passphrase.
func seal(k Keys, t Trailer, passphrase string, work int) ([]byte, error) {
	plain, err := json.Marshal(sealedKeys{Log: t.Log, Head: t.Head, Files: k})
	if err != nil {
		return nil, err
	}
	recipient, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return nil, fmt.Errorf("encrypting the keys: %w", err)
	}
	if work > 0 {
		recipient.SetWorkFactor(work)
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, recipient)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("encrypting the keys: %w", err)
	}
	return out.Bytes(), nil
}

// Keys decrypts the keys of a backup. It is called after Next has returned io.EOF. It returns ErrPassphrase when the passphrase
// is not theirs.
func (b *Reader) Keys(passphrase string) (Keys, error) {
	identity, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, fmt.Errorf("decrypting the keys: %w", err)
	}
	r, err := age.Decrypt(bytes.NewReader(b.sealed), identity)
	var wrong *age.NoIdentityMatchError
	if errors.As(err, &wrong) {
		return nil, ErrPassphrase
	}
	var plain []byte
	if err == nil {
		plain, err = io.ReadAll(r)
	}
	var sealed sealedKeys
	if err == nil {
		err = json.Unmarshal(plain, &sealed)
	}
	if err == nil && (sealed.Log != b.trailer.Log || sealed.Head != b.trailer.Head) {
		err = errors.New("they were put into another backup")
	}
	if err != nil {
		return nil, fmt.Errorf("decrypting the keys: %w: %w", ErrDamaged, err)
	}
	return sealed.Files, nil
}

// ReadPassphrase reads a passphrase from a file; a line end after it is not part of it.
func ReadPassphrase(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("reading the passphrase: %w", err)
	}
	data = bytes.TrimRight(data, "\r\n")
	if len(data) == 0 {
		return "", fmt.Errorf("reading the passphrase: %s is empty", path)
	}
	return string(data), nil
}
