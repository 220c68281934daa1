package persistent

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
)

// The definitions of all groups are the last event of a stream.
const (
	configStream  = "$persistentSubscriptionConfig"
	configType    = "PersistentConfig1"
	configVersion = "2"
)

// config is that event.
type config struct {
	Version   string    `json:"version"`
	Updated   time.Time `json:"updated"`
	UpdatedBy string    `json:"updatedBy"`
	Entries   []entry   `json:"entries"`
}

// entry is a group's definition. Times are milliseconds.
type entry struct {
	Stream                string  `json:"stream"`
	Group                 string  `json:"group"`
	Filter                *Filter `json:"filter,omitempty"`
	ResolveLinkTos        bool    `json:"resolveLinkTos"`
	ExtraStatistics       bool    `json:"extraStatistics"`
	MessageTimeout        int64   `json:"messageTimeout"`
	StartFromEnd          bool    `json:"startFromEnd,omitempty"`
	StartAt               uint64  `json:"startAt"`
	StartAfter            *uint64 `json:"startAfter,omitempty"`
	LiveBufferSize        int     `json:"liveBufferSize"`
	HistoryBufferSize     int     `json:"historyBufferSize"`
	MaxRetryCount         int     `json:"maxRetryCount"`
	ReadBatchSize         int     `json:"readBatchSize"`
	CheckPointAfter       int64   `json:"checkPointAfter"`
	MinCheckPointCount    int     `json:"minCheckPointCount"`
	MaxCheckPointCount    int     `json:"maxCheckPointCount"`
	MaxSubscriberCount    int     `json:"maxSubscriberCount"`
	NamedConsumerStrategy string  `json:"namedConsumerStrategy"`
}

func toEntry(d *Definition) entry {
	return entry{
		Stream: d.Stream, Group: d.Group, Filter: d.Filter, ResolveLinkTos: d.ResolveLinks, ExtraStatistics: d.ExtraStatistics,
		MessageTimeout: d.MessageTimeout.Milliseconds(), StartFromEnd: d.Start.FromEnd, StartAt: d.Start.At, StartAfter: d.after,
		LiveBufferSize: d.LiveBuffer, HistoryBufferSize: d.HistoryBuffer, MaxRetryCount: d.MaxRetries, ReadBatchSize: d.ReadBatch,
		CheckPointAfter: d.CheckpointAfter.Milliseconds(), MinCheckPointCount: d.MinCheckpoint, MaxCheckPointCount: d.MaxCheckpoint,
		MaxSubscriberCount: d.MaxSubscribers, NamedConsumerStrategy: d.Strategy,
	}
}

func (e *entry) definition() Definition {
	return Definition{
		Stream: e.Stream, Group: e.Group, Filter: e.Filter, after: e.StartAfter,
		Settings: Settings{
			Start: Start{FromEnd: e.StartFromEnd, At: e.StartAt}, ResolveLinks: e.ResolveLinkTos, ExtraStatistics: e.ExtraStatistics,
			MessageTimeout: time.Duration(e.MessageTimeout) * time.Millisecond, MaxRetries: e.MaxRetryCount, HistoryBuffer: e.HistoryBufferSize,
			LiveBuffer: e.LiveBufferSize, ReadBatch: e.ReadBatchSize, CheckpointAfter: time.Duration(e.CheckPointAfter) * time.Millisecond,
			MinCheckpoint: e.MinCheckPointCount, MaxCheckpoint: e.MaxCheckPointCount, MaxSubscribers: e.MaxSubscriberCount, Strategy: e.NamedConsumerStrategy,
		},
	}
}

// readConfig returns the definitions and the revision of the event that holds them.
func readConfig(ctx context.Context, log eventstore.Log) ([]Definition, eventstore.Expected, error) {
	last, err := lastOf(ctx, log, configStream)
	if err != nil || last == nil {
		return nil, eventstore.NoStream, err
	}
	var c config
	if err := json.Unmarshal(last.Data, &c); err != nil {
		return nil, 0, fmt.Errorf("reading the definitions of persistent subscriptions, event %d of %s: %w", last.Revision, configStream, err)
	}
	if c.Version != configVersion {
		return nil, 0, fmt.Errorf("reading the definitions of persistent subscriptions: %w: version %q", eventstore.ErrVersion, c.Version)
	}
	var definitions []Definition
	for i := range c.Entries {
		d := c.Entries[i].definition()
		if err := d.check(); err != nil {
			return nil, 0, fmt.Errorf("reading the definition of %s: %w", d.Key(), err)
		}
		definitions = append(definitions, d)
	}
	return definitions, eventstore.Exact(last.Revision), nil
}

// writeConfig writes the definitions if nobody else has in the meantime.
func writeConfig(ctx context.Context, log eventstore.Log, expected eventstore.Expected, definitions []Definition, by string, now time.Time) (eventstore.Expected, error) {
	c := config{Version: configVersion, Updated: now.UTC(), UpdatedBy: by}
	for i := range definitions {
		c.Entries = append(c.Entries, toEntry(&definitions[i]))
	}
	data, err := json.Marshal(c)
	if err != nil {
		return 0, err
	}
	done, err := log.Append(ctx, configStream, expected, eventstore.Proposed{ID: uuid.New(), Type: configType, Data: data})
	if err != nil {
		return 0, fmt.Errorf("writing the definitions of persistent subscriptions: %w", err)
	}
	return eventstore.Exact(done.Revision), nil
}
