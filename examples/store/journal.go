package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// journal keeps what happened, a JSON line each, and what follows from it.
type journal struct {
	mu       sync.Mutex // guards all
	file     *os.File   // nil: memory only
	counters map[string]int
	lists    map[string][]string
}

// happening is a line of the journal.
type happening struct {
	Counted string `json:"counted,omitempty"` // the counter's name
	NotedIn string `json:"notedIn,omitempty"` // the list's name
	Note    string `json:"note,omitempty"`
}

// openJournal reads the journal in the directory, or keeps one in memory alone when there is no directory. A last line that was
// not finished is cut off: nobody was told that it had happened.
func openJournal(dir string) (*journal, error) {
	j := &journal{counters: map[string]int{}, lists: map[string][]string{}}
	if dir == "" {
		return j, nil
	}
	file, err := os.OpenFile(filepath.Join(dir, "journal"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	good := int64(0)
	for r := bufio.NewReader(file); ; {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("reading the journal: %w", err), file.Close())
		}
		var h happening
		if err := json.Unmarshal(line, &h); err != nil {
			return nil, errors.Join(fmt.Errorf("reading the journal at byte %d: %w", good, err), file.Close())
		}
		j.apply(h)
		good += int64(len(line))
	}
	if err := file.Truncate(good); err != nil {
		return nil, errors.Join(fmt.Errorf("cutting off the journal's unfinished line: %w", err), file.Close())
	}
	if _, err := file.Seek(good, io.SeekStart); err != nil {
		return nil, errors.Join(fmt.Errorf("going to the journal's end: %w", err), file.Close())
	}
	j.file = file
	return j, nil
}

func (j *journal) apply(h happening) {
	if h.Counted != "" {
		j.counters[h.Counted]++
	}
	if h.NotedIn != "" {
		j.lists[h.NotedIn] = append(j.lists[h.NotedIn], h.Note)
	}
}

// record writes, then applies: what is answered is on disk.
func (j *journal) record(h happening) error {
	if j.file != nil {
		line, err := json.Marshal(h)
		if err != nil {
			return fmt.Errorf("writing the journal: %w", err)
		}
		if _, err := j.file.Write(append(line, '\n')); err != nil {
			return fmt.Errorf("writing the journal: %w", err)
		}
		if err := j.file.Sync(); err != nil {
			return fmt.Errorf("writing the journal: %w", err)
		}
	}
	j.apply(h)
	return nil
}

func (j *journal) count(name string) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.record(happening{Counted: name}); err != nil {
		return 0, err
	}
	return j.counters[name], nil
}

func (j *journal) counter(name string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.counters[name]
}

func (j *journal) note(list, note string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.record(happening{NotedIn: list, Note: note})
}

func (j *journal) notes(list string) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lists[list])
}

func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	return j.file.Close()
}
