package backup

import (
	"errors"
	"fmt"

	"github.com/shiplog/shiplog/eventstore"
)

// The kinds of error that reading a backup ends with, tested with errors.Is.
var (
	// ErrDamaged says that a file is not what was written: changed, cut off, put together in another order. A *DamageError says where.
	ErrDamaged = errors.New("the backup is damaged")
	// ErrFormat says that a file is no backup, or one of a newer version.
	ErrFormat = errors.New("not a backup that this build reads")
	// ErrForeign says that a backup is of another log than the one it is to carry on from.
	ErrForeign = errors.New("the backup is of another log")
	// ErrBase says that an incremental backup carries on from elsewhere.
	ErrBase = errors.New("the backup carries on from elsewhere")
	// ErrUnsound says that a log is not what its own chain says, so that no backup is made of it.
	ErrUnsound = errors.New("the log does not agree with its hash chain")
	// ErrPassphrase says that the keys of a backup do not open.
	ErrPassphrase = errors.New("the passphrase does not open the keys")
)

// DamageError says where a backup is damaged.
type DamageError struct {
	Offset int64               // of the section in the file, in bytes
	After  eventstore.Position // of the last entry that was found good
	Cause  error
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("%v at byte %d, after position %d: %v", ErrDamaged, e.Offset, e.After, e.Cause)
}

// Unwrap gives the cause.
func (e *DamageError) Unwrap() error { return e.Cause }

// Is makes errors.Is(err, ErrDamaged) true.
func (e *DamageError) Is(target error) bool { return target == ErrDamaged }
