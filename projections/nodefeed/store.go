package nodefeed

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore/keystore"
)

// Store keeps a copy in a file, so that a node that starts while the control plane is away knows what it is to run. It holds
// secrets: the file is readable by its owner alone, and they are sealed when there are keys (SealBy). It is used by one goroutine.
type Store struct {
	path  string
	kinds *domain.Set
	keys  keystore.Store
	saved uint64 // version of the copy that the file holds; 0: none
}

// SealBy lets the store seal what is secret by keys of the node's own. It is called before anything else.
func (s *Store) SealBy(keys keystore.Store) { s.keys = keys }

// NewStore returns a store that keeps its copy at a path, whose directory must be there.
func NewStore(path string, kinds *domain.Set) *Store { return &Store{path: path, kinds: kinds} }

// Load returns the copy of the file: an empty one when there is no file. A damaged file gives an empty copy and an error that
// is ErrBadItem: the feed will start over.
func (s *Store) Load() (*Copy, error) {
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return NewCopy(), nil
	}
	if err != nil {
		return NewCopy(), fmt.Errorf("reading the node's copy: %w", err)
	}
	defer f.Close()
	c := NewCopy()
	seal := sealing{kinds: s.kinds, keys: s.keys}
	key := ""
	r := bufio.NewReader(f)
	complete := false
	for {
		data, err := r.ReadBytes('\n')
		if err == io.EOF && len(data) == 0 {
			break
		}
		if err != nil {
			return NewCopy(), fmt.Errorf("reading the node's copy from %s: %w: the last line is cut off", s.path, ErrBadItem)
		}
		item, id, err := seal.unmarshal(data)
		if err != nil {
			return NewCopy(), fmt.Errorf("reading the node's copy from %s: %w", s.path, err)
		}
		if id != "" {
			key = id
		}
		c.Apply(item)
		complete = item.Op == Synced
	}
	if !complete {
		return NewCopy(), fmt.Errorf("reading the node's copy from %s: %w: it does not end with %q", s.path, ErrBadItem, Synced)
	}
	if err := seal.keep(key); err != nil {
		return c, fmt.Errorf("destroying the keys of earlier copies: %w", err)
	}
	s.saved = c.Version()
	return c, nil
}

// Save writes the copy to the file, all or nothing, unless it is not complete or has not changed since the last Save or Load.
func (s *Store) Save(c *Copy) error {
	version := c.Version()
	if version == s.saved {
		return nil
	}
	items, ok := c.Items()
	if !ok {
		return nil
	}
	if err := s.write(items); err != nil {
		return fmt.Errorf("saving the node's copy: %w", err)
	}
	s.saved = version
	return nil
}

func (s *Store) write(items []Item) (err error) {
	dir := filepath.Dir(s.path)
	f, err := os.CreateTemp(dir, filepath.Base(s.path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	w := bufio.NewWriter(f)
	seal := sealing{kinds: s.kinds, keys: s.keys}
	for i := range items {
		data, err := seal.marshal(items[i])
		if err != nil {
			return err
		}
		w.Write(data)     // a bufio.Writer keeps its
		w.WriteByte('\n') // first error for Flush
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), s.path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return err
	}
	return seal.keep(seal.key.ID)
}
