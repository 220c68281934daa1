package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Database and User are the names in DSN.
const (
	Database = "shiplog"
	User     = "shiplog"
)

// ErrInUse says that another process holds the directory.
var ErrInUse = errors.New("in use by another process")

// Options of a server. The zero value is what a cluster uses.
type Options struct {
	Logger *slog.Logger // default: nowhere
	// RunAs is the user that the server runs as when we are root; default: postgres, else nobody.
	RunAs string
	// Settings are added to the server's, and win over them.
	Settings map[string]string
}

// Server is a running private Postgres.
type Server struct {
	dir, data, socketDir string
	barred               string // the directory that the server's user may not pass, "" if it may pass all
	mount                string // where the data is bound to when the way to it is barred; else ""
	install              install
	id                   identity
	opts                 Options
	log                  *slog.Logger
	lock                 *os.File

	failing chan error    // why the server does not answer
	stop    chan struct{} // closed by Stop
	stopped chan struct{} // closed when the supervisor has ended
	once    sync.Once
	cleared sync.Once
	mu      sync.Mutex
	begun   bool // there is a supervisor
	pid     int
	tail    tail
}

// Start is Prepare and Server.Start: it returns when the server answers.
func Start(ctx context.Context, dir string, opts Options) (*Server, error) {
	s, err := Prepare(dir, opts)
	if err != nil {
		return nil, err
	}
	if err := s.Start(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Prepare takes hold of a server's directory and finds out what it takes to run it, in next to no time: the DSN is known then. Only one
// process can have a directory: another gets ErrInUse. ErrNotInstalled says that there is no Postgres on this machine.
func Prepare(dir string, opts Options) (*Server, error) {
	s, err := prepare(dir, opts)
	if err != nil {
		return nil, fmt.Errorf("starting the private Postgres in %s: %w", dir, err)
	}
	return s, nil
}

// Start runs the server, initialising its directory at the first time, and returns when it answers. The context bounds the start
// alone. The server stops with Stop, and with the process that started it however that ends. It is called once.
func (s *Server) Start(ctx context.Context) error {
	if err := s.lay(ctx); err != nil {
		s.clear()
		return fmt.Errorf("starting the private Postgres in %s: %w", s.dir, err)
	}
	s.mu.Lock()
	s.begun = true
	s.mu.Unlock()
	go s.supervise()
	if err := s.waitReady(ctx); err != nil {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return fmt.Errorf("starting the private Postgres in %s: %w", s.dir, errors.Join(err, s.Stop(stopCtx)))
	}
	return nil
}

func prepare(dir string, opts Options) (*Server, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if !installed() {
		return nil, ErrNotInstalled
	}
	id, err := whoRuns(opts.RunAs)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	s := &Server{
		dir: dir, data: filepath.Join(dir, "data"), socketDir: id.runtimeDir(dir), id: id, opts: opts, log: opts.Logger,
		failing: make(chan error, 1), stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	if s.lock, err = lockDir(dir); err != nil {
		return nil, err
	}
	return s, nil
}

// lay prepares everything that the server needs before it can be run.
func (s *Server) lay(ctx context.Context) error {
	found := installs()
	var fresh bool
	var err error
	if s.install, fresh, err = choose(found, majorOfDir(s.data)); err != nil {
		return err
	}
	if err := s.stopStale(ctx); err != nil {
		return err
	}
	if err := s.id.ownDir(s.socketDir); err != nil {
		return fmt.Errorf("making the socket's directory: %w", err)
	}
	if s.barred, err = s.id.openWay(s.dir); err != nil {
		return err
	}
	if s.barred != "" {
		// Someone else's directory is not for us to open: the server sees its data elsewhere, in a mount namespace of its own.
		s.mount = filepath.Join(s.socketDir, "data")
		if err := s.id.ownDir(s.mount); err != nil {
			return fmt.Errorf("making a way around %s: %w", s.barred, err)
		}
	}
	if fresh {
		s.log.Warn("the private Postgres was initialised by a version that is no longer installed: initialising it anew",
			"dir", s.data, "version", majorOfDir(s.data), "installed", s.install.major)
		if err := os.RemoveAll(s.data); err != nil {
			return err
		}
	}
	if majorOfDir(s.data) == 0 {
		return s.initialiseAgain(ctx)
	}
	return nil
}

// DSN is the address under which this process reaches the database.
func (s *Server) DSN() string { return s.dsn(Database) }

func (s *Server) dsn(database string) string {
	q := url.Values{"host": {s.socketDir}, "sslmode": {"disable"}, "user": {User}}
	return "postgres:///" + database + "?" + q.Encode()
}

// PID is the server's process, 0 while it is down.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pid
}

// Version is the major version of the server.
func (s *Server) Version() int { return s.install.major }

// Stop ends the server and waits until it has ended: cleanly at first, at once when the context ends. It can be called again, and of a
// server that was only prepared. Start must have returned.
func (s *Server) Stop(ctx context.Context) error {
	s.once.Do(func() { close(s.stop) })
	s.mu.Lock()
	begun := s.begun
	s.mu.Unlock()
	if !begun {
		s.clear()
		return nil
	}
	select {
	case <-s.stopped:
	case <-ctx.Done():
		s.signal(syscall.SIGQUIT)
		select {
		case <-s.stopped:
		case <-time.After(5 * time.Second):
			s.signal(syscall.SIGKILL)
			<-s.stopped
		}
	}
	return nil
}

func (s *Server) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pid != 0 {
		_ = syscall.Kill(s.pid, sig) // it has ended already otherwise
	}
}

// waitReady connects until the server answers, and makes the database if it is not there.
func (s *Server) waitReady(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.ensureDatabase(ctx)
		if err == nil {
			return nil
		}
		select {
		case why := <-s.failing:
			return why
		case <-ctx.Done():
			return fmt.Errorf("waiting until it answers: %w (%w); it says: %s", context.Cause(ctx), err, s.tail.String())
		case <-tick.C:
		}
	}
}

func (s *Server) ensureDatabase(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.dsn("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var there bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", Database).Scan(&there); err != nil {
		return err
	}
	if there {
		return nil
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{Database}.Sanitize())
	return err
}
