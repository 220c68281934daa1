package persistent

import (
	"slices"
	"time"
)

// latencies are the times that a consumer took over its last events.
type latencies struct {
	last []time.Duration
	next int
}

// latenciesKept is how many are looked at.
const latenciesKept = 1000

func (l *latencies) add(d time.Duration) {
	if len(l.last) < latenciesKept {
		l.last = append(l.last, d)
		return
	}
	l.last[l.next] = d
	l.next = (l.next + 1) % latenciesKept
}

// Measurement is a number with a name.
type Measurement struct {
	Key   string
	Value int64 // milliseconds
}

// measurements tells how the times are spread, in EventStoreDB's words.
func (l *latencies) measurements() []Measurement {
	if len(l.last) == 0 {
		return nil
	}
	sorted := slices.Clone(l.last)
	slices.Sort(sorted)
	var sum time.Duration
	for _, d := range sorted {
		sum += d
	}
	at := func(permille int) time.Duration { return sorted[(len(sorted)-1)*permille/1000] }
	var out []Measurement
	for _, m := range []struct {
		key string
		d   time.Duration
	}{
		{"Mean", sum / time.Duration(len(sorted))},
		{"Median", at(500)},
		{"Fastest", sorted[0]},
		{"Quintile 1", at(200)},
		{"Quintile 2", at(400)},
		{"Quintile 3", at(600)},
		{"Quintile 4", at(800)},
		{"Quintile 5", at(1000)},
		{"90%", at(900)},
		{"95%", at(950)},
		{"99%", at(990)},
		{"99.5%", at(995)},
		{"99.9%", at(999)},
		{"Highest", at(1000)},
	} {
		out = append(out, Measurement{m.key, m.d.Milliseconds()})
	}
	return out
}
