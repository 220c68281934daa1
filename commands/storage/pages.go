package storage

import (
	"sync"

	"github.com/shiplog/shiplog/projections"
)

// maxPages bounds the states kept for lists that are read in pages. A state shares all but its changes with the current one.
const maxPages = 32

// pages remembers the states that lists were begun from, so that their next pages show the same moment without asking history.
type pages struct {
	mu    sync.Mutex
	order []uint64
	by    map[uint64]projections.Reader
}

func newPages() *pages { return &pages{by: map[uint64]projections.Reader{}} }

func (p *pages) keep(s source) {
	if s.reader == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.by[s.position]; ok {
		return
	}
	p.by[s.position] = s.reader
	p.order = append(p.order, s.position)
	if len(p.order) > maxPages {
		delete(p.by, p.order[0])
		p.order = p.order[1:]
	}
}

func (p *pages) find(position uint64) projections.Reader {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.by[position]
}

// forget drops everything kept.
func (p *pages) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.order, p.by = nil, map[uint64]projections.Reader{}
}
