// Package logs reads the logs of containers, which are in the format of the CRI: a line is "<time> <stream> <tag> <text>", where
// the tag P says that the text goes on in the next line.
package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Options of a reading. The zero value reads everything there is.
type Options struct {
	Follow     bool
	Tail       *int64 // lines from the end
	Since      time.Time
	Timestamps bool
	Limit      *int64 // bytes
	// Stream is "stdout", "stderr" or empty for both.
	Stream string
}

// ErrFormat says that a line is not one of the format.
var ErrFormat = errors.New("not a line of a container's log")

// Line of a log.
type Line struct {
	Time    time.Time
	Stream  string // stdout or stderr
	Partial bool
	Text    []byte // without the end of the line
}

// Parse reads a line without its end. The text is part of data.
func Parse(data []byte) (Line, error) {
	var f [3][]byte
	rest := data
	for i := range f {
		var ok bool
		if f[i], rest, ok = bytes.Cut(rest, []byte{' '}); !ok && i < 2 {
			return Line{}, ErrFormat
		}
	}
	at, err := time.Parse(time.RFC3339Nano, string(f[0]))
	if err != nil {
		return Line{}, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	stream := string(f[1])
	if stream != "stdout" && stream != "stderr" {
		return Line{}, ErrFormat
	}
	return Line{Time: at, Stream: stream, Partial: len(f[2]) > 0 && f[2][0] == 'P', Text: rest}, nil
}

// errLimit ends a reading that has given as many bytes as it may.
var errLimit = errors.New("limit reached")

// Read copies a log to out. With Follow it goes on until done is closed (the container has ended) and everything is read, or
// the context ends. A log that is not there yet is empty.
func Read(ctx context.Context, path string, o Options, out io.Writer, done <-chan struct{}) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) && o.Follow {
		f, err = nil, nil
	}
	if err != nil {
		return fmt.Errorf("reading a log: %w", err)
	}
	r := &reader{path: path, o: o, out: out, file: f, left: -1}
	defer r.close()
	if o.Limit != nil {
		r.left = *o.Limit
	}
	if o.Tail != nil && f != nil {
		at, err := tailOffset(f, *o.Tail, o.Stream)
		if err != nil {
			return fmt.Errorf("reading a log: %w", err)
		}
		if _, err := f.Seek(at, io.SeekStart); err != nil {
			return fmt.Errorf("reading a log: %w", err)
		}
	}
	if err := r.run(ctx, done); err != nil && !errors.Is(err, errLimit) {
		return fmt.Errorf("reading a log: %w", err)
	}
	return nil
}

type reader struct {
	path string
	o    Options
	out  io.Writer
	file *os.File
	held []byte // the beginning of a line whose end is not written yet
	left int64
	// middle: the last line that was given was partial.
	middle bool
}

func (r *reader) close() {
	if r.file != nil {
		_ = r.file.Close()
	}
}

func (r *reader) run(ctx context.Context, done <-chan struct{}) error {
	if !r.o.Follow {
		return r.drain(ctx)
	}
	// The directory is watched rather than the file: a rotated log is a new file of the same name.
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer func() { _ = w.Close() }()
	if err := w.Add(filepath.Dir(r.path)); err != nil {
		return err
	}
	last := false
	for {
		if err := r.drain(ctx); err != nil {
			return err
		}
		rotated, err := r.rotated()
		if err != nil {
			return err
		}
		if rotated {
			continue
		}
		if last {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-done:
			last = true
		case <-w.Errors:
		case ev := <-w.Events:
			for ev.Name != r.path && !last { // another container's log in the same directory
				select {
				case ev = <-w.Events:
				case <-done:
					last = true
				case <-ctx.Done():
					return nil
				}
			}
		}
	}
}

// rotated goes over to the new file when the one that is open has been moved aside and is read to its end.
func (r *reader) rotated() (bool, error) {
	info, err := os.Stat(r.path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if r.file != nil {
		if have, err := r.file.Stat(); err == nil && os.SameFile(have, info) {
			return false, nil
		}
		if err := r.drain(context.Background()); err != nil {
			return false, err
		}
	}
	f, err := os.Open(r.path)
	if err != nil {
		return false, err
	}
	r.close()
	r.file, r.held = f, nil
	return true, nil
}

func (r *reader) drain(ctx context.Context) error {
	if r.file == nil {
		return nil
	}
	buf := make([]byte, 64<<10)
	for {
		if ctx.Err() != nil {
			return nil
		}
		n, err := r.file.Read(buf)
		data := buf[:n]
		for len(data) > 0 {
			end := bytes.IndexByte(data, '\n')
			if end < 0 {
				r.held = append(r.held, data...)
				break
			}
			line := data[:end]
			if len(r.held) > 0 {
				line = append(r.held, line...)
			}
			if err := r.line(line); err != nil {
				return err
			}
			r.held, data = r.held[:0], data[end+1:]
		}
		if errors.Is(err, io.EOF) {
			return r.flush()
		}
		if err != nil {
			return err
		}
	}
}

func (r *reader) flush() error {
	if f, ok := r.out.(interface{ Flush() }); ok {
		f.Flush()
	}
	return nil
}

func (r *reader) line(data []byte) error {
	l, err := Parse(data)
	if err != nil {
		return nil //nolint:nilerr // a line that a crash cut short says nothing
	}
	if r.o.Stream != "" && l.Stream != r.o.Stream || !r.o.Since.IsZero() && l.Time.Before(r.o.Since) {
		return nil
	}
	text := make([]byte, 0, len(l.Text)+40)
	if r.o.Timestamps && !r.middle {
		text = append(l.Time.UTC().AppendFormat(text, time.RFC3339Nano), ' ')
	}
	text = append(text, l.Text...)
	if !l.Partial {
		text = append(text, '\n')
	}
	r.middle = l.Partial
	if r.left >= 0 && int64(len(text)) >= r.left {
		_, err := r.out.Write(text[:r.left])
		return errors.Join(err, errLimit)
	}
	if r.left >= 0 {
		r.left -= int64(len(text))
	}
	_, err = r.out.Write(text)
	return err
}

// tailOffset is where the last n lines begin, counted backwards. Continued lines count once.
func tailOffset(f *os.File, n int64, stream string) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	size := info.Size()
	if n <= 0 {
		return size, nil
	}
	const block = 64 << 10
	for back := int64(block); ; back *= 4 {
		from := max(0, size-back)
		starts, err := lineStarts(io.NewSectionReader(f, from, size-from), from, stream)
		if err != nil {
			return 0, err
		}
		if from > 0 && len(starts) > 0 {
			starts = starts[1:] // it may have begun before the block
		}
		if int64(len(starts)) >= n {
			return starts[int64(len(starts))-n], nil
		}
		if from == 0 {
			return 0, nil
		}
	}
}

func lineStarts(r io.Reader, at int64, stream string) ([]int64, error) {
	br := bufio.NewReader(r)
	var starts []int64
	middle := map[string]bool{}
	for {
		data, err := br.ReadBytes('\n')
		if len(data) > 0 {
			if l, perr := Parse(bytes.TrimSuffix(data, []byte{'\n'})); perr == nil && (stream == "" || l.Stream == stream) {
				if !middle[l.Stream] {
					starts = append(starts, at)
				}
				middle[l.Stream] = l.Partial
			} else if perr != nil && len(starts) == 0 {
				starts = append(starts, at) // the cut line at a block's beginning
			}
			at += int64(len(data))
		}
		if errors.Is(err, io.EOF) {
			return starts, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
