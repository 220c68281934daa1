package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/shiplog/shiplog/runtime/containers"
	"github.com/shiplog/shiplog/runtime/logs"
	"github.com/shiplog/shiplog/runtime/probes"
)

// How long a connection may stay idle, and how long a client may take to open its streams.
const (
	idleTimeout     = 4 * time.Hour
	creationTimeout = 30 * time.Second
)

func (s *Server) find(r *http.Request, previous bool) (containers.Status, error) {
	return s.cfg.Node.Container(r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid"), r.PathValue("container"), previous)
}

// streams carries exec and attach sessions of one container.
type streams struct {
	node Node
	id   string
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	st, err := s.find(r, false)
	if err != nil {
		fail(w, err)
		return
	}
	remotecommand.ServeExec(w, r, streams{s.cfg.Node, st.ID}, st.PodName, st.PodUID, st.Name, r.URL.Query()["command"], options,
		idleTimeout, creationTimeout, remotecommand.SupportedStreamingProtocols)
}

func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	st, err := s.find(r, false)
	if err != nil {
		fail(w, err)
		return
	}
	remotecommand.ServeAttach(w, r, streams{s.cfg.Node, st.ID}, st.PodName, st.PodUID, st.Name, options,
		idleTimeout, creationTimeout, remotecommand.SupportedStreamingProtocols)
}

// ExecInContainer implements remotecommand.Executor.
func (s streams) ExecInContainer(ctx context.Context, _, _, _ string, command []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	o := containers.ExecOptions{Command: command, Stdin: in, TTY: tty}
	if out != nil {
		o.Stdout = out
	}
	if errOut != nil {
		o.Stderr = errOut
	}
	if resize != nil {
		o.Resize = sizes(ctx, resize)
	}
	err := s.node.Exec(ctx, s.id, o)
	var exit *containers.ExitError
	if errors.As(err, &exit) {
		return utilexec.CodeExitError{Err: err, Code: exit.Code}
	}
	return err
}

// AttachContainer implements remotecommand.Attacher.
func (s streams) AttachContainer(ctx context.Context, _, _, _ string, in io.Reader, out, errOut io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	o := containers.AttachOptions{Stdin: in}
	if out != nil {
		o.Stdout = out
	}
	if errOut != nil {
		o.Stderr = errOut
	}
	if resize != nil {
		o.Resize = sizes(ctx, resize)
	}
	return s.node.Attach(ctx, s.id, o)
}

func sizes(ctx context.Context, in <-chan remotecommand.TerminalSize) <-chan containers.TerminalSize {
	out := make(chan containers.TerminalSize)
	go func() {
		defer close(out)
		for {
			select {
			case size, ok := <-in:
				if !ok {
					return
				}
				select {
				case out <- containers.TerminalSize{Width: size.Width, Height: size.Height}:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// run runs a command and answers with what it says.
func (s *Server) run(w http.ResponseWriter, r *http.Request) {
	st, err := s.find(r, false)
	if err != nil {
		fail(w, err)
		return
	}
	var out probes.Output
	err = s.cfg.Node.Exec(r.Context(), st.ID, containers.ExecOptions{Command: r.URL.Query()["cmd"], Stdout: &out, Stderr: &out})
	if err != nil {
		fail(w, fmt.Errorf("%w: %s", err, out.String()))
		return
	}
	_, _ = io.WriteString(w, out.String())
}

func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	options, err := portforward.NewV4Options(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	netns, err := s.cfg.Node.Netns(r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid"))
	if err != nil {
		fail(w, err)
		return
	}
	portforward.ServePortForward(w, r, forwarder{netns}, r.PathValue("pod"), r.PathValue("uid"), options, idleTimeout, creationTimeout, portforward.SupportedProtocols)
}

type forwarder struct{ netns string }

// PortForward implements portforward.PortForwarder.
func (f forwarder) PortForward(ctx context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	conn, err := dialIn(ctx, f.netns, net.JoinHostPort("localhost", strconv.Itoa(int(port))))
	if err != nil {
		return fmt.Errorf("connecting to port %d of the pod: %w", port, err)
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(conn, stream)
		if t, ok := conn.(*net.TCPConn); ok {
			_ = t.CloseWrite()
		}
	})
	_, err = io.Copy(stream, conn)
	_ = stream.Close()
	_ = conn.Close()
	both.Wait()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return err
}

// dialIn connects from inside a network namespace. The socket belongs to the namespace in which it was made, so only its
// making needs the thread to be there.
func dialIn(ctx context.Context, netns, address string) (net.Conn, error) {
	if netns == "" {
		return (&net.Dialer{}).DialContext(ctx, "tcp", address)
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	type answer struct {
		conn net.Conn
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		fd, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- answer{nil, err}
			return
		}
		err = unix.Setns(fd, unix.CLONE_NEWNET)
		_ = unix.Close(fd)
		if err != nil {
			done <- answer{nil, err}
			return
		}
		// Addresses rather than a name: looking a name up would go to other threads, and so to another network.
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp4", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			if six, err6 := (&net.Dialer{}).DialContext(ctx, "tcp6", net.JoinHostPort("::1", port)); err6 == nil {
				conn, err = six, nil
			}
		}
		done <- answer{conn, err}
	}()
	a := <-done
	return a.conn, a.err
}

func (s *Server) containerLogs(w http.ResponseWriter, r *http.Request) {
	o, previous, err := logOptions(r, time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	st, err := s.find(r, previous)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Transfer-Encoding", "chunked")
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	done := make(chan struct{})
	if o.Follow {
		go func() {
			_, _ = s.cfg.Node.Wait(ctx, st.ID)
			close(done)
		}()
	}
	if err := logs.Read(ctx, st.LogPath, o, flushing{w}, done); err != nil {
		s.log.Debug("serving a log", "container", st.Name, "error", err)
		_, _ = fmt.Fprintf(w, "%v\n", err)
	}
}

// flushing gives the log reader a way to say that what it wrote is to be sent now.
type flushing struct{ http.ResponseWriter }

func (f flushing) Flush() { _ = http.NewResponseController(f.ResponseWriter).Flush() }

func logOptions(r *http.Request, now time.Time) (o logs.Options, previous bool, err error) {
	q := r.URL.Query()
	flag := func(name string) bool {
		v, ferr := strconv.ParseBool(q.Get(name))
		if q.Get(name) != "" && ferr != nil {
			err = fmt.Errorf("%w: %s is not a truth value", errBadRequest, name)
		}
		return v
	}
	number := func(names ...string) *int64 {
		for _, name := range names {
			if v := q.Get(name); v != "" && v != "all" {
				n, nerr := strconv.ParseInt(v, 10, 64)
				if nerr != nil || n < 0 {
					err = fmt.Errorf("%w: %s is not a number", errBadRequest, name)
					return nil
				}
				return &n
			}
		}
		return nil
	}
	o = logs.Options{Follow: flag("follow"), Timestamps: flag("timestamps"), Tail: number("tailLines", "tail"), Limit: number("limitBytes")}
	if s := number("sinceSeconds"); s != nil {
		o.Since = now.Add(-time.Duration(*s) * time.Second)
	}
	if t := q.Get("sinceTime"); t != "" {
		at, terr := time.Parse(time.RFC3339, t)
		if terr != nil {
			return o, false, fmt.Errorf("%w: sinceTime is not a time: %w", errBadRequest, terr)
		}
		o.Since = at
	}
	switch q.Get("stream") {
	case "Stdout":
		o.Stream = "stdout"
	case "Stderr":
		o.Stream = "stderr"
	}
	return o, flag("previous"), err
}
