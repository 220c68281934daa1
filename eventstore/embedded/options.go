package embedded

import (
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Options of a log. The zero value is ready to use.
type Options struct {
	// Now is the clock that dates events. The dates never run backwards, even when the clock does. Default time.Now.
	Now func() time.Time
	// FS is the file system. Default vfs.Default, the operating system's.
	FS vfs.FS
	// Logger gets what an operator should know. Default slog.Default().
	Logger *slog.Logger
	// ReadOnly opens a log without changing a byte of it; everything that would write returns ErrReadOnly. The directory
	// must hold a log, and no other process may have it open.
	ReadOnly bool

	// CacheBytes bounds Pebble's block cache. Default 8 MiB.
	CacheBytes int64
	// MemTableBytes is how much is collected in memory, besides the write-ahead log, before it is written to a table.
	// Default 4 MiB.
	MemTableBytes uint64
	// CachedStreams is of how many streams the last revision and the retention are remembered. Default 16,384.
	CachedStreams int

	// MaxEventBytes bounds an event's data, metadata and type together; larger ones get ErrTooLarge. Default 4 MiB.
	MaxEventBytes int
	// MaxAppendBytes bounds all events of one append together. Default 32 MiB.
	MaxAppendBytes int

	// MinFreeBytes is how much space the disk must have for writes to be taken; with less they get ErrFull, until there is room
	// again. Default a twentieth of the disk, at least 64 MiB and at most 1 GiB; negative: writes are always tried.
	MinFreeBytes int64
	// MaxBytes is how much of the disk the log itself may take. Beyond it writes get ErrFull, except those that make room: deletions
	// and changes of retention, which are taken up to 16 MiB more. Default: no bound but the disk's.
	MaxBytes int64

	// TailEvents and TailBytes bound the recent events kept in memory for subscribers that are caught up.
	// Defaults 4,096 and 4 MiB.
	TailEvents int
	TailBytes  int

	// ScavengeEvery is how often events that retention made expire are removed from disk. Default 10 minutes; negative:
	// only when Scavenge is called.
	ScavengeEvery time.Duration
}

func (o Options) withDefaults() Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	defaultTo(&o.CacheBytes, 8<<20)
	defaultTo(&o.MemTableBytes, 4<<20)
	defaultTo(&o.CachedStreams, 16<<10)
	defaultTo(&o.MaxEventBytes, 4<<20)
	defaultTo(&o.MaxAppendBytes, 32<<20)
	defaultTo(&o.TailEvents, 4<<10)
	defaultTo(&o.TailBytes, 4<<20)
	defaultTo(&o.ScavengeEvery, 10*time.Minute)
	return o
}

func defaultTo[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
