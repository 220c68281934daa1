package main

import (
	"fmt"
	"os"
	"time"

	"github.com/shiplog/shiplog/eventstore"
)

// progress says on stderr how a long task comes along: one line that changes on a terminal, a line every few seconds elsewhere.
type progress struct {
	what     string
	terminal bool
	last     time.Time
	said     bool
}

func newProgress(what string) *progress {
	info, err := os.Stderr.Stat()
	return &progress{what: what, terminal: err == nil && info.Mode()&os.ModeCharDevice != 0, last: time.Now()}
}

// at says where the task is, unless it has said so just now.
func (p *progress) at(position, head eventstore.Position) {
	every := 5 * time.Second
	if p.terminal {
		every = 200 * time.Millisecond
	}
	now := time.Now()
	if now.Sub(p.last) < every {
		return
	}
	p.last, p.said = now, true
	line := fmt.Sprintf("%s: position %d of %d (%d%%)", p.what, position, head, 100*uint64(position)/max(uint64(head), 1))
	if p.terminal {
		fmt.Fprintf(os.Stderr, "\r\033[K%s", line)
		return
	}
	fmt.Fprintln(os.Stderr, line)
}

// end leaves the line.
func (p *progress) end() {
	if p.terminal && p.said {
		fmt.Fprintln(os.Stderr)
	}
}
