package containers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// AttachOptions of a connection to a container's own streams. Streams may be nil.
type AttachOptions struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan TerminalSize
}

// The first byte of what conmon sends over an attach socket: which stream the rest is of.
const (
	streamStdout = 2
	streamStderr = 3
)

// Attach connects streams to those of a container's first process, by conmon's socket. It returns when the container has
// ended or the context is done; the container does not notice.
func (r *Runtime) Attach(ctx context.Context, id string, o AttachOptions) error {
	st, err := r.Get(id)
	if err != nil {
		return err
	}
	if st.State != Running {
		return fmt.Errorf("%w: %s", ErrNotRunning, st.Name)
	}
	// The socket's path may be longer than an address can be: it is reached through its open directory.
	dir, err := os.Open(r.bundle(id))
	if err != nil {
		return fmt.Errorf("attaching to container %s: %w", st.Name, err)
	}
	defer func() { _ = dir.Close() }()
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: fmt.Sprintf("/proc/self/fd/%d/attach", dir.Fd())})
	if err != nil {
		return fmt.Errorf("attaching to container %s: %w", st.Name, err)
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	done := make(chan struct{})
	defer close(done)
	if o.Resize != nil {
		go func() {
			for {
				select {
				case size, ok := <-o.Resize:
					if !ok {
						return
					}
					if err := r.Resize(id, size); err != nil {
						r.log.Debug("resizing a terminal", "container", id, "error", err)
					}
				case <-done:
					return
				}
			}
		}()
	}
	if o.Stdin != nil && st.Stdin {
		go func() {
			buf := make([]byte, 8<<10) // conmon reads packets no larger
			for {
				n, err := o.Stdin.Read(buf)
				if n > 0 {
					if _, werr := conn.Write(buf[:n]); werr != nil {
						return
					}
				}
				if err != nil {
					_ = conn.CloseWrite()
					return
				}
			}
		}()
	}
	buf := make([]byte, 32<<10+1)
	for {
		n, err := conn.Read(buf)
		if n > 1 {
			to := o.Stdout
			if buf[0] == streamStderr {
				to = o.Stderr
			}
			if to != nil {
				if _, err := to.Write(buf[1:n]); err != nil {
					return nil //nolint:nilerr // the client went away
				}
			}
		}
		if err != nil || n == 0 {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err == nil || errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
				return nil
			}
			return fmt.Errorf("attached to container %s: %w", st.Name, err)
		}
	}
}

// control sends conmon one of its commands: 1 resizes the terminal, 2 opens the log anew.
func (r *Runtime) control(id, command string) error {
	f, err := os.OpenFile(filepath.Join(r.bundle(id), "ctl"), os.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("speaking to the container's monitor: %w", err)
	}
	defer func() { _ = f.Close() }()
	if _, err := io.Copy(f, strings.NewReader(command)); err != nil {
		return fmt.Errorf("speaking to the container's monitor: %w", err)
	}
	return nil
}

// Resize changes the size of a container's terminal.
func (r *Runtime) Resize(id string, size TerminalSize) error {
	return r.control(id, fmt.Sprintf("1 %d %d\n", size.Height, size.Width))
}

// ReopenLog makes conmon go on in a new file of the log's name, after somebody has moved the old one away.
func (r *Runtime) ReopenLog(id string) error { return r.control(id, "2 0 0\n") }
