package nodefeed_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore/keystore"
	"github.com/shiplog/shiplog/projections/nodefeed"
)

// TestACopyIsSealed: a node's file holds what is secret as ciphertext, the file before opens with nothing, and without its keys a file is no copy.
func TestACopyIsSealed(t *testing.T) {
	kinds := domain.NewSet(domain.Kinds())
	dir := t.TempDir()
	path := filepath.Join(dir, "copy")
	keys, err := keystore.Open(filepath.Join(dir, "keys"), keystore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Close()
	store := nodefeed.NewStore(path, kinds)
	store.SealBy(keys)
	c := nodefeed.NewCopy()
	put := func(position uint64, value string) {
		s := secret("a")
		s.Data, s.ResourceVersion = map[string][]byte{"k": []byte(value)}, "7"
		ref := domain.Ref{Resource: "secrets", Namespace: "default", Name: "a", UID: s.UID}
		for _, item := range []nodefeed.Item{
			{Op: nodefeed.Reset},
			{Op: nodefeed.Put, Ref: ref, Object: s},
			{Op: nodefeed.Put, Ref: domain.Ref{Resource: "secrets", Namespace: "default", Name: "b"}, Object: secret("b")},
			{Op: nodefeed.Put, Ref: domain.Ref{Resource: "pods", Namespace: "default", Name: "p"}, Object: podWith("p", "n1", fromSecret("a"))},
			{Op: nodefeed.Synced, Position: position},
		} {
			c.Apply(item)
		}
		if err := store.Save(c); err != nil {
			t.Fatal(err)
		}
	}
	put(1, "canary-one")
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	put(2, "canary-two")
	second, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range [][]byte{first, second} {
		if bytes.Contains(file, []byte("canary")) || bytes.Contains(file, []byte("Y2FuYXJ5")) || !bytes.Contains(file, []byte(`"name":"p"`)) {
			t.Errorf("the file holds\n%s", file)
		}
	}
	if n := keys.Len(); n != 1 {
		t.Errorf("%d keys for one file", n)
	}
	load := func(content []byte, with keystore.Store) (*nodefeed.Copy, error) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s := nodefeed.NewStore(path, kinds)
		if with != nil {
			s.SealBy(with)
		}
		return s.Load()
	}
	if _, err := load(first, keys); !errors.Is(err, nodefeed.ErrBadItem) {
		t.Errorf("the file before: %v", err)
	}
	if _, err := load(second, nil); !errors.Is(err, nodefeed.ErrBadItem) {
		t.Errorf("without keys: %v", err)
	}
	loaded, err := load(second, keys)
	if err != nil {
		t.Fatal(err)
	}
	got, ok := nodefeed.Get[*corev1.Secret](loaded, secrets, "default", "a")
	if !ok || string(got.Data["k"]) != "canary-two" || got.ResourceVersion != "7" || loaded.Position() != 2 {
		t.Errorf("loaded %+v at %d", got, loaded.Position())
	}
}
