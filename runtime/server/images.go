package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"

	"github.com/shiplog/shiplog/runtime/images"
	"github.com/shiplog/shiplog/runtime/images/client"
)

// imageHandler is the API that package images/client speaks. Only the machine's administrator reaches its socket.
func (s *Server) imageHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /images", func(w http.ResponseWriter, _ *http.Request) {
		newUpdates(w).end(s.cfg.Images.List(), nil)
	})
	mux.HandleFunc("POST /images/load", s.loadImages)
	mux.HandleFunc("POST /images/pull", s.pullImage)
	mux.HandleFunc("DELETE /images", s.removeImage)
	return mux
}

// updates is an answer of one JSON value a line, each sent at once.
type updates struct {
	mu sync.Mutex
	w  http.ResponseWriter
	e  *json.Encoder
}

func newUpdates(w http.ResponseWriter) *updates {
	w.Header().Set("Content-Type", "application/x-ndjson")
	return &updates{w: w, e: json.NewEncoder(w)}
}

func (u *updates) say(v client.Update) {
	u.mu.Lock()
	defer u.mu.Unlock()
	_ = u.e.Encode(v)
	_ = http.NewResponseController(u.w).Flush()
}

func (u *updates) end(list []images.Image, err error) {
	if err != nil {
		u.say(client.Update{Error: err.Error()})
		return
	}
	u.say(client.Update{Images: list})
}

func (s *Server) news() {
	if s.cfg.ImageNews != nil {
		s.cfg.ImageNews()
	}
}

// loadImages takes an archive in. It is kept in a file first: its parts are read in the order of need, not of the file.
func (s *Server) loadImages(w http.ResponseWriter, r *http.Request) {
	f, err := os.CreateTemp("", "shiplog-image-")
	if err != nil {
		http.Error(w, fmt.Sprintf("taking the archive in: %v", err), http.StatusInternalServerError)
		return
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = io.Copy(f, r.Body)
	if err = errors.Join(err, f.Close()); err != nil {
		http.Error(w, fmt.Sprintf("taking the archive in: %v", err), http.StatusInternalServerError)
		return
	}
	list, err := s.cfg.Images.Load(r.Context(), f.Name())
	s.news()
	newUpdates(w).end(list, err)
}

func (s *Server) pullImage(w http.ResponseWriter, r *http.Request) {
	config, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var auth images.Credentials
	if len(config) > 0 {
		if auth, err = images.ParseDockerConfigJSON(config); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	u := newUpdates(w)
	i, err := s.cfg.Images.Pull(r.Context(), r.URL.Query().Get("ref"), auth, func(p images.Progress) { u.say(client.Update{Progress: &p}) })
	s.news()
	u.end([]images.Image{i}, err)
}

func (s *Server) removeImage(w http.ResponseWriter, r *http.Request) {
	said, err := s.cfg.Images.Remove(r.Context(), r.URL.Query().Get("ref"), s.cfg.Node.ImageInUse)
	if err != nil {
		code := http.StatusInternalServerError
		switch {
		case errors.Is(err, images.ErrNotFound):
			code = http.StatusNotFound
		case errors.Is(err, images.ErrInUse):
			code = http.StatusConflict
		case errors.Is(err, images.ErrInvalidName):
			code = http.StatusBadRequest
		}
		http.Error(w, err.Error(), code)
		return
	}
	s.news()
	writeJSON(w, said)
}
