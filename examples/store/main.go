// Store is the back tier of the two-tier example: numbers and lists of notes by name, over HTTP, kept in a journal so that they
// outlive the process where the directory does.
//
//	POST /counters/NAME   adds one and answers the number
//	GET  /counters/NAME   answers the number
//	POST /notes/NAME      adds the body as a note
//	GET  /notes/NAME      answers the notes, a line each
//	GET  /healthz         answers "ok"
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(); err != nil {
		slog.Error("the store stops", "error", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	j, err := openJournal(os.Getenv("DATA_DIR"))
	if err != nil {
		return err
	}
	addr := os.Getenv("LISTEN")
	if addr == "" {
		addr = ":8080"
	}
	server := &http.Server{Addr: addr, Handler: handler(j), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(end)
	}()
	slog.Info("the store is open", "address", addr, "data", os.Getenv("DATA_DIR"))
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving on %s: %w", addr, err)
	}
	return j.close()
}

// maxNote is the longest note, in bytes.
const maxNote = 1 << 10

func handler(j *journal) http.Handler {
	mux := http.NewServeMux()
	fail := func(w http.ResponseWriter, err error) {
		slog.Error("a request failed", "error", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /counters/{name}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, j.counter(r.PathValue("name")))
	})
	mux.HandleFunc("POST /counters/{name}", func(w http.ResponseWriter, r *http.Request) {
		n, err := j.count(r.PathValue("name"))
		if err != nil {
			fail(w, err)
			return
		}
		fmt.Fprintln(w, n)
	})
	mux.HandleFunc("GET /notes/{name}", func(w http.ResponseWriter, r *http.Request) {
		for _, note := range j.notes(r.PathValue("name")) {
			fmt.Fprintln(w, note)
		}
	})
	mux.HandleFunc("POST /notes/{name}", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxNote))
		note := strings.Join(strings.Fields(string(body)), " ")
		if err != nil || note == "" {
			http.Error(w, fmt.Sprintf("a note has 1 to %d bytes", maxNote), http.StatusBadRequest)
			return
		}
		if err := j.note(r.PathValue("name"), note); err != nil {
			fail(w, err)
			return
		}
		fmt.Fprintln(w, "noted")
	})
	return mux
}
