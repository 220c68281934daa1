package persistent

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

// scene plays a script against a core. Each line is "command -> what the core wants done"; lines are checked one by one.
//
//	join a 2           consumer a comes, with two slots
//	leave a            and goes
//	read 1 2@s         events are read, of a stream or of none in particular
//	pass 9             there is nothing for the group up to here
//	replay 1           the event that was parked at 1 is handed out again
//	ack 1; nack a 1 park|retry|skip|stop
//	parked 1           it is safely aside
//	time 30s           time passes
//	checkpoint         what is to be remembered, now
//	wake               when the core wants to be asked again
//
// What it wants: "a:1" hand 1 to a, "a:1r2" for the second retry, "park:1", "take:a:1", "drop:a".
type scene struct {
	core  *core
	now   time.Time
	begun time.Time
	names map[string]*consumer
	known map[string]*message
}

func ids(n string) uuid.UUID { return uuid.NewSHA1(uuid.Nil, []byte(n)) }

func (s *scene) nameOf(c *consumer) string {
	for name, known := range s.names {
		if known == c {
			return name
		}
	}
	return "?"
}

func (s *scene) message(word string, replayed bool) *message {
	number, stream, _ := strings.Cut(word, "@")
	place, err := strconv.ParseUint(strings.TrimRight(number, "'"), 10, 64)
	if err != nil {
		panic(err)
	}
	m := &message{place: place, replayed: replayed}
	m.event.ID, m.event.Stream, m.event.Type = ids(number), stream, number
	if replayed {
		m.link = &eventstore.Recorded{}
		m.link.ID = ids("p" + number)
		m.event.Type = "p" + number
	}
	return m
}

func (s *scene) play(command string) string {
	words := strings.Fields(command)
	args := words[1:]
	extra := ""
	switch words[0] {
	case "join":
		slots, _ := strconv.Atoi(args[1])
		c, err := s.core.connect(slots)
		if err != nil {
			return err.Error()
		}
		s.names[args[0]] = c
	case "leave":
		s.core.disconnect(s.names[args[0]])
	case "read":
		for _, w := range args {
			s.core.add(s.message(w, false))
		}
	case "replay":
		for _, w := range args {
			s.core.replay(s.message(w, true))
		}
	case "pass":
		place, _ := strconv.ParseUint(args[0], 10, 64)
		s.core.source.pass(place)
	case "ack":
		for _, w := range args {
			s.core.ack([]uuid.UUID{ids(w)}, s.now)
		}
	case "nack":
		action := map[string]Action{"park": Park, "retry": Retry, "skip": Skip, "stop": Stop}[args[2]]
		s.core.nack(s.names[args[0]], []uuid.UUID{ids(args[1])}, action, "because")
	case "parked":
		s.core.isParked(s.known[args[0]])
	case "time":
		d, err := time.ParseDuration(args[0])
		if err != nil {
			panic(err)
		}
		s.now = s.now.Add(d)
		s.core.expire(s.now)
	case "checkpoint":
		if place, ok := s.core.checkpoint(s.now); ok {
			extra = fmt.Sprint("at ", place)
		}
	case "unparked":
		extra = fmt.Sprint(s.core.parked.reached, " ", s.core.parked.anything)
	case "room":
		extra = fmt.Sprint(s.core.room())
	case "wake":
		if at, ok := s.core.wake(false); ok {
			extra = at.Sub(s.begun).String()
		}
	default:
		panic("unknown command " + command)
	}
	s.core.handOut(s.now)
	todo := s.core.take()
	var out []string
	for _, d := range todo.withdraw {
		out = append(out, "take:"+s.nameOf(d.to)+":"+d.event.Type)
	}
	for _, d := range todo.deliver {
		word := s.nameOf(d.to) + ":" + d.event.Type
		if d.retries > 0 {
			word += fmt.Sprint("r", d.retries)
		}
		out = append(out, word)
	}
	for _, p := range todo.park {
		s.known[p.event.Type] = p.message
		out = append(out, "park:"+p.event.Type)
	}
	for _, c := range todo.drop {
		out = append(out, "drop:"+s.nameOf(c))
	}
	if extra != "" {
		out = append(out, extra)
	}
	return strings.Join(out, " ")
}

func TestCore(t *testing.T) {
	defaults := Settings{
		MessageTimeout: 30 * time.Second, MaxRetries: 2, HistoryBuffer: 5, Strategy: RoundRobin, CheckpointAfter: time.Minute, MinCheckpoint: 2, MaxCheckpoint: 4,
	}
	with := func(change func(*Settings)) Settings {
		s := defaults
		change(&s)
		return s
	}
	single := with(func(s *Settings) { s.Strategy = DispatchToSingle })
	for name, c := range map[string]struct {
		settings Settings
		script   string
	}{
		"a consumer gets as many as it has slots": {defaults, `
			read 1 2 3 ->
			join a 2 -> a:1 a:2
			ack 2 -> a:3
			ack 1 3 ->
			read 4 -> a:4`},
		"round robin passes over those without room": {defaults, `
			join a 2 ->
			join b 1 ->
			read 1 2 3 4 -> a:1 b:2 a:3
			ack 2 -> b:4`},
		"dispatch to single fills one after the other": {single, `
			join a 2 ->
			join b 2 ->
			read 1 2 3 -> a:1 a:2 b:3
			ack 1 ->
			read 4 -> b:4
			read 5 -> a:5`},
		"an event is handed out again at once": {defaults, `
			join a 2 ->
			read 1 2 3 -> a:1 a:2
			nack a 1 retry -> a:1r1
			nack a 1 retry -> a:1r2
			nack a 1 retry -> a:3 park:1`},
		"and put aside when that was tried often enough": {with(func(s *Settings) { s.MaxRetries = 0 }), `
			join a 1 ->
			read 1 2 -> a:1
			nack a 1 retry -> a:2 park:1
			ack 2 ->
			time 2m ->
			checkpoint ->
			parked 1 ->
			checkpoint -> at 2`},
		"a consumer puts events aside, or skips them": {defaults, `
			join a 4 ->
			read 1 2 3 4 -> a:1 a:2 a:3 a:4
			nack a 2 park -> park:2
			nack a 1 skip ->
			time 61s -> take:a:3 take:a:4 a:3r1 a:4r1
			checkpoint ->
			parked 2 ->
			checkpoint -> at 2`},
		"a consumer that stops is dropped, and others get what it held": {defaults, `
			join a 2 ->
			join b 2 ->
			read 1 2 3 -> a:1 b:2 a:3
			nack a 1 stop -> b:1r1 drop:a
			ack 2 -> b:3r1`},
		"what a consumer held goes to others in order, before what is new": {defaults, `
			join a 3 ->
			read 1 2 3 4 -> a:1 a:2 a:3
			join b 1 -> b:4
			leave a ->
			ack 4 -> b:1r1
			read 5 ->
			ack 1 -> b:2r1
			ack 2 -> b:3r1
			ack 3 -> b:5`},
		"an event that breaks every consumer is put aside": {defaults, `
			read 1 2 ->
			join a 1 -> a:1
			leave a ->
			join b 1 -> b:1r1
			leave b ->
			join c 1 -> c:1r2
			leave c -> park:1
			join d 1 -> d:2`},
		"time runs out": {defaults, `
			join a 2 ->
			read 1 -> a:1
			time 20s ->
			read 2 -> a:2
			wake -> 30s
			time 10s -> take:a:1 a:1r1
			wake -> 50s
			ack 2 ->
			time 20s ->
			wake -> 1m0s
			time 10s -> take:a:1 a:1r2
			time 29s ->
			time 1s -> take:a:1 park:1`},
		"time does not run without a limit": {with(func(s *Settings) { s.MessageTimeout = 0 }), `
			join a 2 ->
			read 1 -> a:1
			wake ->
			time 1000h ->`},
		"a late answer counts": {with(func(s *Settings) { s.MessageTimeout = time.Second }), `
			join a 1 ->
			join b 1 ->
			read 1 -> a:1
			time 1s -> take:a:1 b:1r1
			ack 1 ->
			time 1h ->`},
		"an answer to what waits to be handed out again does not": {defaults, `
			join a 1 ->
			read 1 -> a:1
			leave a ->
			ack 1 ->
			join b 1 -> b:1r1`},
		"answers to what nobody has are nothing": {defaults, `
			join a 1 ->
			ack 7 ->
			nack a 7 park ->
			read 1 -> a:1
			ack 1 1 ->
			read 2 -> a:2`},
		"a checkpoint is the place up to which all is finished": {with(func(s *Settings) { s.MaxCheckpoint = 3 }), `
			join a 5 ->
			read 10 20 30 40 50 -> a:10 a:20 a:30 a:40 a:50
			ack 20 30 40 ->
			checkpoint ->
			ack 10 ->
			checkpoint -> at 40
			ack 50 ->
			checkpoint ->`},
		"a checkpoint comes after some events and some time, or after many": {defaults, `
			join a 9 ->
			read 1 2 3 4 5 6 7 8 9 -> a:1 a:2 a:3 a:4 a:5 a:6 a:7 a:8 a:9
			ack 1 ->
			time 61s -> take:a:2 take:a:3 take:a:4 take:a:5 take:a:6 take:a:7 take:a:8 take:a:9 a:2r1 a:3r1 a:4r1 a:5r1 a:6r1 a:7r1 a:8r1 a:9r1
			checkpoint ->
			ack 2 ->
			checkpoint -> at 2
			ack 3 4 5 ->
			checkpoint ->
			ack 6 ->
			checkpoint -> at 6`},
		"what is passed over moves the checkpoint along": {defaults, `
			join a 1 ->
			pass 10 ->
			read 11 -> a:11
			pass 2500 ->
			time 10m -> take:a:11 a:11r1
			checkpoint ->
			ack 11 ->
			checkpoint -> at 2500
			pass 3000 ->
			time 10m ->
			checkpoint ->
			pass 4500 ->
			checkpoint -> at 4500`},
		"there is room for as much as is buffered": {defaults, `
			read 1 2 3 4 -> 
			room -> true
			read 5 ->
			room -> false
			join a 2 -> a:1 a:2
			room -> true`},
		"there are as many consumers as there may be": {with(func(s *Settings) { s.MaxSubscribers = 1 }), `
			join a 1 ->
			join b 1 -> the group has as many subscribers as it may
			leave a ->
			join b 1 ->`},
		"parked events come again, after those that failed, and are forgotten in order": {defaults, `
			join a 1 ->
			read 1 2 -> a:1
			replay 0 1 ->
			nack a 1 retry -> a:1r1
			unparked -> 0 false
			ack 1 -> a:p0
			ack 0 ->
			ack p0 -> a:p1
			unparked -> 0 true
			nack a p1 park -> a:2 park:p1
			unparked -> 0 true
			parked p1 ->
			unparked -> 1 true`},
		"pinned events of a stream stay with a consumer": {with(func(s *Settings) { s.Strategy = Pinned }), `
			join a 9 ->
			read 1@x 2@y 3@x 4@z -> a:1 a:2 a:3 a:4`},
	} {
		t.Run(name, func(t *testing.T) {
			begun := time.Unix(0, 0)
			s := &scene{core: newCore(c.settings, begun), now: begun, begun: begun, names: make(map[string]*consumer), known: make(map[string]*message)}
			for line := range strings.SplitSeq(strings.TrimSpace(c.script), "\n") {
				command, want, ok := strings.Cut(line, "->")
				if !ok {
					t.Fatalf("no expectation in %q", line)
				}
				if got := s.play(strings.TrimSpace(command)); got != strings.TrimSpace(want) {
					t.Fatalf("%s: got %q, want %q", strings.TrimSpace(command), got, strings.TrimSpace(want))
				}
			}
		})
	}
}

// The same id read twice: the second waits for the first.
func TestSameIDs(t *testing.T) {
	c := newCore(Settings{HistoryBuffer: 10, Strategy: RoundRobin}, time.Time{})
	for place := range uint64(3) {
		m := &message{place: place}
		m.event.ID = ids(fmt.Sprint(place % 2)) // 0 and 2 have one
		c.add(m)
	}
	if _, err := c.connect(5); err != nil {
		t.Fatal(err)
	}
	places := func() (out []uint64) {
		c.handOut(time.Time{})
		for _, d := range c.take().deliver {
			out = append(out, d.place)
		}
		return out
	}
	if got := places(); fmt.Sprint(got) != "[0 1]" {
		t.Errorf("handed out %v", got)
	}
	c.ack([]uuid.UUID{ids("0")}, time.Time{})
	if got := places(); fmt.Sprint(got) != "[2]" {
		t.Errorf("then handed out %v", got)
	}
}

// Pinned: one stream, one consumer; a consumer without room holds up its own streams alone; few streams move when somebody comes.
func TestPinned(t *testing.T) {
	c := newCore(Settings{HistoryBuffer: 1 << 20, Strategy: Pinned}, time.Time{})
	var consumers []*consumer
	for range 4 {
		joined, err := c.connect(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		consumers = append(consumers, joined)
	}
	owners := func() map[string]*consumer {
		out := make(map[string]*consumer)
		for i := range 1000 {
			m := &message{}
			m.event.Stream = fmt.Sprint("s-", i%250)
			to, _ := c.picker.pick(c.consumers, m)
			if before := out[m.event.Stream]; before != nil && before != to {
				t.Fatalf("%s goes to two consumers", m.event.Stream)
			}
			out[m.event.Stream] = to
		}
		return out
	}
	before := owners()
	count := make(map[*consumer]int)
	for _, to := range before {
		count[to]++
	}
	for _, one := range consumers {
		if count[one] < 30 {
			t.Errorf("consumer %d has %d of 250 streams", one.serial, count[one])
		}
	}
	if _, err := c.connect(1); err != nil {
		t.Fatal(err)
	}
	moved := 0
	for stream, to := range owners() {
		if to != before[stream] {
			moved++
			if slices.Contains(consumers, to) {
				t.Errorf("%s moved between consumers that were there before", stream)
			}
		}
	}
	if moved == 0 || moved > 100 {
		t.Errorf("%d of 250 streams moved", moved)
	}
	// The newcomer is full: its streams wait, the others go on.
	newcomer := c.consumers[4]
	newcomer.held[uuid.New()] = &holding{}
	for i := range 250 {
		m := &message{place: uint64(i)}
		m.event.ID, m.event.Stream = uuid.New(), fmt.Sprint("s-", i)
		c.add(m)
	}
	c.handOut(time.Time{})
	if handed := len(c.take().deliver); handed != 250-moved || len(c.fresh) != moved {
		t.Errorf("handed out %d and kept %d of 250, of which %d wait for one consumer", handed, len(c.fresh), moved)
	}
}

func TestCorrelation(t *testing.T) {
	m := &message{}
	m.event.Stream = "s"
	for metadata, want := range map[string]string{"": "s", "{}": "s", `{"$correlationId":"c"}`: "c", `{"$correlationId":7}`: "s"} {
		m.event.Metadata = []byte(metadata)
		if got := correlation(m); got != want {
			t.Errorf("%q: got %s", metadata, got)
		}
	}
}

func TestLatencies(t *testing.T) {
	var l latencies
	if got := l.measurements(); got != nil {
		t.Errorf("nothing measured: %v", got)
	}
	for i := range 2 * latenciesKept {
		l.add(time.Duration(i) * time.Millisecond)
	}
	got := make(map[string]int64)
	for _, m := range l.measurements() {
		got[m.Key] = m.Value
	}
	if got["Fastest"] != 1000 || got["Highest"] != 1999 || got["Median"] != 1499 || got["90%"] != 1899 {
		t.Errorf("of the last %d: %v", latenciesKept, got)
	}
}

func TestSettings(t *testing.T) {
	good := Definition{Stream: "s", Group: "g", Settings: Settings{}.withDefaults()}
	if err := good.check(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	for name, change := range map[string]func(*Definition){
		"no group":            func(d *Definition) { d.Group = "" },
		"no stream":           func(d *Definition) { d.Stream = "" },
		"negative retries":    func(d *Definition) { d.MaxRetries = -1 },
		"negative buffer":     func(d *Definition) { d.LiveBuffer = -1 },
		"negative time":       func(d *Definition) { d.MessageTimeout = -1 },
		"less than least":     func(d *Definition) { d.MinCheckpoint, d.MaxCheckpoint = 2, 1 },
		"unknown strategy":    func(d *Definition) { d.Strategy = "Fair" },
		"filter of a stream":  func(d *Definition) { d.Filter = &Filter{} },
		"a regex that is not": func(d *Definition) { d.Stream, d.Filter = All, &Filter{Regex: "("} },
	} {
		d := good
		change(&d)
		if err := d.check(); !errors.Is(err, ErrSettings) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
