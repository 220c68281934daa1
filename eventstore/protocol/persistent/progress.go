package persistent

import "sort"

// skipWeight is how many places passed over count as one event, so that a group whose filter admits little does not read the
// same log again after each restart, and its own checkpoints do not make it write the next one.
const skipWeight = 1000

// progress knows up to which place everything is finished, of what is begun in order and finished in any.
type progress struct {
	steps []step // begun, the first of them not finished
	// reached is the place up to which everything is finished, if anything is.
	reached  uint64
	anything bool
	finished int    // events finished since the last mark
	skipped  uint64 // places passed over since the last mark
}

type step struct {
	place    uint64
	finished bool
	skip     bool
}

// begin says that a place is being worked on. Places come in order.
func (p *progress) begin(place uint64) { p.steps = append(p.steps, step{place: place}) }

// pass says that there is nothing to do up to a place.
func (p *progress) pass(place uint64) {
	if n := len(p.steps); n > 0 && p.steps[n-1].skip {
		p.steps[n-1].place = place
		return
	}
	p.steps = append(p.steps, step{place: place, finished: true, skip: true})
	p.advance()
}

// finish says that a place is done with.
func (p *progress) finish(place uint64) {
	i := sort.Search(len(p.steps), func(i int) bool { return p.steps[i].place >= place })
	if i < len(p.steps) && p.steps[i].place == place {
		p.steps[i].finished = true
		p.advance()
	}
}

func (p *progress) advance() {
	for len(p.steps) > 0 && p.steps[0].finished {
		s := p.steps[0]
		if s.skip && p.anything {
			p.skipped += s.place - p.reached
		} else if !s.skip {
			p.finished++
		}
		p.reached, p.anything = s.place, true
		p.steps = p.steps[1:]
	}
}

// since is how many events are finished since the last mark.
func (p *progress) since() int { return p.finished + int(p.skipped/skipWeight) }

// mark begins counting anew.
func (p *progress) mark() { p.finished, p.skipped = 0, 0 }
