package scheduler

import "context"

// pool carries out tasks, so many at a time. It belongs to one goroutine: what a task returns is run by that goroutine, which
// reads it from done.
type pool struct {
	limit   int
	running int
	waiting []task
	done    chan func()
}

type task func(ctx context.Context) (after func())

func (p *pool) submit(ctx context.Context, t task) {
	p.waiting = append(p.waiting, t)
	p.start(ctx)
}

func (p *pool) start(ctx context.Context) {
	for p.running < p.limit && len(p.waiting) > 0 && ctx.Err() == nil {
		t := p.waiting[0]
		p.waiting[0] = nil
		p.waiting = p.waiting[1:]
		p.running++
		go func() {
			after := t(ctx)
			p.done <- func() {
				p.running--
				after()
				p.start(ctx)
			}
		}()
	}
}
