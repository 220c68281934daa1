package logreplay_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections/logreplay"
	"github.com/shiplog/shiplog/projections/projectiontest"
)

// failingRead is a log that cannot be read beyond a position.
type failingRead struct {
	eventstore.Log
	after eventstore.Position
	err   error
}

func (f failingRead) ReadAll(ctx context.Context, opts eventstore.ReadAll) iter.Seq2[eventstore.Recorded, error] {
	return func(yield func(eventstore.Recorded, error) bool) {
		for r, err := range f.Log.ReadAll(ctx, opts) {
			if err == nil && r.Position > f.after {
				err = f.err
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

// However many goroutines fold, the first event of a newer build is the one that is told of, whichever of them meets one, and a log that
// cannot be read is told of when there is none ahead. In a bubble a goroutine that is left behind is an error.
func TestTheFirstErrorIsTold(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	unreadable := errors.New("unreadable")
	for _, processors := range []int{1, 2, 7} {
		runtime.GOMAXPROCS(processors)
		for name, c := range map[string]struct {
			newer    []int // events, of 1 to 1000
			readable int   // the last event that can be read
			want     string
		}{
			"two that are newer":              {[]int{400, 401}, 1000, "newer-400"},
			"one that is newer, at the end":   {[]int{1000}, 1000, "newer-1000"},
			"one ahead of what is unreadable": {[]int{3}, 4, "newer-3"},
			"one behind what is unreadable":   {[]int{900}, 600, "unreadable"},
			"none":                            {nil, 1000, ""},
		} {
			synctest.Test(t, func(t *testing.T) {
				log := projectiontest.NewLog()
				scribe := projectiontest.NewScribe(log, domain.NewSet(domain.Kinds()))
				var at [1001]uint64
				for i := 1; i < len(at); i++ {
					e := domain.Event{Ref: domain.Ref{Resource: "pods", Namespace: "default", Name: fmt.Sprintf("pod-%d", i)}, Op: domain.Created, Type: "PodCreated", Change: []byte(`{}`)}
					for _, n := range c.newer {
						if n == i {
							e.Ref.Name, e.Type, e.Mandatory = fmt.Sprintf("newer-%d", i), "PodTeleported", true
						}
					}
					made, err := scribe.Force(t.Context(), e)
					if err != nil {
						t.Fatal(err)
					}
					at[i] = made.Position
				}
				disk := failingRead{log, eventstore.Position(at[c.readable]), unreadable}
				_, err := logreplay.ViewAt(t.Context(), disk, domain.NewSet(domain.Kinds()), at[1000])
				switch {
				case (err != nil) != (c.want != ""):
					t.Errorf("%s, %d processors: got error %v", name, processors, err)
				case c.want == "unreadable" && !errors.Is(err, unreadable), strings.HasPrefix(c.want, "newer") && !errors.Is(err, domain.ErrNewer), err != nil && !strings.Contains(err.Error(), c.want):
					t.Errorf("%s, %d processors: got error %v, want %s", name, processors, err, c.want)
				}
			})
		}
	}
}
