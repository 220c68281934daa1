package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/gossip"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/serverfeatures"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/grpc"

	"github.com/shiplog/shiplog/eventstore"
)

// Keys of a message's metadata.
const (
	metaType        = "type"
	metaContentType = "content-type"
	metaCreated     = "created" // ticks of 100 ns since 1970, in decimal; clients end their process over anything else
)

// supportedMethods lists the methods of all services as clients look for them: in lower case.
func supportedMethods(services map[string]grpc.ServiceInfo) []*serverfeatures.SupportedMethod {
	var out []*serverfeatures.SupportedMethod
	for service, info := range services {
		for _, m := range info.Methods {
			out = append(out, &serverfeatures.SupportedMethod{
				MethodName: strings.ToLower(m.Name), ServiceName: strings.ToLower(service), Features: features(service, m.Name),
			})
		}
	}
	sort.Slice(out, func(i, j int) bool {
		return out[i].ServiceName+out[i].MethodName < out[j].ServiceName+out[j].MethodName
	})
	return out
}

// features names what a method can do that it could not in old servers.
func features(service, method string) []string {
	switch {
	case strings.HasSuffix(service, ".PersistentSubscriptions"):
		return []string{"stream", "all"}
	case strings.HasSuffix(service, ".Streams") && method == "Read":
		return []string{"position", "events"}
	case strings.HasSuffix(service, ".Streams") && method == "BatchAppend":
		return []string{"deadline_duration"}
	default:
		return nil
	}
}

func parseEndpoint(address string) (*gossip.EndPoint, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", port, err)
	}
	return &gossip.EndPoint{Address: host, Port: uint32(number)}, nil
}

func ticksOf(t time.Time) int64 { return t.UnixNano() / 100 }

func toUUID(id uuid.UUID, asString bool) *shared.UUID {
	if asString {
		return &shared.UUID{Value: &shared.UUID_String_{String_: id.String()}}
	}
	return &shared.UUID{Value: &shared.UUID_Structured_{Structured: &shared.UUID_Structured{
		MostSignificantBits:  int64(binary.BigEndian.Uint64(id[:8])),
		LeastSignificantBits: int64(binary.BigEndian.Uint64(id[8:])),
	}}}
}

func fromUUID(id *shared.UUID) (uuid.UUID, error) {
	switch v := id.GetValue().(type) {
	case *shared.UUID_Structured_:
		var out uuid.UUID
		binary.BigEndian.PutUint64(out[:8], uint64(v.Structured.GetMostSignificantBits()))
		binary.BigEndian.PutUint64(out[8:], uint64(v.Structured.GetLeastSignificantBits()))
		return out, nil
	case *shared.UUID_String_:
		return uuid.Parse(v.String_)
	default:
		return uuid.UUID{}, errors.New("the event has no id")
	}
}

// message is what Append and BatchAppend call a proposed event.
type message interface {
	GetId() *shared.UUID
	GetMetadata() map[string]string
	GetCustomMetadata() []byte
	GetData() []byte
}

func toProposed(m message) (eventstore.Proposed, error) {
	id, err := fromUUID(m.GetId())
	if err != nil {
		return eventstore.Proposed{}, invalid("reading a proposed event: %v", err)
	}
	metadata := m.GetMetadata()
	for _, key := range []string{metaType, metaContentType} {
		if metadata[key] == "" {
			return eventstore.Proposed{}, missingMetadata(key)
		}
	}
	return eventstore.Proposed{
		ID: id, Type: metadata[metaType], ContentType: metadata[metaContentType], Data: m.GetData(), Metadata: m.GetCustomMetadata(),
	}, nil
}

func sizeOf(p eventstore.Proposed) int { return len(p.Data) + len(p.Metadata) + len(p.Type) }

func fromRecorded(e *eventstore.Recorded, stringIDs bool) *streams.ReadResp_ReadEvent_RecordedEvent {
	return &streams.ReadResp_ReadEvent_RecordedEvent{
		Id:               toUUID(e.ID, stringIDs),
		StreamIdentifier: identifier(e.Stream),
		StreamRevision:   e.Revision,
		PreparePosition:  uint64(e.Position),
		CommitPosition:   uint64(e.Position),
		Metadata: map[string]string{
			metaType: e.Type, metaContentType: e.ContentType, metaCreated: strconv.FormatInt(ticksOf(e.Created), 10),
		},
		CustomMetadata: e.Metadata,
		Data:           e.Data,
	}
}

func identifier(stream string) *shared.StreamIdentifier {
	return &shared.StreamIdentifier{StreamName: []byte(stream)}
}
