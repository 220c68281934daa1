package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/shiplog/shiplog/eventstore"
)

// Log is a log in a directory. It is safe for use by any number of goroutines.
type Log struct {
	dir     string
	opts    Options
	log     *slog.Logger
	lock    io.Closer
	fuse    *fuse
	cache   *pebble.Cache
	db      *pebble.DB
	streams *streams
	tail    tail
	recent  *recentIDs
	queue   *queue
	notify  chan struct{} // there are pendingWakes
	crowded chan struct{} // the disk is full, or the log as large as it may be

	wakes        sync.Mutex
	pendingWakes []chan struct{} // to be closed, which tells subscribers that the tail has grown

	// Only the committer uses these.
	disk       diskGuard
	mark       *headMark
	nextStream uint64              // id of the next new stream
	lastTicks  uint64              // date of the latest event
	unsampled  int                 // events since the last sample of the time index
	digest     eventstore.Digest   // of the head
	importedTo eventstore.Position // up to here events may have been imported since the log was opened

	format int // 1 only while a log of that format is open for reading

	use     sync.RWMutex // held for reading while the database is used, for writing to close it
	closed  bool
	closing chan struct{}
	workers sync.WaitGroup

	full       atomic.Bool           // the disk guard refuses writes
	flushError atomic.Pointer[error] // why what is in memory cannot be written to a table just now
	stall      atomic.Bool           // Pebble waits for that before it takes more

	retaining  sync.Mutex    // is held while events are removed, and while a change of a retention becomes durable
	scavenging atomic.Int64  // how many are removing events just now
	scavenged  atomic.Uint64 // how often events have been removed
}

var (
	_ eventstore.Log         = (*Log)(nil)
	_ eventstore.TimeIndexed = (*Log)(nil)
	_ eventstore.Chained     = (*Log)(nil)
)

// Open opens the log in a directory, which it creates unless opts.ReadOnly is set. It returns ErrLocked when another process has
// the log open, ErrVersion when a newer build wrote it, and ErrCorrupt when it is damaged beyond what a crash explains.
func Open(dir string, opts Options) (*Log, error) {
	opts = opts.withDefaults()
	l := &Log{
		dir: dir, opts: opts, log: opts.Logger.With("log", dir),
		closing: make(chan struct{}), notify: make(chan struct{}, 1), crowded: make(chan struct{}, 1), queue: newQueue(),
		tail:   tail{maxEvents: opts.TailEvents, maxBytes: opts.TailBytes},
		recent: newRecentIDs(opts.TailEvents),
	}
	l.disk.l = l
	l.fuse = newFuse(opts.FS, func(cause error) {
		l.log.Error("the log takes no more writes: writing to disk failed; restart to recover", "error", cause)
	})
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("opening the log in %s: %w", dir, err)
	}
	if !opts.ReadOnly {
		l.workers.Go(l.commitLoop)
		l.workers.Go(l.wakeLoop)
		if opts.ScavengeEvery > 0 {
			l.workers.Go(l.scavengeLoop)
		}
	}
	return l, nil
}

func (l *Log) open() (err error) {
	fs := l.opts.FS
	if l.opts.ReadOnly {
		if _, err := fs.Stat(l.dir); err != nil {
			return err
		}
	} else if err := fs.MkdirAll(l.dir, 0o700); err != nil {
		return err
	}
	if l.format, err = readFormat(fs, l.dir); err != nil {
		return err
	}
	exists := l.format > 0
	if !exists && l.opts.ReadOnly {
		return errors.New("there is no log in it")
	}
	if l.lock, err = lockDir(fs, l.dir, l.opts.ReadOnly); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			close(l.closing) // background work that meets damage does not wait to meet it again
			err = errors.Join(err, l.release())
		}
	}()
	if l.streams, err = newStreams(l.opts.CachedStreams, l.tail.current); err != nil {
		return err
	}
	// Pebble takes the memory of its memtables, of which there are mostly two, out of the cache.
	l.cache = pebble.NewCache(l.opts.CacheBytes + 2*int64(l.opts.MemTableBytes))
	if err := l.openPebble(exists); err != nil {
		return openError(err)
	}
	if err := errors.Join(l.recover(), l.fuse.blown()); err != nil {
		return err
	}
	if err := checkHeadMark(fs, l.dir, l.tail.head); err != nil {
		return err
	}
	if !l.opts.ReadOnly {
		if l.mark, err = openHeadMark(fs, l.dir); err != nil {
			return err
		}
	}
	if l.format == format || exists && l.opts.ReadOnly {
		return nil
	}
	if !exists && l.tail.head > 0 {
		return fmt.Errorf("%w: %s is missing beside %d events: restore the directory from a backup", eventstore.ErrCorrupt, formatFile, l.tail.head)
	}
	if exists {
		if err := l.upgrade(); err != nil {
			return fmt.Errorf("upgrading from format %d: %w", l.format, err)
		}
	}
	if err := writeFormat(fs, l.dir); err != nil {
		return err
	}
	l.format = format
	return syncDir(fs, fs.PathDir(l.dir))
}

func (l *Log) openPebble(exists bool) error {
	type opened struct {
		db  *pebble.DB
		err error
	}
	done := make(chan opened, 1)
	go func() {
		var o opened
		defer func() {
			if r := recover(); r != nil { // some failures of the disk end in a panic
				o = opened{err: fmt.Errorf("%w: %v", eventstore.ErrUnavailable, r)}
			}
			done <- o
		}()
		o.db, o.err = pebble.Open(l.opts.FS.PathJoin(l.dir, dbDir), l.pebbleOptions(exists))
	}()
	select {
	case o := <-done:
		if o.err == nil {
			l.db = o.db
			l.fuse.armed.Store(true)
		}
		return o.err
	case <-l.fuse.gone: // Pebble may wait for ever for a table that is not written any more
		l.fuse.armed.Store(true)
		return l.fuse.blown()
	}
}

func openError(err error) error {
	switch {
	case pebble.IsCorruptionError(err), errors.Is(err, pebble.ErrDBDoesNotExist), errors.As(err, new(pebble.ErrMissingWALRecoveryDir)),
		strings.Contains(err.Error(), " name from file "): // all logs have the same comparer and merger
		return fmt.Errorf("%w beyond what a crash explains: %w; restore the directory from a backup", eventstore.ErrCorrupt, err)
	default:
		return err
	}
}

func (l *Log) pebbleOptions(exists bool) *pebble.Options {
	o := &pebble.Options{
		FS:                          l.fuse,
		Cache:                       l.cache,
		MemTableSize:                l.opts.MemTableBytes,
		MemTableStopWritesThreshold: 4,
		MaxOpenFiles:                256,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       32,
		LBaseMaxBytes:               32 << 20,
		FormatMajorVersion:          pebble.FormatNewest,
		ErrorIfNotExists:            exists,
		ReadOnly:                    l.opts.ReadOnly,
		Logger:                      pebbleLogger{l},
		CompactionConcurrencyRange:  func() (int, int) { return 1, 1 },
		EventListener: &pebble.EventListener{
			BackgroundError: l.backgroundError, DataCorruption: l.dataCorruption,
			FlushEnd: l.flushed, WriteStallBegin: l.stalled, WriteStallEnd: l.unstalled,
		},
	}
	// Zstd would save a fifth of the disk and cost every reader of history a quarter of its speed: identifiers and digests, which do
	// not compress, are most of what is left.
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionFastest })
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		o.Levels[i].BlockSize = 16 << 10 // events are mostly read one after the other, and larger blocks compress better
	}
	return o
}

// recover finds out where the log stands.
func (l *Log) recover() error {
	last, err := l.lastEntry(math.MaxUint64 - 1)
	if err != nil {
		return err
	}
	l.lastTicks, l.digest = last.ticks, last.digest
	if l.lastTicks, err = l.latestSample(l.lastTicks); err != nil {
		return err
	}
	head := last.position
	value, found, err := database{l.db}.get([]byte{headKey})
	if err != nil {
		return err
	}
	if found {
		var position, ticks uint64
		if !readVarints(value, &position, &ticks) {
			return fmt.Errorf("%w: the head does not parse; restore the directory from a backup", eventstore.ErrCorrupt)
		}
		head, l.lastTicks = max(head, eventstore.Position(position)), max(l.lastTicks, ticks)
	}
	l.tail.start(head)
	l.recent.from = head + 1
	l.unsampled = sampleEvery - 1 // the next event is a sample, since nobody counted how many there were since the last
	key, found, err := l.lastKey(nameKey)
	if err != nil {
		return err
	}
	l.nextStream = 1
	if found {
		l.nextStream = numberIn(key, 0) + 1
	}
	it, err := database{l.db}.iter([]byte{retentionKey}, []byte{retentionKey + 1})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; ok = it.Next() {
		l.streams.limited[numberIn(it.Key(), 0)] = struct{}{}
	}
	return closeIter(it)
}

// latestSample returns the date of the last sample of the time index, unless it is before the given one: dates that were
// imported may have gone back.
func (l *Log) latestSample(ticks uint64) (uint64, error) {
	key, found, err := l.lastKey(timeKey)
	if found {
		ticks = max(ticks, numberIn(key, 0))
	}
	return ticks, err
}

func (l *Log) lastKey(prefix byte) (key []byte, found bool, err error) {
	it, err := database{l.db}.iter([]byte{prefix}, []byte{prefix + 1})
	if err != nil {
		return nil, false, err
	}
	defer it.Close()
	if it.Last() {
		return append([]byte(nil), it.Key()...), true, nil
	}
	return nil, false, readError(it.Error())
}

// Head is the position of the last committed event.
func (l *Log) Head(ctx context.Context) (eventstore.Position, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	release, err := l.acquire()
	if err != nil {
		return 0, err
	}
	defer release()
	return l.tail.current(), nil
}

// acquire keeps the log open until the function that it returns is called.
func (l *Log) acquire() (release func(), err error) {
	l.use.RLock()
	if l.closed {
		l.use.RUnlock()
		return nil, eventstore.ErrClosed
	}
	return l.use.RUnlock, nil
}

// Close ends all subscriptions, waits for the appends that have begun, and gives the directory back.
func (l *Log) Close() error {
	if !l.queue.close() {
		return nil
	}
	close(l.closing)
	l.workers.Wait()
	l.queue.refuse(eventstore.ErrClosed)
	l.use.Lock()
	defer l.use.Unlock()
	l.closed = true
	if err := l.release(); err != nil {
		return fmt.Errorf("closing the log in %s: %w", l.dir, err)
	}
	return nil
}

func (l *Log) release() error {
	var err error
	// After a failed write Pebble has been brought to a halt, and closing it would wait for ever. Nothing that is left of it
	// reaches the disk, so the directory can be given back.
	if l.db != nil && l.fuse.blown() == nil {
		if err = l.fuse.await(l.db.Close); l.fuse.blown() != nil {
			err = nil // it blew while Pebble ended its work
		}
	}
	if l.cache != nil && l.fuse.blown() == nil {
		l.cache.Unref()
	}
	if l.mark != nil {
		if merr := l.mark.close(); merr != nil && l.fuse.blown() == nil {
			err = errors.Join(err, fmt.Errorf("marking the head: %w", merr))
		}
	}
	return errors.Join(err, l.lock.Close())
}

// backgroundError is called when a flush or a compaction failed. Pebble tries again at once, so this slows it down.
func (l *Log) backgroundError(err error) {
	if l.fuse.blown() != nil {
		if l.fuse.armed.Load() {
			runtime.Goexit() // gives back Pebble's lock, and it does not try again
		}
		return // while Pebble is opened it waits for its work
	}
	if !l.fuse.armed.Load() && !pebble.IsCorruptionError(err) {
		l.fuse.blow(fmt.Errorf("opening: %w", err)) // it would try again until there is room, and who opens would wait
		return
	}
	select {
	case <-l.closing:
		if !pebble.IsCorruptionError(err) { // closing would wait for it to succeed; what it is about is in the write-ahead log
			l.fuse.blow(fmt.Errorf("closing: %w", err))
		}
		return
	default:
	}
	l.log.Error("background work of the log failed; it is tried again", "error", err)
	l.pause()
}

// flushed is called when a table was written, or could not be. Until one is, no more events are taken: they are safe in the write-ahead
// log, but memory would fill up and the writers wait, for as long as the disk is full.
func (l *Log) flushed(info pebble.FlushInfo) {
	if info.Err == nil || strings.HasSuffix(info.Err.Error(), "empty table") { // nothing was in memory
		l.flushError.Store(nil)
		return
	}
	l.flushError.Store(&info.Err)
	if l.stall.Load() {
		l.fuse.blow(fmt.Errorf("writing what is in memory to a table: %w", info.Err))
	}
}

// stalled is called when a commit has to wait for a table. One that cannot be written would keep it waiting.
func (l *Log) stalled(pebble.WriteStallBeginInfo) {
	l.stall.Store(true)
	if cause := l.flushError.Load(); cause != nil {
		l.fuse.blow(fmt.Errorf("writing what is in memory to a table: %w", *cause))
	}
}

func (l *Log) unstalled() { l.stall.Store(false) }

// flushRefusal returns ErrUnavailable while what is in memory cannot be written to a table.
func (l *Log) flushRefusal() error {
	if cause := l.flushError.Load(); cause != nil {
		return fmt.Errorf("%w: writing a table failed and is tried again; is the disk full? %w", eventstore.ErrUnavailable, *cause)
	}
	return nil
}

// dataCorruption is called when a table does not read. Whoever reads it gets ErrCorrupt; Pebble would end the process.
func (l *Log) dataCorruption(info pebble.DataCorruptionInfo) {
	l.log.Error("a table of the log is damaged; restore the directory from a backup", "file", info.Path, "error", info.Details)
}

// pebbleLogger passes on what Pebble has to say.
type pebbleLogger struct{ l *Log }

func (p pebbleLogger) Infof(format string, args ...any) {
	if p.l.log.Enabled(context.Background(), slog.LevelDebug) {
		p.l.log.Debug(fmt.Sprintf(format, args...))
	}
}

func (p pebbleLogger) Errorf(format string, args ...any) { p.l.log.Error(fmt.Sprintf(format, args...)) }

// Fatalf is how Pebble says that it can go on no more. We go on reading.
func (p pebbleLogger) Fatalf(format string, args ...any) {
	p.l.fuse.blow(fmt.Errorf(format, args...))
}

var _ vfs.FS = (*fuse)(nil)
