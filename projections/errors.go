package projections

import "errors"

// Errors of reads, tested with errors.Is.
var (
	ErrNotFound = errors.New("not found")
	// ErrUnavailable says that the read model cannot answer now (Postgres is away, the model is being built).
	ErrUnavailable = errors.New("read model unavailable")
	// ErrTooOld says that retention has not kept the position that was asked for.
	ErrTooOld = errors.New("position no longer kept")
	// ErrFuture says that the position that was asked for has not been reached.
	ErrFuture = errors.New("position not reached yet")
)
