package embedded_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// Seeds that have failed once. They run always.
var seedsThatFailed = []uint64{
	258, // a marker without its manifest: Pebble leaves their order to the file system
}

// campaign says which seeds a seeded test runs. By default a number of them and all that have failed before. The environment
// changes it: SOAK is a number of runs or a duration, SEED the first seed, TIMES how often each is run.
type campaign struct {
	first, count uint64
	times        int
	until        time.Time // zero: count decides
}

func newCampaign(t testing.TB, count uint64) campaign {
	t.Helper()
	c := campaign{count: count, times: 1}
	if testing.Short() {
		c.count = max(1, count/10)
	}
	var err error
	if seed := os.Getenv("SEED"); seed != "" {
		if c.first, err = strconv.ParseUint(seed, 10, 64); err != nil {
			t.Fatalf("SEED: %v", err)
		}
		c.count = 1
	}
	if times := os.Getenv("TIMES"); times != "" {
		if c.times, err = strconv.Atoi(times); err != nil {
			t.Fatalf("TIMES: %v", err)
		}
	}
	if soak := os.Getenv("SOAK"); soak != "" {
		if c.count, err = strconv.ParseUint(soak, 10, 64); err != nil {
			d, err := time.ParseDuration(soak)
			if err != nil {
				t.Fatalf("SOAK=%s is neither a number of runs nor a duration: %v", soak, err)
			}
			c.count, c.until = 1<<62, time.Now().Add(d)
		}
		if os.Getenv("SEED") == "" {
			c.first = uint64(time.Now().UnixNano()) >> 16 // each soak goes where none has been
		}
	}
	return c
}

// run runs seeds on all processors until one fails.
func (c campaign) run(t *testing.T, always []uint64, run func(ctx context.Context, seed uint64) error) {
	t.Helper()
	began := time.Now()
	var runs atomic.Int64
	next := make(chan uint64)
	group, ctx := errgroup.WithContext(t.Context())
	group.Go(func() error {
		defer close(next)
		offer := func(seed uint64) bool {
			for range c.times {
				select {
				case next <- seed:
				case <-ctx.Done():
					return false
				}
			}
			return true
		}
		for _, seed := range always {
			if !offer(seed) {
				return nil
			}
		}
		for seed := c.first; seed-c.first < c.count && (c.until.IsZero() || time.Now().Before(c.until)); seed++ {
			if !offer(seed) {
				return nil
			}
		}
		return nil
	})
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() error {
			for seed := range next {
				// A run that has failed is not made to fail in another way by the end of the others.
				if err := run(context.WithoutCancel(ctx), seed); err != nil {
					return fmt.Errorf("seed %d: %w\nto see it again: SEED=%d TIMES=200 go test -count 1 -run '^%s$' ./eventstore/embedded\nthen put the seed into the list of those that failed",
						seed, err, seed, t.Name())
				}
				runs.Add(1)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("seeds from %d on: %d runs, %.0f a second", c.first, runs.Load(), float64(runs.Load())/time.Since(began).Seconds())
}

// Power fails at any call that changes the disk, with any part of what was not synced lost: while writers append and change
// metadata, while events are scavenged, while tables are written, while the log is closed, opened and recovered. What was
// acknowledged or seen is there, at its place, and of what was not each request is there as a whole or not at all.
func TestPowerLoss(t *testing.T) {
	newCampaign(t, 2500).run(t, seedsThatFailed, func(ctx context.Context, seed uint64) error {
		return newVoyage(seed).run(ctx)
	})
}
