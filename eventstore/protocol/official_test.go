package protocol_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore/protocol"
	"github.com/shiplog/shiplog/internal/servetest"
)

// What is appended comes back as it was, byte for byte.
func TestOfficialAppend(t *testing.T) {
	ctx := patient(t)
	_, address := serve(t)
	client := official(t, address)
	sent := esdb.EventData{
		EventID: uuid.New(), EventType: "TestEvent", ContentType: esdb.ContentTypeBinary, Data: []byte{0xb, 0xe, 0xe, 0xf}, Metadata: []byte{0xd, 0xe, 0xa, 0xd},
	}
	began := time.Now()
	result, err := client.AppendToStream(ctx, "s", esdb.AppendToStreamOptions{ExpectedRevision: esdb.NoStream{}}, sent)
	if err != nil || result.NextExpectedVersion != 0 || result.CommitPosition == 0 {
		t.Fatalf("got %+v, %v", result, err)
	}
	read, err := client.ReadStream(ctx, "s", esdb.ReadStreamOptions{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	e, err := read.Recv()
	if err != nil {
		t.Fatal(err)
	}
	got := e.OriginalEvent()
	back := esdb.EventData{EventID: got.EventID, EventType: got.EventType, ContentType: esdb.ContentTypeBinary, Data: got.Data, Metadata: got.UserMetadata}
	if diff := cmp.Diff(sent, back); diff != "" || got.StreamID != "s" || got.EventNumber != 0 || got.ContentType != "application/octet-stream" {
		t.Errorf("-sent +read:\n%s%+v", diff, got)
	}
	if got.CreatedDate.Before(began.Add(-time.Minute)) || got.CreatedDate.After(time.Now().Add(time.Minute)) || got.Position.Commit != result.CommitPosition {
		t.Errorf("created %s at %v", got.CreatedDate, got.Position)
	}
	if _, err := read.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last event: %v", err)
	}
	if _, err := read.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("and again: %v", err)
	}
}

// Each expectation, met and not met, says what it wants and what there is.
func TestOfficialExpectations(t *testing.T) {
	ctx := patient(t)
	log, address := serve(t)
	client := official(t, address)
	for name, c := range map[string]struct {
		there    int
		expected esdb.ExpectedRevision
		want     string // of a conflict
	}{
		"no stream, none":       {0, esdb.NoStream{}, ""},
		"no stream, one":        {1, esdb.NoStream{}, "expecting 'no_stream' but got '0'"},
		"any, none":             {0, esdb.Any{}, ""},
		"any, one":              {1, esdb.Any{}, ""},
		"stream exists, none":   {0, esdb.StreamExists{}, "expecting 'stream_exists' but got 'no_stream'"},
		"stream exists, one":    {1, esdb.StreamExists{}, ""},
		"a revision, that one":  {3, esdb.Revision(2), ""},
		"a revision, behind":    {3, esdb.Revision(1), "expecting '1' but got '2'"},
		"a revision, ahead":     {3, esdb.Revision(7), "expecting '7' but got '2'"},
		"a revision, no stream": {0, esdb.Revision(0), "expecting '0' but got 'no_stream'"},
	} {
		fill(ctx, t, log, name, c.there)
		_, err := client.AppendToStream(ctx, name, esdb.AppendToStreamOptions{ExpectedRevision: c.expected}, event(), event())
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		} else if kindOf(err) != "conflict" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	// What is too large is refused with its limit, and a deadline is one.
	address, _ = start(t, log, protocol.Options{MaxAppendBytes: 1000})
	small := official(t, address)
	large := event()
	large.Data = make([]byte, 2000)
	if _, err := small.AppendToStream(ctx, "large", esdb.AppendToStreamOptions{}, large); err == nil || !strings.Contains(err.Error(), "Maximum Append Size of 1000 Exceeded") {
		t.Errorf("too large: %v", err)
	}
	gone := -time.Second
	if _, err := client.AppendToStream(ctx, "late", esdb.AppendToStreamOptions{Deadline: &gone}, event()); kindOf(err) != "late" && !strings.Contains(fmt.Sprint(err), "DeadlineExceeded") {
		t.Errorf("too late: %v", err)
	}
}

// Metadata with an access list comes back as it was.
func TestOfficialMetadataWithAccessList(t *testing.T) {
	ctx := patient(t)
	_, address := serve(t)
	client := official(t, address)
	var acl esdb.Acl
	acl.AddReadRoles("admin")
	acl.AddWriteRoles("ann", "bob")
	var m esdb.StreamMetadata
	m.SetMaxAge(2 * time.Second)
	m.SetAcl(acl)
	if _, err := client.SetStreamMetadata(ctx, "s", esdb.AppendToStreamOptions{}, m); err != nil {
		t.Fatal(err)
	}
	got, err := client.GetStreamMetadata(ctx, "s", esdb.ReadStreamOptions{})
	// The client's own reading of lists of roles fails; what it fails over is that it read them.
	if err != nil && !strings.Contains(err.Error(), "[ann bob]") {
		t.Errorf("got %+v, %v", got, err)
	}
	var one esdb.Acl
	one.AddReadRoles("admin")
	m.SetAcl(one)
	if _, err := client.SetStreamMetadata(ctx, "s", esdb.AppendToStreamOptions{}, m); err != nil {
		t.Fatal(err)
	}
	got, err = client.GetStreamMetadata(ctx, "s", esdb.ReadStreamOptions{From: esdb.End{}, Direction: esdb.Backwards})
	if err != nil || got.StreamAcl() == nil || fmt.Sprint(got.StreamAcl().ReadRoles()) != "[admin]" || *got.MaxAge() != 2*time.Second {
		t.Errorf("got %+v, %v", got, err)
	}
	if none, err := client.GetStreamMetadata(ctx, "none", esdb.ReadStreamOptions{}); err == nil && none.MaxAge() != nil {
		t.Errorf("a stream without metadata has %+v", none)
	}
}

func TestOfficialReadsOfStreams(t *testing.T) {
	ctx := patient(t)
	log, address := serve(t)
	client := official(t, address)
	fill(ctx, t, log, "s", 20)
	for name, c := range map[string]struct {
		opts  esdb.ReadStreamOptions
		count uint64
		want  string
	}{
		"forwards":                     {esdb.ReadStreamOptions{}, 3, "[0 1 2]"},
		"forwards from a revision":     {esdb.ReadStreamOptions{From: esdb.Revision(18)}, 5, "[18 19]"},
		"forwards from beyond the end": {esdb.ReadStreamOptions{From: esdb.Revision(20)}, 5, "[]"},
		"backwards from the end":       {esdb.ReadStreamOptions{Direction: esdb.Backwards, From: esdb.End{}}, 3, "[19 18 17]"},
		"backwards from a revision":    {esdb.ReadStreamOptions{Direction: esdb.Backwards, From: esdb.Revision(1)}, 5, "[1 0]"},
		"backwards from the start":     {esdb.ReadStreamOptions{Direction: esdb.Backwards, From: esdb.Start{}}, 5, "[0]"},
		"resolving links":              {esdb.ReadStreamOptions{ResolveLinkTos: true}, 2, "[0 1]"},
		"none":                         {esdb.ReadStreamOptions{}, 0, "[]"},
	} {
		read, err := client.ReadStream(ctx, "s", c.opts, c.count)
		if err != nil {
			t.Fatal(err)
		}
		if got := received(t, read, number); fmt.Sprint(got) != c.want {
			t.Errorf("%s: got %v, want %s", name, got, c.want)
		}
	}
	read, err := client.ReadStream(ctx, "none", esdb.ReadStreamOptions{}, 1)
	if err == nil {
		_, err = read.Recv()
	}
	if kindOf(err) != "not found" {
		t.Errorf("a stream that is not there: %v", err)
	}
}

// Clients that understand it are told the last revision of a stream after its events, however many they asked for.
func TestEndsOfStreamsAreTold(t *testing.T) {
	ctx := patient(t)
	log, address := serve(t)
	fill(ctx, t, log, "s", 5)
	client := streams.NewStreamsClient(dial(t, address))
	for name, c := range map[string]struct {
		compatibility uint32
		stream        string
		want          string
	}{
		"who understands":      {1, "s", "event event last 4"},
		"who does not":         {0, "s", "event event"},
		"a stream that is not": {1, "none", "not found"},
		"who is of the future": {7, "s", "event event last 4"},
	} {
		call, err := client.Read(ctx, &streams.ReadReq{Options: &streams.ReadReq_Options{
			StreamOption: &streams.ReadReq_Options_Stream{Stream: &streams.ReadReq_Options_StreamOptions{
				StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(c.stream)}, RevisionOption: &streams.ReadReq_Options_StreamOptions_Start{Start: &shared.Empty{}},
			}},
			CountOption:   &streams.ReadReq_Options_Count{Count: 2},
			ControlOption: &streams.ReadReq_Options_ControlOption{Compatibility: c.compatibility},
		}})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for {
			resp, err := call.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			switch m := resp.GetContent().(type) {
			case *streams.ReadResp_Event:
				got = append(got, "event")
			case *streams.ReadResp_LastStreamPosition:
				got = append(got, fmt.Sprint("last ", m.LastStreamPosition))
			case *streams.ReadResp_StreamNotFound_:
				got = append(got, "not found")
			}
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%s: got %s, want %s", name, g, c.want)
		}
	}
}

// A stream that was deleted is not found, and can be written to again; a tombstoned one says so to everybody.
func TestOfficialDeletions(t *testing.T) {
	ctx := patient(t)
	log, address := serve(t)
	client := official(t, address)
	readOne := func(stream string) error {
		read, err := client.ReadStream(ctx, stream, esdb.ReadStreamOptions{}, 1)
		if err == nil {
			defer read.Close()
			_, err = read.Recv()
		}
		return err
	}
	fill(ctx, t, log, "s", 2)
	if _, err := client.DeleteStream(ctx, "s", esdb.DeleteStreamOptions{ExpectedRevision: esdb.Revision(0)}); err == nil {
		t.Error("a deletion that expected another revision was made")
	}
	deleted, err := client.DeleteStream(ctx, "s", esdb.DeleteStreamOptions{ExpectedRevision: esdb.Revision(1)})
	if err != nil || deleted.Position.Commit == 0 || deleted.Position.Prepare == 0 {
		t.Fatalf("got %+v, %v", deleted, err)
	}
	if err := readOne("s"); kindOf(err) != "not found" {
		t.Errorf("reading a deleted stream: %v", err)
	}
	result, err := client.AppendToStream(ctx, "s", esdb.AppendToStreamOptions{ExpectedRevision: esdb.NoStream{}}, event())
	if err != nil || result.NextExpectedVersion != 2 {
		t.Errorf("appending to a deleted stream: %+v, %v", result, err)
	}
	deleted, err = client.TombstoneStream(ctx, "s", esdb.TombstoneStreamOptions{ExpectedRevision: esdb.Revision(2)})
	if err != nil || deleted.Position.Commit == 0 {
		t.Fatalf("got %+v, %v", deleted, err)
	}
	if err := readOne("s"); kindOf(err) != "deleted" {
		t.Errorf("reading a tombstoned stream: %v", err)
	}
	if _, err := client.AppendToStream(ctx, "s", esdb.AppendToStreamOptions{}, event()); kindOf(err) != "deleted" {
		t.Errorf("appending to a tombstoned stream: %v", err)
	}
	sub, err := client.SubscribeToStream(ctx, "s", esdb.SubscribeToStreamOptions{From: esdb.Start{}})
	if err == nil {
		if e := sub.Recv(); e.SubscriptionDropped == nil {
			t.Errorf("a subscription to a tombstoned stream got %+v", e)
		}
	}
}

// A subscription to a stream gets all there is, the word that this is all, and what comes; closing it ends it.
func TestOfficialSubscriptions(t *testing.T) {
	ctx := patient(t)
	log, address := serve(t)
	client := official(t, address)
	const n = 3000
	fill(ctx, t, log, "s", n)
	sub, err := client.SubscribeToStream(ctx, "s", esdb.SubscribeToStreamOptions{From: esdb.Start{}})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(sub *esdb.Subscription, number uint64) {
		t.Helper()
		if e := sub.Recv(); e.EventAppeared == nil || e.EventAppeared.OriginalEvent().EventNumber != number {
			t.Fatalf("got %+v, want revision %d", e, number)
		}
	}
	for i := range uint64(n) {
		expect(sub, i)
	}
	if e := sub.Recv(); e.CaughtUp == nil {
		t.Fatalf("got %+v, want to have caught up", e)
	}
	if _, err := client.AppendToStream(ctx, "s", esdb.AppendToStreamOptions{ExpectedRevision: esdb.Revision(n - 1)}, event()); err != nil {
		t.Fatal(err)
	}
	expect(sub, n)
	if err := sub.Close(); err != nil {
		t.Fatal(err)
	}
	if e := sub.Recv(); e.SubscriptionDropped == nil {
		t.Errorf("a closed subscription got %+v", e)
	}
	after, err := client.SubscribeToStream(ctx, "s", esdb.SubscribeToStreamOptions{From: esdb.Revision(n - 2)})
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	expect(after, n-1)
	// One to a stream that is still to come.
	early, err := client.SubscribeToStream(ctx, "later", esdb.SubscribeToStreamOptions{From: esdb.Start{}})
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	if e := early.Recv(); e.CaughtUp == nil {
		t.Errorf("got %+v", e)
	}
	fill(ctx, t, log, "later", 1)
	expect(early, 0)
	// One that outlives the server ends with it.
	address, stop := start(t, log, protocol.Options{})
	doomed, err := official(t, address).SubscribeToAll(ctx, esdb.SubscribeToAllOptions{From: esdb.End{}})
	if err != nil {
		t.Fatal(err)
	}
	stop()
	for e := doomed.Recv(); e.SubscriptionDropped == nil; e = doomed.Recv() {
		if e.EventAppeared != nil {
			t.Errorf("got %+v", e)
		}
	}
}

// A closed client says so, and a server without TLS takes no notice of credentials, which the client does not send.
func TestOfficialConnections(t *testing.T) {
	ctx := patient(t)
	_, address := serve(t)
	client := official(t, address)
	wrong := esdb.AppendToStreamOptions{Authenticated: &esdb.Credentials{Login: "invalid", Password: "invalid"}}
	if _, err := client.AppendToStream(ctx, "$s", wrong, event()); err != nil {
		t.Errorf("credentials without TLS: %v", err)
	}
	if v, err := client.GetServerVersion(); err != nil || fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) != protocol.Version {
		t.Errorf("version %v, %v", v, err)
	}
	config, err := esdb.ParseConnectionString("esdb://" + address + "?tls=false")
	if err != nil {
		t.Fatal(err)
	}
	config.Logger = esdb.NoopLogging()
	projections, err := esdb.NewProjectionClient(config)
	if err != nil {
		t.Fatal(err)
	}
	defer projections.Close()
	if _, err := projections.ListAll(ctx, esdb.GenericProjectionOptions{}); kindOf(err) != "unsupported" {
		t.Errorf("projections, which are not served: %v", err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.AppendToStream(ctx, "s", esdb.AppendToStreamOptions{}, event()); kindOf(err) != "closed" {
		t.Errorf("a closed client: %v", err)
	}
}

// Certificates: checked against the authority that the client is given, or not at all if it wants that.
func TestOfficialTLS(t *testing.T) {
	ctx := patient(t)
	s := serveSecured(t, nil)
	other := servetest.NewAuthority(t)
	for name, c := range map[string]struct{ query, want string }{
		"its authority":       {"tlsCAFile=" + s.ca.File, ""},
		"not looked at":       {"tlsVerifyCert=false", ""},
		"no authority":        {"tls=true", "unknown authority"},
		"another authority":   {"tlsCAFile=" + other.File, "unknown authority"},
		"no TLS at all":       {"tls=false", "other"},
		"found by gossip too": {"tlsCAFile=" + s.ca.File + "&nodePreference=leader", ""},
	} {
		t.Run(name, func(t *testing.T) {
			host := s.address
			if strings.HasPrefix(name, "found by gossip") {
				host += "," + s.address
			}
			client := servetest.Connect(t, fmt.Sprintf("esdb://admin:admin@%s?%s&maxDiscoverAttempts=1", host, c.query))
			_, err := client.AppendToStream(ctx, "$s", esdb.AppendToStreamOptions{}, event())
			switch {
			case c.want == "" && err != nil, c.want != "" && err == nil:
				t.Errorf("got %v", err)
			case c.want == "unknown authority" && !strings.Contains(err.Error(), c.want):
				t.Errorf("got %v", err)
			}
		})
	}
}
