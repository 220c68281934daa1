package keystore

import (
	"errors"
	"fmt"
	"slices"
)

// do queues a task and waits for it.
func (s *File) do(t *task) error {
	if s.opts.ReadOnly {
		return ErrReadOnly
	}
	t.result = make(chan error, 1)
	s.closing.RLock()
	if s.closed {
		s.closing.RUnlock()
		return ErrClosed
	}
	s.queue <- t
	s.closing.RUnlock()
	return <-t.result
}

func (s *File) alone(f func() error) error { return s.do(&task{alone: f}) }

// commit carries out what is asked for, all that waits with one sync. It is the only goroutine that touches the files.
func (s *File) commit() {
	defer close(s.stopped)
	for first := range s.queue {
		batch := []*task{first}
	drain:
		for first.alone == nil && len(batch) < cap(s.queue) {
			select {
			case t, ok := <-s.queue:
				if !ok {
					break drain
				}
				batch = append(batch, t)
				if t.alone != nil {
					break drain
				}
			default:
				break drain
			}
		}
		var last *task
		if l := batch[len(batch)-1]; l.alone != nil {
			last, batch = l, batch[:len(batch)-1]
		}
		if len(batch) > 0 {
			err := s.guarded(func() error { return s.write(batch) })
			for _, t := range batch {
				t.result <- err
			}
		}
		if last != nil {
			last.result <- s.guarded(last.alone)
		}
	}
}

// guarded does something to the files unless they have failed before. After a failure nothing is tried again: what a failed sync has left
// on the disk is not known.
func (s *File) guarded(f func() error) error {
	s.mu.RLock()
	err := s.failed
	s.mu.RUnlock()
	if err != nil {
		return err
	}
	if err = f(); err == nil || errors.Is(err, errUnchanged) {
		return err
	}
	err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	s.mu.Lock()
	s.failed = err
	s.mu.Unlock()
	return err
}

// errUnchanged marks an error that came before anything was written.
var errUnchanged = errors.New("nothing has been changed")

// write carries out a batch.
func (s *File) write(batch []*task) error {
	var added []entry
	var cleared []int
	for _, t := range batch {
		if t.add != nil {
			slot, err := s.takeSlot()
			if err != nil {
				return err
			}
			e := entry{wrap(s.current, t.add.id, t.add.nonce, t.plain), slot}
			if err := s.put(e); err != nil {
				return err
			}
			added = append(added, e)
		}
		for _, slot := range t.clear {
			if err := s.zero(slot); err != nil {
				return err
			}
			cleared = append(cleared, slot)
		}
	}
	if err := s.file.sync(); err != nil {
		return fmt.Errorf("syncing: %w", err)
	}
	s.free = append(s.free, cleared...)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range added {
		s.keys[e.id] = e
		s.pending[e.id] = true
	}
	return nil
}

func (s *File) put(e entry) error {
	if _, err := s.file.WriteAt(e.encode(), offset(e.slot)); err != nil {
		return fmt.Errorf("writing a slot: %w", err)
	}
	return nil
}

func (s *File) zero(slot int) error {
	if _, err := s.file.WriteAt(make([]byte, slotSize), offset(slot)); err != nil {
		return fmt.Errorf("overwriting a slot: %w", err)
	}
	return nil
}

// clear overwrites slots for good.
func (s *File) clear(slots []int) error {
	if len(slots) == 0 {
		return nil
	}
	for _, slot := range slots {
		if err := s.zero(slot); err != nil {
			return err
		}
	}
	if err := s.file.sync(); err != nil {
		return fmt.Errorf("syncing: %w", err)
	}
	s.free = append(s.free, slots...)
	return nil
}

func offset(slot int) int64 { return headSize + int64(slot)*slotSize }

// takeSlot returns a free slot, of a larger file if need be. The size is synced with what is written into the slot.
func (s *File) takeSlot() (int, error) {
	if len(s.free) == 0 {
		if _, err := s.file.WriteAt(make([]byte, growBy*slotSize), offset(s.slots)); err != nil {
			return 0, fmt.Errorf("making room for keys: %w", err)
		}
		for i := range growBy {
			s.free = append(s.free, s.slots+growBy-1-i)
		}
		s.slots += growBy
	}
	slot := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	return slot, nil
}

// Rotate makes a new key-encryption key, wraps every key by it, and destroys the old one. It can be interrupted at any point: the next
// Open goes on. It returns how many keys were wrapped anew.
func (s *File) Rotate() (int, error) {
	n := 0
	err := s.alone(func() error {
		old := s.current
		next, err := randomKEK(old.generation+1, 1-old.line)
		if err != nil {
			return fmt.Errorf("%w: %w", errUnchanged, err)
		}
		if err := s.writeKEK(next.line, next.encode()); err != nil {
			return err
		}
		s.mu.Lock()
		s.keks[next.id] = next
		n = len(s.keys)
		s.mu.Unlock()
		s.current = next
		return s.rewrapAll(old)
	})
	if err != nil {
		return 0, fmt.Errorf("rotating the key-encryption key: %w", err)
	}
	return n, nil
}

func (s *File) writeKEK(line int, data []byte) error {
	if _, err := s.kekf.WriteAt(data, int64(line)*lineSize); err != nil {
		return fmt.Errorf("writing %s: %w", s.opts.KEKFile, err)
	}
	if err := s.kekf.sync(); err != nil {
		return fmt.Errorf("syncing %s: %w", s.opts.KEKFile, err)
	}
	return nil
}

// rewrapAll wraps by the current KEK what is wrapped by an old one, and destroys that. A key is written to another slot before its old one
// is overwritten, so that it is never in none.
func (s *File) rewrapAll(old kek) error {
	s.mu.RLock()
	var left []entry
	for _, e := range s.keys {
		if e.kek == old.id {
			left = append(left, e)
		}
	}
	doomed := slices.Clone(s.doomed)
	s.mu.RUnlock()
	for i, e := range doomed { // kept for a backup that holds the store
		if e.kek == old.id {
			left = append(left, doomed[i])
		}
	}
	moved := make(map[int]entry, len(left))
	for _, e := range left {
		key, err := e.unwrap(old)
		if err != nil {
			s.opts.Logger.Error("a data key cannot be unwrapped and is dropped: what it sealed cannot be read", "error", err)
			continue
		}
		slot, err := s.takeSlot()
		if err != nil {
			return err
		}
		nonce, err := freshNonce()
		if err != nil {
			return err
		}
		next := entry{wrap(s.current, e.id, nonce, key), slot}
		if err := s.put(next); err != nil {
			return err
		}
		moved[e.slot] = next
	}
	if err := s.file.sync(); err != nil {
		return fmt.Errorf("syncing: %w", err)
	}
	// Those that were destroyed meanwhile have left the map, and their old slots wait in the queue to be cleared: their new ones go now.
	var slots []int
	s.mu.Lock()
	for _, e := range left {
		next, ok := moved[e.slot]
		if now, there := s.keys[e.id]; there && now.slot == e.slot {
			slots = append(slots, e.slot)
			if ok {
				s.keys[e.id] = next
			} else {
				delete(s.keys, e.id)
			}
			continue
		}
		if i := slices.IndexFunc(s.doomed, func(d entry) bool { return d.slot == e.slot }); i >= 0 && ok {
			s.doomed[i] = next
			slots = append(slots, e.slot)
			continue
		}
		if ok {
			slots = append(slots, next.slot)
		}
	}
	s.mu.Unlock()
	if err := s.clear(slots); err != nil {
		return err
	}
	if err := s.writeKEK(old.line, freeLine()); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.keks, old.id)
	s.mu.Unlock()
	return nil
}
