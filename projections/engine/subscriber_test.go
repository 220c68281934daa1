package engine_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/google/uuid"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections/engine"
	"github.com/shiplog/shiplog/projections/projectiontest"
)

// publisher appends messages to the stream of their topic: what watermill's suite needs to have something to receive.
type publisher struct{ log eventstore.Log }

func (p publisher) Publish(topic string, messages ...*message.Message) error {
	for _, m := range messages {
		metadata, err := json.Marshal(m.Metadata)
		if err != nil {
			return err
		}
		id, err := uuid.Parse(m.UUID)
		if err != nil {
			return err
		}
		proposed := eventstore.Proposed{ID: id, Type: "Message", Data: m.Payload, Metadata: metadata}
		if _, err := p.log.Append(context.Background(), topic, eventstore.Any, proposed); err != nil {
			return err
		}
	}
	return nil
}

func (publisher) Close() error { return nil }

// one makes the message that was published of a batch of one event.
func one(b engine.Batch) (*message.Message, error) {
	if len(b.Records) == 0 {
		return nil, nil
	}
	r := b.Records[0]
	m := message.NewMessage(r.ID.String(), r.Data)
	return m, json.Unmarshal(r.Metadata, &m.Metadata)
}

// TestWatermillsSuite runs what of watermill's own suite applies to a subscriber that gives all events to everybody: the suite's
// tests of consumer groups, of restarting a broker and of exactly-once delivery are about other kinds.
func TestWatermillsSuite(t *testing.T) {
	for name, test := range map[string]func(*testing.T, tests.TestContext, tests.PubSubConstructor){
		"TestPublishSubscribe":                  tests.TestPublishSubscribe,
		"TestPublishSubscribeInOrder":           tests.TestPublishSubscribeInOrder,
		"TestConcurrentSubscribeMultipleTopics": tests.TestConcurrentSubscribeMultipleTopics,
		"TestResendOnError":                     tests.TestResendOnError,
		"TestNoAck":                             tests.TestNoAck,
		"TestContinueAfterErrors":               tests.TestContinueAfterErrors,
		"TestConcurrentClose":                   tests.TestConcurrentClose,
		"TestPublisherClose":                    tests.TestPublisherClose,
		"TestTopic":                             tests.TestTopic,
		"TestMessageCtx":                        tests.TestMessageCtx,
		"TestSubscribeCtx":                      tests.TestSubscribeCtx,
		"TestNewSubscriberReceivesOldMessages":  tests.TestNewSubscriberReceivesOldMessages,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := projectiontest.NewLog()
			tc := tests.TestContext{TestID: tests.NewTestID(), Features: tests.Features{
				GuaranteedOrder: true, Persistent: true, NewSubscriberReceivesOldMessages: true, ForceShort: true,
			}}
			test(t, tc, func(*testing.T) (message.Publisher, message.Subscriber) {
				return publisher{log}, engine.NewSubscriber(engine.SubscriberConfig{
					Log: log, MaxEvents: 1, Message: one,
					Filter: func(topic string) eventstore.Filter { return eventstore.Filter{StreamPrefixes: []string{topic}} },
				})
			})
		})
	}
}
