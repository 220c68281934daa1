package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/esdb"
)

// The sizes and numbers of writers with which durable appends are measured, everywhere the same.
var (
	appendSizes   = []int{256, 10 << 10}
	appendWriters = []int{1, 256}
)

// Each figure is the best of this many slices, taken in turns with what it is compared with: the disk of a shared machine is not
// the same from one second to the next.
const (
	turns     = 4
	sliceTime = 2 * time.Second
)

// measureLog measures durable appends beside the disk's own rate and, where it has been built, beside etcd.
func measureLog(ctx context.Context, b *bench) error {
	for _, size := range appendSizes {
		for _, writers := range appendWriters {
			if err := b.measureAppends(ctx, size, writers); err != nil {
				return fmt.Errorf("%d B, %d writers: %w", size, writers, err)
			}
		}
	}
	return errors.Join(b.measureFanOut(ctx), b.measureRevisions(ctx))
}

// contender is one way to make data durable.
type contender struct {
	what  string
	write func(writer *writer) error
	best  float64
}

// writer is one of those who write at the same time. It knows where its stream stands.
type writer struct {
	stream   string
	expected eventstore.Expected
}

func (b *bench) measureAppends(ctx context.Context, size, clients int) error {
	dir, remove, err := tempDir()
	if err != nil {
		return err
	}
	defer remove()
	data := repetitive(size)

	growing, err := os.Create(filepath.Join(dir, "growing"))
	if err != nil {
		return err
	}
	defer growing.Close()
	inPlace, err := preallocated(filepath.Join(dir, "preallocated"), 64<<20)
	if err != nil {
		return err
	}
	defer inPlace.Close()
	quiet := slog.New(slog.DiscardHandler)
	log, err := embedded.Open(filepath.Join(dir, "log"), embedded.Options{Logger: quiet})
	if err != nil {
		return err
	}
	defer log.Close()
	server, err := b.serveLog(ctx, filepath.Join(dir, "served"))
	if err != nil {
		return err
	}
	defer server.stop()
	remote, err := esdb.Open(ctx, server.connection(), esdb.Options{Logger: quiet})
	if err != nil {
		return err
	}
	defer remote.Close()
	for _, l := range []eventstore.Log{log, remote} {
		if err := wearIn(ctx, l, data); err != nil {
			return err
		}
	}

	appendTo := func(log eventstore.Log) func(*writer) error {
		return func(w *writer) error {
			a, err := log.Append(ctx, w.stream, w.expected, eventstore.Proposed{ID: uuid.New(), Type: "PodChanged", Data: data})
			w.expected = eventstore.Exact(a.Revision)
			return err
		}
	}
	var offset int64
	contenders := []*contender{
		{what: "embedded log", write: appendTo(log)},
		{what: "protocol, official client, another process", write: appendTo(remote)},
	}
	if clients == 1 {
		contenders = append(contenders,
			&contender{what: "raw: write to a growing file, fdatasync", write: func(*writer) error {
				if _, err := growing.Write(data); err != nil {
					return err
				}
				return syscall.Fdatasync(int(growing.Fd()))
			}},
			&contender{what: "raw: write to a preallocated file, fdatasync", write: func(*writer) error {
				if _, err := inPlace.WriteAt(data, offset%(63<<20)); err != nil {
					return err
				}
				offset += int64(size)
				return syscall.Fdatasync(int(inPlace.Fd()))
			}},
		)
	}
	if b.etcd.there() {
		contenders = append(contenders, &contender{what: "etcd " + b.etcd.version + ", its benchmark's put"})
	}
	for range turns {
		for _, c := range contenders {
			rate, err := b.slice(ctx, c, size, clients)
			if err != nil {
				return fmt.Errorf("%s: %w", c.what, err)
			}
			c.best = max(c.best, rate)
		}
	}
	for _, c := range contenders {
		b.report(fmt.Sprintf("durable appends, %d B, %d writer(s): %s", size, clients, c.what), "%.0f/s", c.best)
	}
	return nil
}

// wearIn writes until the log has as many write-ahead logs as it ever has. From then on it writes over those it has done with, which
// a disk makes durable sooner than what makes a file longer.
func wearIn(ctx context.Context, log eventstore.Log, data []byte) error {
	const bytes, together = 96 << 20, 256 << 10
	for written := 0; written < bytes; {
		var events []eventstore.Proposed
		for size := 0; size < together; size += len(data) {
			events = append(events, eventstore.Proposed{ID: uuid.New(), Type: "PodChanged", Data: data})
		}
		if _, err := log.Append(ctx, "pods-default/worn-in", eventstore.Any, events...); err != nil {
			return fmt.Errorf("wearing the log in: %w", err)
		}
		written += together
	}
	return nil
}

func (b *bench) slice(ctx context.Context, c *contender, size, clients int) (perSecond float64, err error) {
	if c.write == nil {
		return b.etcd.put(ctx, size, clients)
	}
	free := make(chan *writer, clients)
	for range clients {
		free <- &writer{stream: "pods-default/" + uuid.NewString(), expected: eventstore.NoStream}
	}
	perSecond, _, _, err = load(clients, sliceTime, func() error {
		w := <-free
		defer func() { free <- w }()
		return c.write(w)
	})
	return perSecond, err
}

// repetitive is data that repeats itself, but not exactly, as JSON does.
func repetitive(size int) []byte {
	out := make([]byte, 0, size+64)
	for i := 0; len(out) < size; i++ {
		out = fmt.Appendf(out, `{"name":"web-%d","value":"%08x","phase":"Running"},`, i%10, uint32(i*2654435761))
	}
	return out[:size]
}

// preallocated makes a file all of whose blocks are on disk, so that overwriting it changes no metadata.
func preallocated(name string, size int) (*os.File, error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	if _, err = f.Write(make([]byte, size)); err == nil {
		err = f.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// measureFanOut follows a log with a thousand subscribers and measures until the last of them has everything.
func (b *bench) measureFanOut(ctx context.Context) error {
	const subscribers, events = 1000, 5000
	dir, remove, err := tempDir()
	if err != nil {
		return err
	}
	defer remove()
	log, err := embedded.Open(filepath.Join(dir, "log"), embedded.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer log.Close()
	done := make(chan error, subscribers)
	for range subscribers {
		sub, err := log.Subscribe(ctx, eventstore.Subscribe{})
		if err != nil {
			return err
		}
		if _, err := sub.Next(ctx); err != nil { // caught up with nothing
			return err
		}
		go func() {
			n := 0
			var err error
			for n < events && err == nil {
				var batch eventstore.Batch
				batch, err = sub.Next(ctx)
				n += len(batch.Events)
			}
			done <- errors.Join(err, sub.Close())
		}()
	}
	began := time.Now()
	left := make(chan struct{}, events)
	for range events {
		left <- struct{}{}
	}
	close(left)
	failed := make(chan error, 64)
	data := repetitive(256)
	for range cap(failed) {
		go func() {
			stream := "pods-default/" + uuid.NewString()
			for range left {
				if _, err := log.Append(ctx, stream, eventstore.Any, eventstore.Proposed{ID: uuid.New(), Type: "PodChanged", Data: data}); err != nil {
					failed <- err
					return
				}
			}
			failed <- nil
		}()
	}
	for range cap(failed) {
		if err := <-failed; err != nil {
			return err
		}
	}
	appended := time.Since(began)
	for range subscribers {
		if err := <-done; err != nil {
			return err
		}
	}
	all := time.Since(began)
	b.report("fan-out: 5,000 events appended by 64 writers, 1,000 subscribers", "appended in %d ms, all delivered after %d ms, %.1f million deliveries/s",
		appended.Milliseconds(), all.Milliseconds(), subscribers*events/all.Seconds()/1e6)
	return nil
}
