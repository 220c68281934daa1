// Package client speaks to the image API that a node's agent serves on a unix socket: load, list, remove and pull.
package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/shiplog/shiplog/runtime/images"
)

// Client of one agent.
type Client struct {
	http   *http.Client
	socket string
}

// New returns a client of the agent that serves on socket.
func New(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Client{http: &http.Client{Transport: &http.Transport{DialContext: dial}}, socket: socket}
}

// Update is one line of an answer that shows progress. The last one has Images or Error.
type Update struct {
	Progress *images.Progress `json:"progress,omitempty"`
	Images   []images.Image   `json:"images,omitempty"`
	Error    string           `json:"error,omitempty"`
}

// Load sends an archive to the agent and returns the images that it holds.
func (c *Client) Load(ctx context.Context, archive io.Reader) ([]images.Image, error) {
	return c.stream(ctx, http.MethodPost, "/images/load", archive, nil)
}

// Pull has the agent pull an image; progress may be nil. dockerConfigJSON holds credentials, or is empty.
func (c *Client) Pull(ctx context.Context, ref string, dockerConfigJSON []byte, progress func(images.Progress)) (images.Image, error) {
	list, err := c.stream(ctx, http.MethodPost, "/images/pull?ref="+url.QueryEscape(ref), bytes.NewReader(dockerConfigJSON), progress)
	if err != nil {
		return images.Image{}, err
	}
	if len(list) != 1 {
		return images.Image{}, fmt.Errorf("pulling %s: the agent named %d images", ref, len(list))
	}
	return list[0], nil
}

// List returns the node's images.
func (c *Client) List(ctx context.Context) ([]images.Image, error) {
	return c.stream(ctx, http.MethodGet, "/images", nil, nil)
}

// Remove removes an image, or a name of one, and returns in words what was done.
func (c *Client) Remove(ctx context.Context, ref string) ([]string, error) {
	resp, err := c.do(ctx, http.MethodDelete, "/images?ref="+url.QueryEscape(ref), nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	var said []string
	if err := json.NewDecoder(resp.Body).Decode(&said); err != nil {
		return nil, fmt.Errorf("reading the agent's answer: %w", err)
	}
	return said, nil
}

func (c *Client) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the node agent at %s: %w: is it running, with this data directory?", c.socket, err)
	}
	if resp.StatusCode != http.StatusOK {
		defer func() { _ = resp.Body.Close() }()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		return nil, errors.New(strings.TrimSpace(string(text)))
	}
	return resp, nil
}

func (c *Client) stream(ctx context.Context, method, path string, body io.Reader, progress func(images.Progress)) ([]images.Image, error) {
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var u Update
		if err := json.Unmarshal(lines.Bytes(), &u); err != nil {
			return nil, fmt.Errorf("reading the agent's answer: %w", err)
		}
		switch {
		case u.Error != "":
			return nil, errors.New(u.Error)
		case u.Progress != nil:
			if progress != nil {
				progress(*u.Progress)
			}
		default:
			return u.Images, nil
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading the agent's answer: %w", err)
	}
	return nil, errors.New("the agent broke its answer off: see its log")
}
