package historyhttp

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Client is a projections.History that asks a cluster.
type Client struct {
	server string
	http   *http.Client
	kinds  *domain.Set
}

var _ projections.History = (*Client)(nil)

// NewClient returns a history that asks the cluster at server ("https://host:port") through an authenticated HTTP client.
func NewClient(server string, client *http.Client, kinds *domain.Set) *Client {
	return &Client{server: strings.TrimSuffix(server, "/"), http: client, kinds: kinds}
}

func (c *Client) ask(ctx context.Context, question string, q request, answer any) error {
	body, err := json.Marshal(q)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.server+Prefix+question, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("asking the cluster's history: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("asking the cluster's history: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var p problem
		if err := json.Unmarshal(data, &p); err != nil || p.Message == "" {
			return fmt.Errorf("asking the cluster's history: %s", resp.Status)
		}
		for _, known := range problems {
			if known.name == p.Kind {
				return &remoteError{message: p.Message, kind: known.err}
			}
		}
		return fmt.Errorf("asking the cluster's history: %s", p.Message)
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("reading the history's answer: %w", err)
	}
	return nil
}

// remoteError keeps the words of the other side and the kind of the error, without saying the kind twice.
type remoteError struct {
	message string
	kind    error
}

func (e *remoteError) Error() string { return e.message }
func (e *remoteError) Unwrap() error { return e.kind }

// Position implements projections.History.
func (c *Client) Position(ctx context.Context) (position uint64, err error) {
	err = c.ask(ctx, "position", request{}, &position)
	return position, err
}

// PositionAt implements projections.History.
func (c *Client) PositionAt(ctx context.Context, t time.Time) (position uint64, err error) {
	err = c.ask(ctx, "positionAt", request{Time: t}, &position)
	return position, err
}

// GetAt implements projections.History.
func (c *Client) GetAt(ctx context.Context, ref domain.Ref, position uint64) (*projections.Object, error) {
	var w wireObject
	if err := c.ask(ctx, "object", request{Ref: ref, Position: position}, &w); err != nil {
		return nil, err
	}
	return fromWire(c.kinds, w)
}

// ListAt implements projections.History.
func (c *Client) ListAt(ctx context.Context, gr domain.Resource, namespace string, position uint64) ([]*projections.Object, error) {
	var list []wireObject
	q := request{Ref: domain.Ref{Group: gr.Group, Resource: gr.Resource}, Namespace: namespace, Position: position}
	if err := c.ask(ctx, "list", q, &list); err != nil {
		return nil, err
	}
	objects := make([]*projections.Object, len(list))
	for i, w := range list {
		o, err := fromWire(c.kinds, w)
		if err != nil {
			return nil, err
		}
		objects[i] = o
	}
	return objects, nil
}

// Events implements projections.History.
func (c *Client) Events(ctx context.Context, q projections.EventQuery) (events []domain.Event, err error) {
	err = c.ask(ctx, "events", request{Query: q}, &events)
	return events, err
}

// Event implements projections.History.
func (c *Client) Event(ctx context.Context, position uint64, id string) (event domain.Event, err error) {
	err = c.ask(ctx, "event", request{Position: position, ID: id}, &event)
	return event, err
}
