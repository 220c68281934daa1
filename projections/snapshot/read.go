package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections/live"
)

// fill reads the frames into a base: one goroutine reads, as many as there are processors unpack, one puts.
func (d *Dir) fill(ctx context.Context, r *reader, base *live.Base) error {
	workers := runtime.GOMAXPROCS(0)
	type task struct {
		frame packed
		out   chan batch
	}
	tasks := make(chan task)
	ordered := make(chan task, 2*workers)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(tasks)
		defer close(ordered)
		for {
			frame, err := r.next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			t := task{frame, make(chan batch, 1)}
			for _, to := range []chan task{ordered, tasks} {
				select {
				case to <- t:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
	})
	for range workers {
		group.Go(func() error {
			decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxFrame))
			if err != nil {
				return err
			}
			defer decoder.Close()
			for t := range tasks {
				raw, err := t.frame.unpack(decoder)
				if err != nil {
					return err
				}
				b, err := parseFrame(d.Kinds, raw)
				if err != nil {
					return err
				}
				t.out <- b
			}
			return nil
		})
	}
	group.Go(func() error {
		for t := range ordered {
			select {
			case b := <-t.out:
				for _, e := range b.entries {
					base.Objects.PutIndexed(e.object, b.indexes, e.values)
					if e.broken {
						base.Broken[nameOf(e.object.Ref)] = struct{}{}
					}
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	return group.Wait()
}

func nameOf(r domain.Ref) domain.Ref {
	r.UID = ""
	return r
}

// unusable makes an error of the log of what it is, and an UnusableError of everything else that is wrong with a snapshot.
func unusable(path string, err error) error {
	var m *misfit
	if errors.As(err, &m) || errors.Is(err, errDamaged) {
		return &UnusableError{Path: path, Err: err}
	}
	return fmt.Errorf("%s: %w", path, err)
}
