package proxy

import (
	"fmt"
	"slices"
	"testing"

	"github.com/shiplog/shiplog/runtime/internal/nstest"
)

var sizes = []int{10, 1000, 10000}

func BenchmarkRender(b *testing.B) {
	for _, n := range sizes {
		s := big(n)
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Render(s, Options{})
			}
		})
	}
}

// One service of many loses an endpoint, or gets it back.
func BenchmarkUpdate(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			opts, _ := Options{}.withDefaults()
			r := newRenderer(opts)
			next := flicker(n)
			r.update(next())
			r.settle()
			b.ReportAllocs()
			for b.Loop() {
				r.update(next())
				r.delta(0)
				r.settle()
			}
		})
	}
}

func flicker(n int) func() State {
	s := big(n)
	full, less := slices.Clone(s.Slices), slices.Clone(s.Slices)
	less[n/2] = slice(s.Services[n/2], full[n/2].Endpoints[:2]...)
	return func() State {
		full, less = less, full
		s.Slices = full
		return s
	}
}

func BenchmarkFirstSync(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			nstest.Need(b, "iptables")
			s := big(n)
			for b.Loop() {
				p := start(b, Options{})
				apply(b, p, s)
				b.StopTimer()
				if err := p.Teardown(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

func BenchmarkSyncOfOneChange(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			nstest.Need(b, "iptables")
			p := start(b, Options{})
			next := flicker(n)
			apply(b, p, next())
			for b.Loop() {
				apply(b, p, next())
			}
		})
	}
}
