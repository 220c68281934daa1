package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/shiplog/shiplog/eventstore/keystore"
	"github.com/shiplog/shiplog/ops/datadir"
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
