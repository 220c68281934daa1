package protocol_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/protocol"
	"github.com/shiplog/shiplog/internal/servetest"
)

// kindOf is how the official client tells an error's kind; "" is none.
func kindOf(err error) string {
	var e *esdb.Error
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return ""
	case !errors.As(err, &e):
		return "no kind: " + err.Error()
	}
	for kind, code := range map[string]esdb.ErrorCode{
		"denied": esdb.ErrorCodeAccessDenied, "unauthenticated": esdb.ErrorCodeUnauthenticated, "not found": esdb.ErrorCodeResourceNotFound,
		"deleted": esdb.ErrorCodeStreamDeleted, "conflict": esdb.ErrorCodeWrongExpectedVersion, "exists": esdb.ErrorCodeResourceAlreadyExists,
		"unsupported": esdb.ErrorCodeUnsupportedFeature, "late": esdb.ErrorCodeDeadlineExceeded, "closed": esdb.ErrorCodeConnectionClosed,
		"not leader": esdb.ErrorCodeNotLeader, "unavailable": esdb.ErrorUnavailable,
	} {
		if e.IsErrorCode(code) {
			return kind
		}
	}
	return "other: " + err.Error()
}

func event() esdb.EventData {
	return esdb.EventData{EventID: uuid.New(), EventType: "T", ContentType: esdb.ContentTypeJson, Data: []byte(`{}`)}
}

// What each user may do with a stream, by its access list and the defaults.
func TestAccessLists(t *testing.T) {
	type does = func(ctx context.Context, c *esdb.Client, stream string) error
	read := func(ctx context.Context, c *esdb.Client, stream string) error {
		r, err := c.ReadStream(ctx, stream, esdb.ReadStreamOptions{}, 1)
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = r.Recv()
		return err
	}
	operations := map[string]does{
		"read": read,
		"write": func(ctx context.Context, c *esdb.Client, stream string) error {
			_, err := c.AppendToStream(ctx, stream, esdb.AppendToStreamOptions{}, event())
			return err
		},
		"read about": func(ctx context.Context, c *esdb.Client, stream string) error { return read(ctx, c, "$$"+stream) },
		"write about": func(ctx context.Context, c *esdb.Client, stream string) error {
			_, err := c.AppendToStream(ctx, "$$"+stream, esdb.AppendToStreamOptions{}, esdb.EventData{EventID: uuid.New(), EventType: "Note"})
			return err
		},
		"subscribe": func(ctx context.Context, c *esdb.Client, stream string) error {
			sub, err := c.SubscribeToStream(ctx, stream, esdb.SubscribeToStreamOptions{From: esdb.Start{}})
			if err == nil {
				defer sub.Close()
			}
			var e *esdb.Error
			if errors.As(err, &e) {
				err = e
			}
			return err
		},
		"delete": func(ctx context.Context, c *esdb.Client, stream string) error {
			_, err := c.DeleteStream(ctx, stream, esdb.DeleteStreamOptions{})
			return err
		},
		"tombstone": func(ctx context.Context, c *esdb.Client, stream string) error {
			_, err := c.TombstoneStream(ctx, stream, esdb.TombstoneStreamOptions{})
			return err
		},
	}
	all := strings.Split("read,write,read about,write about,subscribe,delete,tombstone", ",")
	for name, c := range map[string]struct {
		stream, metadata string
		settings         string
		may              map[string]string // what who may do; the rest is denied
	}{
		"a stream is everybody's": {stream: "s", may: map[string]string{
			"": "read,write,read about,write about,subscribe,delete,tombstone", "ann": "read,write,read about,write about,subscribe,delete,tombstone",
		}},
		"a system stream is the administrators'": {stream: "$s", may: map[string]string{"": "", "ann": "", "ops": ""}},
		"roles and names, one or several": {
			stream: "s", metadata: `{"$acl":{"$r":["ann","writers"],"$w":"writers","$d":[],"$mr":"$all","$mw":"$admins"}}`,
			may: map[string]string{"": "read about", "ann": "read,read about,subscribe", "bob": "read,write,read about,subscribe", "ops": "read about"},
		},
		"what the list does not say": {stream: "s", metadata: `{"$acl":{"$w":"bob"}}`, may: map[string]string{
			"ann": "read,read about,write about,subscribe,delete,tombstone", "bob": "read,write,read about,write about,subscribe,delete,tombstone",
		}},
		"a stream like the system's": {stream: "s", metadata: `{"$acl":"$systemStreamAcl"}`, may: map[string]string{"": "", "ann": ""}},
		"a system stream like any":   {stream: "$s", metadata: `{"$acl":"$userStreamAcl"}`, may: map[string]string{"ann": "read,write,read about,write about,subscribe,delete,tombstone"}},
		"a list that cannot be read": {stream: "s", metadata: `{"$acl":{"$r":{"ann":true}}}`, may: map[string]string{"ann": "", "": ""}},
		"a list of another name":     {stream: "s", metadata: `{"$acl":"everybody"}`, may: map[string]string{"ann": ""}},
		"other metadata":             {stream: "s", metadata: `{"$maxCount":5}`, may: map[string]string{"ann": "read,write,read about,write about,subscribe,delete,tombstone"}},
		"other defaults": {stream: "s", settings: `{"$userStreamAcl":{"$r":"$all","$w":"writers","$d":"$ops"},"$systemStreamAcl":{"$r":"ann"}}`, may: map[string]string{
			"": "read,read about,write about,subscribe", "bob": "read,write,read about,write about,subscribe",
			"ops": "read,read about,write about,subscribe,delete,tombstone",
		}},
		"other defaults of system streams": {stream: "$s", settings: `{"$systemStreamAcl":{"$r":"ann"}}`, may: map[string]string{"ann": "read,subscribe", "bob": ""}},
		"defaults that cannot be read":     {stream: "s", settings: `{"$userStreamAcl":7}`, may: map[string]string{"ann": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := patient(t)
			s := serveSecured(t, nil)
			put := func(stream, typ, data string) {
				t.Helper()
				if data == "" {
					return
				}
				if _, err := s.log.Append(ctx, stream, eventstore.Any, eventstore.Proposed{Type: typ, Data: []byte(data)}); err != nil {
					t.Fatal(err)
				}
			}
			put("$settings", "update-default-acl", c.settings)
			c.may["admin"] = strings.Join(all, ",")
			for user, may := range c.may {
				client := s.client(t, user)
				allowed := strings.Split(may, ",")
				for i, operation := range all {
					// Each on a stream of its own, because some leave nothing.
					stream := fmt.Sprintf("%s-%s-%d", c.stream, user, i)
					fill(ctx, t, s.log, stream, 1)
					put("$$"+stream, "$metadata", c.metadata)
					want := "denied"
					for _, a := range allowed {
						if a == operation {
							want = ""
						}
					}
					got := kindOf(operations[operation](ctx, client, stream))
					if operation == "read about" && c.metadata == "" && got == "not found" {
						got = ""
					}
					if got != want {
						t.Errorf("%q wants to %s %s: got %q, want %q", user, operation, stream, got, want)
					}
				}
			}
		})
	}
}

// The stream of all streams is a system stream, and nobody writes to it.
func TestAccessToAll(t *testing.T) {
	ctx := patient(t)
	s := serveSecured(t, nil)
	fill(ctx, t, s.log, "s", 3)
	for user, want := range map[string]string{"": "denied", "ann": "denied", "ops": "denied", "admin": ""} {
		client := s.client(t, user)
		read, err := client.ReadAll(ctx, esdb.ReadAllOptions{From: esdb.Start{}}, 1)
		if err == nil {
			_, err = read.Recv()
			read.Close()
		}
		if got := kindOf(err); got != want {
			t.Errorf("%q reads all: got %q", user, got)
		}
		if _, err := client.AppendToStream(ctx, "$all", esdb.AppendToStreamOptions{}, event()); kindOf(err) != "denied" {
			t.Errorf("%q writes to all: got %v", user, err)
		}
		if _, err := client.DeleteStream(ctx, "$$s", esdb.DeleteStreamOptions{}); kindOf(err) != "denied" {
			t.Errorf("%q deletes metadata: got %v", user, err)
		}
	}
}

// Whoever says who they are, and is wrong, is refused whatever they ask for; credentials of a call go before those of the client.
func TestCredentials(t *testing.T) {
	ctx := patient(t)
	s := serveSecured(t, nil)
	fill(ctx, t, s.log, "$s", 1)
	as := func(name, password string) *esdb.Credentials {
		return &esdb.Credentials{Login: name, Password: password}
	}
	for name, c := range map[string]struct {
		client string
		call   *esdb.Credentials
		want   string
	}{
		"right":                {client: "admin:admin@"},
		"wrong password":       {client: "admin:changeit@", want: "unauthenticated"},
		"unknown":              {client: "eve:eve@", want: "unauthenticated"},
		"none":                 {want: "denied"},
		"without the right":    {client: "ann:ann@", want: "denied"},
		"of the call":          {client: "ann:ann@", call: as("admin", "admin")},
		"of the call, wrong":   {client: "admin:admin@", call: as("admin", "x"), want: "unauthenticated"},
		"of the call, another": {client: "admin:admin@", call: as("bob", "bob"), want: "denied"},
	} {
		t.Run(name, func(t *testing.T) {
			client := servetest.Connect(t, fmt.Sprintf("esdb://%s%s?tlsCAFile=%s&maxDiscoverAttempts=1", c.client, s.address, s.ca.File))
			_, err := client.AppendToStream(ctx, "$s", esdb.AppendToStreamOptions{Authenticated: c.call}, event())
			if got := kindOf(err); got != c.want {
				t.Errorf("append: got %q (%v), want %q", got, err, c.want)
			}
			read, err := client.ReadStream(ctx, "$s", esdb.ReadStreamOptions{Authenticated: c.call}, 1)
			if err == nil {
				_, err = read.Recv()
				read.Close()
			}
			if got := kindOf(err); got != c.want {
				t.Errorf("read: got %q (%v), want %q", got, err, c.want)
			}
		})
	}
}

// A verified client certificate says who somebody is, where nothing else does.
func TestUserCertificates(t *testing.T) {
	ctx := patient(t)
	var s *secured
	ca := servetest.NewAuthority(t)
	s = serveSecured(t, func(o *protocol.Options) {
		o.TLS.ClientCAs, o.TLS.ClientAuth = x509.NewCertPool(), tls.VerifyClientCertIfGiven
		o.TLS.ClientCAs.AddCert(ca.Cert)
	})
	fill(ctx, t, s.log, "$s", 1)
	for name, want := range map[string]string{"admin": "", "ann": "denied", "eve": "denied"} {
		cert, key := ca.Issue(t, name)
		client := servetest.Connect(t, fmt.Sprintf("%s&userCertFile=%s&userKeyFile=%s", s.connection(""), cert, key))
		if _, err := client.AppendToStream(ctx, "$s", esdb.AppendToStreamOptions{}, event()); kindOf(err) != want {
			t.Errorf("%s: got %v", name, err)
		}
	}
	cert, key := servetest.NewAuthority(t).Issue(t, "admin") // of somebody else's authority
	client := servetest.Connect(t, fmt.Sprintf("%s&userCertFile=%s&userKeyFile=%s&maxDiscoverAttempts=1", s.connection(""), cert, key))
	if _, err := client.AppendToStream(ctx, "$s", esdb.AppendToStreamOptions{}, event()); err == nil {
		t.Error("a certificate of a strange authority was taken")
	}
}

// Where nobody may be anonymous, clients still find out where to connect, and how the server is.
func TestNoAnonymous(t *testing.T) {
	ctx := patient(t)
	metrics := prometheus.NewRegistry()
	s := serveSecured(t, func(o *protocol.Options) { o.NoAnonymous, o.Metrics = true, metrics })
	fill(ctx, t, s.log, "s", 1)
	nobody := s.client(t, "")
	if _, err := nobody.AppendToStream(ctx, "s", esdb.AppendToStreamOptions{}, event()); kindOf(err) != "unauthenticated" {
		t.Errorf("nobody got %v", err)
	}
	if v, err := nobody.GetServerVersion(); err != nil || v.Major != 23 {
		t.Errorf("the version is %v, %v", v, err)
	}
	if _, err := s.client(t, "ann").AppendToStream(ctx, "s", esdb.AppendToStreamOptions{}, event()); err != nil {
		t.Errorf("somebody got %v", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(s.ca.Cert)
	conn, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if h, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil || h.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", h, err)
	}
	if n, err := testutil.GatherAndCount(metrics, "shiplog_eventstore_calls_total"); err != nil || n < 4 {
		t.Errorf("%d counters, %v", n, err)
	}
}

// Where writing is restricted, it is for everybody.
func TestWritable(t *testing.T) {
	ctx := patient(t)
	s := serveSecured(t, func(o *protocol.Options) {
		o.Writable = func(stream string) bool { return strings.HasPrefix(stream, "app-") }
	})
	fill(ctx, t, s.log, "pods-default/web", 1)
	client := s.client(t, "admin")
	for stream, want := range map[string]string{"pods-default/web": "denied", "$$pods-default/web": "denied", "app-1": "", "$$app-1": ""} {
		if _, err := client.AppendToStream(ctx, stream, esdb.AppendToStreamOptions{}, event()); kindOf(err) != want {
			t.Errorf("append to %s: got %v", stream, err)
		}
	}
	if _, err := client.DeleteStream(ctx, "pods-default/web", esdb.DeleteStreamOptions{}); kindOf(err) != "denied" {
		t.Errorf("delete: got %v", err)
	}
	if got := readStream(ctx, t, client, "pods-default/web", esdb.ReadStreamOptions{}); len(got) != 1 {
		t.Errorf("read: got %v", got)
	}
}

// An append of a batch is refused alone, with the kind in its details, and the rest of it is forgotten.
func TestBatchAppendsAreRefusedAlone(t *testing.T) {
	ctx := patient(t)
	s := serveSecured(t, func(o *protocol.Options) { o.MaxAppendBytes = 1000 })
	fill(ctx, t, s.log, "gone", 1)
	if err := s.log.Tombstone(ctx, "gone", eventstore.Any); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(s.ca.Cert)
	conn, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	asAnn := metadata.AppendToOutgoingContext(ctx, "authorization", "Basic YW5uOmFubg==")
	call, err := streams.NewStreamsClient(conn).BatchAppend(asAnn)
	if err != nil {
		t.Fatal(err)
	}
	big := proposed(uuid.New(), "T")
	big.Data = make([]byte, 2000)
	requests := []struct {
		stream  string
		parts   []*streams.BatchAppendReq_ProposedMessage
		want    code.Code
		details string
	}{
		{"s", []*streams.BatchAppendReq_ProposedMessage{proposed(uuid.New(), "T")}, code.Code_OK, ""},
		{"$s", []*streams.BatchAppendReq_ProposedMessage{proposed(uuid.New(), "T"), proposed(uuid.New(), "T")}, code.Code_PERMISSION_DENIED, "AccessDenied"},
		{"", []*streams.BatchAppendReq_ProposedMessage{proposed(uuid.New(), "T")}, code.Code_INVALID_ARGUMENT, "BadRequest"},
		{"gone", []*streams.BatchAppendReq_ProposedMessage{proposed(uuid.New(), "T")}, code.Code_NOT_FOUND, "StreamDeleted"},
		{"big", []*streams.BatchAppendReq_ProposedMessage{big, proposed(uuid.New(), "T")}, code.Code_INVALID_ARGUMENT, "MaximumAppendSizeExceeded"},
		{"late", []*streams.BatchAppendReq_ProposedMessage{proposed(uuid.New(), "T")}, code.Code_DEADLINE_EXCEEDED, "Timeout"},
		{"t", []*streams.BatchAppendReq_ProposedMessage{proposed(uuid.New(), "T"), proposed(uuid.New(), "T")}, code.Code_OK, ""},
	}
	for i, r := range requests {
		id := &shared.UUID{Value: &shared.UUID_String_{String_: fmt.Sprint(i)}}
		options := &streams.BatchAppendReq_Options{
			StreamIdentifier: &shared.StreamIdentifier{StreamName: []byte(r.stream)}, ExpectedStreamPosition: &streams.BatchAppendReq_Options_Any{Any: &emptypb.Empty{}},
		}
		if r.stream == "late" {
			options.DeadlineOption = &streams.BatchAppendReq_Options_Deadline{Deadline: durationpb.New(-time.Second)}
		}
		for j, part := range r.parts {
			err := call.Send(&streams.BatchAppendReq{
				CorrelationId: id, Options: options, ProposedMessages: []*streams.BatchAppendReq_ProposedMessage{part}, IsFinal: j == len(r.parts)-1,
			})
			if err != nil {
				t.Fatal(err)
			}
			options = nil
		}
	}
	if err := call.CloseSend(); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]int)
	for {
		resp, err := call.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got[resp.GetCorrelationId().GetString_()]++
		var i int
		if _, err := fmt.Sscan(resp.GetCorrelationId().GetString_(), &i); err != nil {
			t.Fatal(err)
		}
		r := requests[i]
		if resp.GetError().GetCode() != int32(r.want) {
			t.Errorf("%s: got %v", r.stream, resp)
		}
		if r.details != "" && !strings.HasSuffix(resp.GetError().GetDetails()[0].GetTypeUrl(), "."+r.details) {
			t.Errorf("%s: got details %v", r.stream, resp.GetError().GetDetails())
		}
	}
	for i := range requests {
		if got[fmt.Sprint(i)] != 1 {
			t.Errorf("append %d was answered %d times", i, got[fmt.Sprint(i)])
		}
	}
}
