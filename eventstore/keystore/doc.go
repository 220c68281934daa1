// Package keystore keeps the data keys of sealed payloads: the small, mutable part of a cluster's state beside its immutable log. What is
// sealed in the log can be read as long as its key is here, and is erased when the key is destroyed.
//
// File keeps the keys in a file of fixed slots, each key wrapped by a key-encryption key that lies in a file of its own. A key is
// destroyed by overwriting its slot in place.
package keystore

import (
	"context"
	"errors"
	"io"

	"github.com/shiplog/shiplog/domain"
)

// Errors of key stores, tested with errors.Is.
var (
	// ErrInUse says that another process holds the store.
	ErrInUse = errors.New("the key store is in use")
	// ErrCorrupt says that a file is not a key store, or that its head is damaged.
	ErrCorrupt = errors.New("the key store is damaged")
	// ErrVersion says that a newer build wrote the store.
	ErrVersion = errors.New("the key store was written by a newer version")
	// ErrForeign says that the keys are those of another log.
	ErrForeign = errors.New("the key store belongs to another log")
	// ErrNoKEK says that the key-encryption key that wraps the keys is not at hand.
	ErrNoKEK = errors.New("the key-encryption key is missing")
	// ErrUnavailable says that the disk has failed: the store makes and destroys no more keys until it is opened again.
	ErrUnavailable = errors.New("the key store takes no changes: its disk has failed")
	// ErrReadOnly says that the store was opened for reading.
	ErrReadOnly = errors.New("the key store is open for reading only")
	// ErrClosed says that the store has been closed.
	ErrClosed = errors.New("the key store is closed")
)

// Store keeps data keys. It is safe for many goroutines.
type Store interface {
	domain.Keys
	// New makes a key. It is durable when New returns, so that an event sealed with it can be appended. Until Settle it is pending: Sweep
	// leaves it alone.
	New(ctx context.Context) (domain.DataKey, error)
	// Settle says that the outcome of the append that a new key was made for is known and to be seen in what Sweep is given.
	Settle(id string)
	// Destroy destroys keys. They are gone for readers at once, and from the disk when it returns, unless the store is being held (Hold);
	// then they go when it no longer is. Keys that are not there are no error.
	Destroy(ctx context.Context, ids ...string) error
	// Sweep destroys every key that is not pending and not among those that inUse returns; it says how many. inUse is called after the
	// candidates have been chosen, so that it can read a state that is not older than they are.
	Sweep(ctx context.Context, inUse func() (map[string]bool, error)) (int, error)
	// Hold lets no key leave the disk until the function that it returns is called, for a backup of log and keys that fit together: hold,
	// copy the log, copy the keys, let go.
	Hold() (release func())
	// Copy writes the keys, still wrapped, in the form of the store's own file.
	Copy(w io.Writer) error
}
