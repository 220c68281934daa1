package embedded_test

import (
	"context"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
)

// payload looks like the JSON that is stored: it repeats itself, but not exactly.
func payload(size, seed int) []byte {
	out := make([]byte, 0, size+64)
	for i := 0; len(out) < size; i++ {
		out = fmt.Appendf(out, `{"name":"web-%d","value":"%08x","phase":"Running"},`, i%10, uint32(i*2654435761+seed))
	}
	return out[:size]
}

// BenchmarkRawSync is the disk itself: write and fdatasync, one after the other. What an append costs is to be read beside it.
func BenchmarkRawSync(b *testing.B) {
	for _, size := range []int{256, 10 << 10} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			f, err := os.Create(filepath.Join(b.TempDir(), "raw"))
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			data := payload(size, 1)
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := f.Write(data); err != nil {
					b.Fatal(err)
				}
				if err := syscall.Fdatasync(int(f.Fd())); err != nil {
					b.Fatal(err)
				}
			}
			perSecond(b, b.N, "syncs/s")
		})
	}
}

func perSecond(b *testing.B, n int, unit string) {
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), unit)
}

// BenchmarkAppend makes durable appends of one event, from one writer and from many.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{256, 10 << 10} {
		for _, writers := range []int{1, 256} {
			b.Run(fmt.Sprintf("%dB/%dwriters", size, writers), func(b *testing.B) {
				log := open(b, b.TempDir(), embedded.Options{Logger: quiet()})
				data := payload(size, 1)
				b.SetBytes(int64(size))
				b.ResetTimer()
				var left atomic.Int64
				left.Store(int64(b.N))
				var group sync.WaitGroup
				for w := range writers {
					group.Go(func() {
						stream, expected := fmt.Sprintf("pods-default/web-%d", w), eventstore.NoStream
						for left.Add(-1) >= 0 {
							a, err := log.Append(context.Background(), stream, expected, eventstore.Proposed{ID: uuid.New(), Type: "PodChanged", Data: data})
							if err != nil {
								b.Error(err)
								return
							}
							expected = eventstore.Exact(a.Revision)
						}
					})
				}
				group.Wait()
				perSecond(b, b.N, "appends/s")
			})
		}
	}
}

// filled returns a log of n events in 2,000 streams, closed and opened again.
func filled(b *testing.B, dir string, n, size int) *embedded.Log {
	log, err := embedded.Open(dir, embedded.Options{Logger: quiet()})
	if err != nil {
		b.Fatal(err)
	}
	for at := 0; at < n; {
		events := make([]eventstore.Proposed, 0, 50)
		for range min(50, n-at) {
			events = append(events, eventstore.Proposed{ID: uuid.New(), Type: "PodChanged", Data: payload(size, at)})
			at++
		}
		if _, err := log.Append(b.Context(), fmt.Sprintf("pods-default/web-%d", at/50%2000), eventstore.Any, events...); err != nil {
			b.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		b.Fatal(err)
	}
	return open(b, dir, embedded.Options{Logger: quiet()})
}

// BenchmarkReadAll reads a log from its beginning, and BenchmarkRawRead the same bytes from a file, with a checksum.
func BenchmarkReadAll(b *testing.B) {
	const events, size = 100_000, 1 << 10
	log := filled(b, b.TempDir(), events, size)
	b.SetBytes(events * size)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		for _, err := range log.ReadAll(b.Context(), eventstore.ReadAll{}) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
	}
	perSecond(b, n, "events/s")
}

func BenchmarkRawRead(b *testing.B) {
	const events, size = 100_000, 1 << 10
	name := filepath.Join(b.TempDir(), "raw")
	f, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	for i := range events {
		if _, err := f.Write(payload(size, i)); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(events * size)
	table := crc32.MakeTable(crc32.Castagnoli)
	var sum uint32
	n := 0
	for b.Loop() {
		f, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		for range events {
			record := make([]byte, size) // as a reader that hands its events on has to
			if _, err := f.Read(record); err != nil {
				b.Fatal(err)
			}
			sum ^= crc32.Checksum(record, table)
			n++
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
	perSecond(b, n, "events/s")
	_ = sum
}

// BenchmarkReadStream reads short streams at random places of a log.
func BenchmarkReadStream(b *testing.B) {
	log := filled(b, b.TempDir(), 100_000, 1<<10)
	n := 0
	for b.Loop() {
		n++
		for _, err := range log.ReadStream(b.Context(), fmt.Sprintf("pods-default/web-%d", n*7919%2000), eventstore.ReadStream{}) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	perSecond(b, n*50, "events/s")
}

// BenchmarkSubscribe measures from the end of an append to its arrival at subscribers.
func BenchmarkSubscribe(b *testing.B) {
	for _, subscribers := range []int{1, 1000} {
		b.Run(fmt.Sprintf("%dsubscribers", subscribers), func(b *testing.B) {
			log := open(b, b.TempDir(), embedded.Options{Logger: quiet()})
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			arrived := make(chan time.Time, subscribers)
			var ready sync.WaitGroup
			ready.Add(subscribers)
			for range subscribers {
				sub, err := log.Subscribe(ctx, eventstore.Subscribe{})
				if err != nil {
					b.Fatal(err)
				}
				go func() {
					if _, err := sub.Next(ctx); err != nil {
						b.Error(err)
					}
					ready.Done()
					for {
						if _, err := sub.Next(ctx); err != nil {
							return
						}
						arrived <- time.Now()
					}
				}()
			}
			ready.Wait()
			var first, last time.Duration
			b.ResetTimer()
			for range b.N {
				if _, err := log.Append(ctx, "s", eventstore.Any, eventstore.Proposed{ID: uuid.New(), Type: "A", Data: payload(256, 1)}); err != nil {
					b.Fatal(err)
				}
				done := time.Now()
				for i := range subscribers {
					at := (<-arrived).Sub(done)
					if i == 0 {
						first += at
					}
					if i == subscribers-1 {
						last += at
					}
				}
			}
			b.ReportMetric(float64(first.Microseconds())/float64(b.N), "µs-to-first")
			b.ReportMetric(float64(last.Microseconds())/float64(b.N), "µs-to-last")
		})
	}
}

// BenchmarkOpen opens a log of 100,000 events.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	if err := filled(b, dir, 100_000, 1<<10).Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		log, err := embedded.Open(dir, embedded.Options{Logger: quiet()})
		if err != nil {
			b.Fatal(err)
		}
		if err := log.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkScavenge removes short-lived streams, each of which has metadata of its own, as core Events of a cluster do.
func BenchmarkScavenge(b *testing.B) {
	c := newClock()
	log := open(b, b.TempDir(), embedded.Options{Logger: quiet(), Now: c.Now})
	var left atomic.Int64
	left.Store(int64(b.N))
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			for left.Add(-1) >= 0 {
				stream := "events-default/web-" + uuid.NewString()
				if _, err := log.Append(b.Context(), stream, eventstore.NoStream, eventstore.Proposed{Type: "EventCreated", Data: payload(900, 1)}); err != nil {
					b.Error(err)
				}
				if err := log.SetMetadata(b.Context(), stream, eventstore.NoStream, eventstore.Metadata{MaxAge: time.Hour}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	group.Wait()
	c.now = c.now.Add(2 * time.Hour)
	b.ResetTimer()
	if removed, err := log.Scavenge(b.Context()); err != nil || removed != b.N {
		b.Errorf("removed %d, %v", removed, err)
	}
	perSecond(b, b.N, "streams/s")
}
