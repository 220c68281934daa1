// Package tasks lets one goroutine that owns some state have slow things done by others, so many at a time, without locks.
package tasks

import "context"

// Pool carries out tasks. It belongs to one goroutine: what a task returns is run by that goroutine, which reads it from Done.
// Until Running is 0 that goroutine must go on reading.
type Pool struct {
	Limit   int         // how many tasks run at a time
	Done    chan func() // may be shared by several pools of one owner
	running int
	waiting []Task
}

// Task does something slow and returns what its owner is to do about the outcome.
type Task func(ctx context.Context) (after func())

// Submit has a task carried out once there is room. Tasks start in the order in which they come.
func (p *Pool) Submit(ctx context.Context, t Task) {
	p.waiting = append(p.waiting, t)
	p.start(ctx)
}

// Running is how many tasks run.
func (p *Pool) Running() int { return p.running }

// Waiting is how many tasks have not started.
func (p *Pool) Waiting() int { return len(p.waiting) }

func (p *Pool) start(ctx context.Context) {
	for p.running < p.Limit && len(p.waiting) > 0 && ctx.Err() == nil {
		t := p.waiting[0]
		p.waiting[0] = nil
		p.waiting = p.waiting[1:]
		p.running++
		go func() {
			after := t(ctx)
			p.Done <- func() {
				p.running--
				after()
				p.start(ctx)
			}
		}()
	}
}
