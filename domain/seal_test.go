package domain

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// keyring is a key store for tests, with keys made from a counter.
type keyring map[string][]byte

func (r keyring) DataKey(id string) ([]byte, bool) {
	key, ok := r[id]
	return key, ok
}

func (r keyring) add(n uint64) (DataKey, []byte) {
	key := make([]byte, DataKeySize)
	binary.BigEndian.PutUint64(key, n)
	nonce := make([]byte, NonceSize)
	binary.BigEndian.PutUint64(nonce, n)
	k := DataKey{ID: fmt.Sprintf("key-%d", n), Key: key}
	r[k.ID] = key
	return k, nonce
}

func secrets(t testing.TB) *Kind {
	t.Helper()
	k, ok := NewSet(Kinds()).Lookup("secrets")
	if !ok {
		t.Fatal("there are no secrets")
	}
	return k
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestSealedFold is the law for kinds with sealed fields: the events hold sealed documents, the fold needs no key and leads to
// them to the byte, and what it leads to opens to the object.
func TestSealedFold(t *testing.T) {
	k := secrets(t)
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed")))
		f := fillerFor(r.Int63())
		ring := keyring{}
		var s State
		var open, sealedDoc []byte
		obj := fill(k, f, "uid-1")
		ref := k.Ref("ns", "n")
		ref.UID = "uid-1"
		for i := range uint64(rapid.IntRange(1, 8).Draw(t, "steps")) {
			if i > 0 {
				next := obj.DeepCopyObject()
				graft(r, reflect.ValueOf(next), reflect.ValueOf(fill(k, f, "uid-1")))
				obj = next
			}
			var err error
			if open, err = Encode(k, obj); err != nil {
				t.Fatal(err)
			}
			before := sealedDoc
			rest, payload := k.Split(open)
			if sealedDoc = rest; payload != nil {
				key, nonce := ring.add(i + 1)
				if sealedDoc, err = Seal(rest, payload, ref, key, nonce); err != nil {
					t.Fatal(err)
				}
			}
			e := Event{Op: Created, Ref: ref, Revision: i, Position: i + 1, Version: SchemaVersion, Change: sealedDoc}
			if i > 0 {
				e.Op = Changed
				if e.Change, err = Delta(k, before, sealedDoc); err != nil {
					t.Fatal(err)
				}
			}
			data, metadata, err := MarshalEvent(e)
			if err != nil {
				t.Fatal(err)
			}
			read, err := UnmarshalEvent("T", "i", data, metadata, e.Position, e.Revision, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			if len(read.Change) == 0 {
				read.Op = ""
			}
			if s, err = s.Apply(read); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(s.JSON, sealedDoc) {
				t.Fatalf("the fold leads to\n%s\nand not to\n%s", s.JSON, sealedDoc)
			}
			if got, err := Open(s.JSON, ref, ring); err != nil || !bytes.Equal(got, open) {
				t.Fatalf("opened: %v\n%s\nwant\n%s", err, got, open)
			}
			if canonical, err := Canonical(s.JSON); err != nil || !bytes.Equal(canonical, s.JSON) {
				t.Fatalf("not canonical: %s", s.JSON)
			}
		}
	})
}

func secret(data map[string][]byte, annotations map[string]string) *corev1.Secret {
	s := &corev1.Secret{Data: data, Type: corev1.SecretTypeOpaque}
	s.Name, s.Namespace, s.UID, s.Annotations = "db", "shop", "u1", annotations
	return s
}

func sealedSecret(t testing.TB, ring keyring, s *corev1.Secret, n uint64) ([]byte, Ref) {
	t.Helper()
	k := secrets(t)
	ref := must(ObjectRef(k, s))(t)
	rest, payload := k.Split(must(Encode(k, s))(t))
	key, nonce := ring.add(n)
	return must(Seal(rest, payload, ref, key, nonce))(t), ref
}

func TestSealHides(t *testing.T) {
	ring := keyring{}
	s := secret(map[string][]byte{"password-name": []byte("canary-value")}, map[string]string{lastApplied: `{"stringData":{"x":"canary-too"}}`, "kept": "yes"})
	s.StringData = map[string]string{"other": "canary-text"}
	doc, _ := sealedSecret(t, ring, s, 1)
	for _, hidden := range []string{"canary", "Y2FuYXJ5", "password-name", "other", lastApplied, `"data"`, `"stringData"`} {
		if bytes.Contains(doc, []byte(hidden)) {
			t.Errorf("%s is to be read in %s", hidden, doc)
		}
	}
	for _, shown := range []string{`"kept":"yes"`, `"type":"Opaque"`, `"name":"db"`} {
		if !bytes.Contains(doc, []byte(shown)) {
			t.Errorf("%s is not in %s", shown, doc)
		}
	}
	if e, ok := EnvelopeOf(doc); !ok || e.KeyID != "key-1" {
		t.Errorf("envelope %+v, %v", e, ok)
	}
}

func TestDecodeOpen(t *testing.T) {
	k, ring := secrets(t), keyring{}
	s := secret(map[string][]byte{"a": []byte("canary")}, map[string]string{"kept": "yes"})
	doc, ref := sealedSecret(t, ring, s, 1)
	moved, other := ref, ref
	moved.Name, other.UID = "elsewhere", "u2"
	damaged := bytes.Clone(doc)
	at := bytes.Index(damaged, []byte(`"box":"`)) + 20
	damaged[at] ^= 1
	for _, c := range []struct {
		name     string
		document []byte
		ref      Ref
		keys     Keys
		want     error
	}{
		{"with its key", doc, ref, ring, nil},
		{"without keys", doc, ref, nil, ErrErased},
		{"its key destroyed", doc, ref, keyring{}, ErrErased},
		{"in another object", doc, moved, ring, ErrBadSeal},
		{"in another incarnation", doc, other, ring, ErrBadSeal},
		{"damaged", damaged, ref, ring, ErrBadSeal},
		{"another key", doc, ref, keyring{"key-1": make([]byte, DataKeySize)}, ErrBadSeal},
		{"half a key", doc, ref, keyring{"key-1": make([]byte, 16)}, ErrBadKey},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Open(c.document, c.ref, c.keys); !errors.Is(err, c.want) {
				t.Errorf("Open: %v, want %v", err, c.want)
			}
			obj, err := DecodeOpen(k, c.ref, c.document, 7, c.keys)
			if err != nil {
				t.Fatal(err)
			}
			got := obj.(*corev1.Secret)
			if Erased(got) != (c.want != nil) || got.Annotations["kept"] != "yes" || got.ResourceVersion != "7" || got.Name != "db" {
				t.Errorf("read %+v", got)
			}
			if c.want == nil && string(got.Data["a"]) != "canary" || c.want != nil && got.Data != nil {
				t.Errorf("data %q", got.Data)
			}
			if c.want != nil && !strings.Contains(got.Annotations[ErasedAnnotation], c.want.Error()) {
				t.Errorf("the marker says %q", got.Annotations[ErasedAnnotation])
			}
		})
	}
	// The marker is for readers: it is not written, and what is written without a payload is the rest.
	erased := must(DecodeOpen(k, ref, doc, 7, nil))(t)
	rest, payload := k.Split(must(Encode(k, erased))(t))
	e, _ := EnvelopeOf(doc)
	if again := must(WithEnvelope(rest, e))(t); payload != nil || !bytes.Equal(again, doc) {
		t.Errorf("an erased object is written as\n%s\nwant\n%s", again, doc)
	}
}

func TestOldPlainSecretsAreRead(t *testing.T) {
	k := secrets(t)
	plain := must(Encode(k, secret(map[string][]byte{"a": []byte("x")}, nil)))(t)
	obj := must(DecodeOpen(k, Ref{}, plain, 1, nil))(t)
	if got := obj.(*corev1.Secret); string(got.Data["a"]) != "x" || Erased(got) {
		t.Errorf("read %+v", got)
	}
}

// TestLengthsAreSeenInSteps: from outside a password of eight looks like one of eighty, and large payloads are told apart by eighths.
func TestLengthsAreSeenInSteps(t *testing.T) {
	last, steps := 0, 0
	for n := range 1 << 16 {
		got := len(padded(make([]byte, n)))
		switch {
		case got < n, got < minSealed, n > minSealed && got > n+n/8+32:
			t.Fatalf("%d bytes are seen as %d", n, got)
		case got != last:
			last = got
			steps++
		}
	}
	if steps > 1+8*8 {
		t.Errorf("%d lengths are told apart", steps)
	}
}

func TestSplitAndMerge(t *testing.T) {
	for _, c := range []struct{ document, path, rest, payload string }{
		{`{"a":1,"data":{"k":"v"},"z":2}`, "data", `{"a":1,"z":2}`, `{"data":{"k":"v"}}`},
		{`{"data":{"k":"v"}}`, "data", `{}`, `{"data":{"k":"v"}}`},
		{`{"metadata":{"annotations":{"x/y":"v"},"name":"n"}}`, `metadata.annotations["x/y"]`, `{"metadata":{"name":"n"}}`, `{"metadata":{"annotations":{"x/y":"v"}}}`},
		{`{"metadata":{"annotations":{"a":"b","x/y":"v"}}}`, `metadata.annotations["x/y"]`, `{"metadata":{"annotations":{"a":"b"}}}`, `{"metadata":{"annotations":{"x/y":"v"}}}`},
		{`{"metadata":{"annotations":{}}}`, `metadata.annotations["x/y"]`, `{"metadata":{"annotations":{}}}`, ``},
		{`{"a":1}`, "data", `{"a":1}`, ``},
		{`{"data":null}`, "data", `{}`, `{"data":null}`},
	} {
		k := &Kind{Sealed: []Path{must(ParsePath(c.path))(t)}}
		rest, payload := k.Split([]byte(c.document))
		if string(rest) != c.rest || string(payload) != c.payload {
			t.Errorf("%s without %s: %s and %s", c.document, c.path, rest, payload)
		}
		if payload != nil {
			if got := merge(rest, payload); string(got) != c.document {
				t.Errorf("%s put together again: %s", c.document, got)
			}
		}
	}
}

func TestSealFields(t *testing.T) {
	kinds := Kinds()
	more := must(SealFields(kinds, "configmaps:data,binaryData", "deploy:spec.template"))(t)
	set, old := NewSet(more), NewSet(kinds)
	for name, want := range map[string]int{"configmaps": 3, "deployments": 2, "secrets": 3, "pods": 0} {
		k, _ := set.Lookup(name)
		if len(k.Sealed) != want {
			t.Errorf("%s has %d sealed fields, want %d", name, len(k.Sealed), want)
		}
	}
	if k, _ := old.Lookup("configmaps"); k.Sealed != nil || len(more) != len(kinds) {
		t.Error("the kinds given were changed")
	}
	for _, bad := range []string{
		"configmaps", "configmaps:", "nothing:data", "configmaps:metadata.name", "configmaps:metadata", "configmaps:kind",
		"pods:spec.containers[0].env", "secrets:data.password", "leases:spec", `configmaps:data["x`,
	} {
		if _, err := SealFields(kinds, bad); !errors.Is(err, ErrBadSealedField) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestSealRefusesWhatIsNoObject(t *testing.T) {
	key, nonce := keyring{}.add(1)
	for _, rest := range []string{``, `[]`, `{"$a":1}`, `{"$sealed":1}`} {
		if _, err := Seal([]byte(rest), []byte(`{}`), Ref{}, key, nonce); !errors.Is(err, ErrBadJSON) {
			t.Errorf("%s: %v", rest, err)
		}
	}
	if _, err := Seal([]byte(`{"a":1}`), []byte(`{}`), Ref{}, key, nonce[1:]); !errors.Is(err, ErrBadKey) {
		t.Errorf("a short nonce: %v", err)
	}
	for _, document := range []string{`{"$sealed":`, `{"$sealed":{`, `{"$sealed":1,"a":2}`, `{"$sealed":{"box":7,"key":"key-1","nonce":"!","v":1}}`, `{"$sealed":{"key":"key-1","v":9}}`} {
		if _, err := Open([]byte(document), Ref{}, keyring{"key-1": key.Key}); !errors.Is(err, ErrBadSeal) && !errors.Is(err, ErrErased) && IsSealed([]byte(document)) {
			t.Errorf("%s: %v", document, err)
		}
	}
}

// TestDamagedEnvelopes: whatever stands in the place of an envelope, reading ends in an object with a marker or in an error.
func TestDamagedEnvelopes(t *testing.T) {
	k, ring := secrets(t), keyring{}
	doc, ref := sealedSecret(t, ring, secret(map[string][]byte{"a": []byte("canary")}, nil), 1)
	rapid.Check(t, func(t *rapid.T) {
		damaged := bytes.Clone(doc)
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			i := rapid.IntRange(len(sealedPrefix), len(damaged)-1).Draw(t, "at")
			if rapid.Bool().Draw(t, "cut") {
				damaged = append(damaged[:i:i], damaged[min(len(damaged), i+rapid.IntRange(1, 400).Draw(t, "length")):]...)
			} else {
				damaged[i] = rapid.Byte().Draw(t, "byte")
			}
			if len(damaged) <= len(sealedPrefix) {
				break
			}
		}
		if bytes.Equal(damaged, doc) {
			return
		}
		obj, err := DecodeOpen(k, ref, damaged, 7, ring)
		if err == nil && !Erased(obj) && string(obj.(*corev1.Secret).Data["a"]) != "canary" {
			t.Fatalf("read without a word: %s", damaged)
		}
	})
}

// TestNamesCannotShiftTheBinding: two different objects are never bound to the same bytes.
func TestNamesCannotShiftTheBinding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.StringMatching("[a\x00:1]{0,3}")
		draw := func(n string) (Ref, string) {
			return Ref{Group: part.Draw(t, n+"g"), Resource: part.Draw(t, n+"r"), Namespace: part.Draw(t, n+"ns"), Name: part.Draw(t, n+"n"), UID: types.UID(part.Draw(t, n+"u"))}, part.Draw(t, n+"k")
		}
		a, ka := draw("a")
		b, kb := draw("b")
		if same := bytes.Equal(bindingOf(a, ka), bindingOf(b, kb)); same != (a == b && ka == kb) {
			t.Fatalf("%q %q and %q %q: %v", a, ka, b, kb, same)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	k, ring := secrets(b), keyring{}
	s := secret(map[string][]byte{"tls.key": bytes.Repeat([]byte("x"), 1700), "tls.crt": bytes.Repeat([]byte("y"), 1300)}, nil)
	open := must(Encode(k, s))(b)
	ref := must(ObjectRef(k, s))(b)
	key, nonce := ring.add(1)
	b.Run("seal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			rest, payload := k.Split(open)
			if _, err := Seal(rest, payload, ref, key, nonce); err != nil {
				b.Fatal(err)
			}
		}
	})
	rest, payload := k.Split(open)
	doc := must(Seal(rest, payload, ref, key, nonce))(b)
	b.Run("open", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Open(doc, ref, ring); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("not-sealed", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if IsSealed(open) {
				b.Fatal("sealed")
			}
		}
	})
}
