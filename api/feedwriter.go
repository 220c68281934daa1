package api

import (
	"bufio"
	"sync"
	"time"

	"github.com/shiplog/shiplog/domain"
)

var nodesResource = domain.Resource{Resource: "nodes"}

// feedWriter writes lines, and a sign of life when there are none.
type feedWriter struct {
	mu    sync.Mutex
	w     *bufio.Writer
	flush func()
	wrote bool
}

func (f *feedWriter) lines(lines [][]byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wrote = true
	for _, l := range lines {
		if _, err := f.w.Write(l); err != nil {
			return err
		}
		if err := f.w.WriteByte('\n'); err != nil {
			return err
		}
	}
	if err := f.w.Flush(); err != nil {
		return err
	}
	f.flush()
	return nil
}

// beat writes an empty line whenever nothing else was written for a while.
func (f *feedWriter) beat(every time.Duration) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			f.mu.Lock()
			quiet := !f.wrote
			f.wrote = false
			f.mu.Unlock()
			if quiet && f.lines([][]byte{nil}) != nil {
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}
