package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore/keystore"
	"github.com/shiplog/shiplog/ops/datadir"
	"github.com/shiplog/shiplog/projections"
)

// rotate wraps every data key by a new key-encryption key.
func rotate(keys *keystore.File) Step {
	n, err := keys.Rotate()
	if err != nil {
		return Step{Failed: true, Message: err.Error()}
	}
	return Step{Message: fmt.Sprintf("%d data keys are wrapped by a new key-encryption key in %s; the old one is destroyed", n, keys.KEKFile())}
}

// RotateStopped rotates the key-encryption key of a cluster that is not running.
func RotateStopped(_ context.Context, path, kekFile string) (_ Step, err error) {
	dir, err := datadir.Open(path)
	if err != nil {
		return Step{}, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	keys, err := keystore.Open(filepath.Join(path, keysDir), keystore.Options{KEKFile: kekFile})
	if err != nil {
		return Step{}, err
	}
	defer func() { err = errors.Join(err, keys.Close()) }()
	return rotate(keys), nil
}

// OpenKinds returns the kinds of a stopped cluster with the keys that open what is sealed. Without the key-encryption key, or without
// keys, everything sealed reads as erased.
func OpenKinds(path, kekFile string) (*domain.Set, func() error, error) {
	kinds := domain.NewSet(domain.Kinds())
	keys, err := keystore.Open(filepath.Join(path, keysDir), keystore.Options{KEKFile: kekFile, ReadOnly: true})
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, keystore.ErrNoKEK):
		return kinds, func() error { return nil }, nil
	case err != nil:
		return nil, nil, err
	}
	return kinds.WithKeys(keys), keys.Close, nil
}

// openKeys opens the store of the keys that payloads are sealed with, and makes the kinds that are opened with them.
func (cp *controlPlane) openKeys(ctx context.Context) (err error) {
	kinds, err := domain.SealFields(domain.Kinds(), cp.Seal...)
	if err != nil {
		return err
	}
	if cp.keys, err = keystore.Open(cp.dir.Join(keysDir), keystore.Options{KEKFile: cp.KEKFile, Logger: cp.logger}); err != nil {
		return err
	}
	cp.closeLater(func(context.Context) error { return cp.keys.Close() })
	identity, err := projections.LogIdentity(ctx, cp.log)
	if err != nil {
		return err
	}
	if err := cp.keys.Bind(identity); err != nil {
		return err
	}
	cp.kinds = domain.NewSet(kinds).WithKeys(cp.keys)
	return nil
}
