package domain

import (
	"maps"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// EventType names a change of an object of a kind in a past-tense word of the field: the first of the kind's own words that
// matches, then of the words that every kind has, and "<Kind>Changed" for what has no better name. before is nil for a
// creation, after for a deletion. Neither is changed.
func EventType(k *Kind, before, after runtime.Object) string {
	for i := range k.Words {
		if k.Words[i].Match(before, after) {
			return k.Words[i].Type
		}
	}
	switch {
	case before == nil:
		return k.Kind + "Created"
	case after == nil:
		return k.Kind + "Deleted"
	}
	return k.Kind + genericChange(before, after)
}

// genericChange says in what way, of those that every kind has, an object changed.
func genericChange(before, after runtime.Object) string {
	b, errB := meta.Accessor(before)
	a, errA := meta.Accessor(after)
	if errB != nil || errA != nil {
		return "Changed"
	}
	if b.GetDeletionTimestamp() == nil && a.GetDeletionTimestamp() != nil {
		return "DeletionRequested"
	}
	status, rest := fieldsDiffer(before, after)
	switch {
	case rest:
		return "Changed"
	case status:
		return "StatusChanged"
	case !maps.Equal(b.GetLabels(), a.GetLabels()):
		return "LabelsChanged"
	case !maps.Equal(b.GetAnnotations(), a.GetAnnotations()):
		return "AnnotationsChanged"
	case !slices.Equal(b.GetFinalizers(), a.GetFinalizers()):
		return "FinalizersChanged"
	case !reflect.DeepEqual(b.GetOwnerReferences(), a.GetOwnerReferences()):
		return "OwnersChanged"
	}
	return "Changed"
}

// EventTypes returns every word for the changes of a kind, in the order in which they are tried, for the event catalogue.
func EventTypes(k *Kind) []Word {
	out := slices.Clone(k.Words)
	has := map[string]bool{}
	for i := range out {
		has[out[i].Type] = true
	}
	add := func(suffix, doc string, match func(before, after runtime.Object) bool) {
		if t := k.Kind + suffix; !has[t] {
			out = append(out, Word{Type: t, Doc: doc, Match: func(before, after runtime.Object) bool {
				return match(before, after) && EventType(k, before, after) == t
			}})
		}
	}
	add("Created", "The object was created; the event holds all of it.", func(before, _ runtime.Object) bool { return before == nil })
	add("Deleted", "The object is gone.", func(before, after runtime.Object) bool { return before != nil && after == nil })
	both := func(before, after runtime.Object) bool { return before != nil && after != nil }
	for _, g := range genericWords {
		if g.suffix == "StatusChanged" && !hasField(k, "Status") {
			continue
		}
		add(g.suffix, g.doc, both)
	}
	add("Changed", "Something else about the object changed.", both)
	return out
}

// genericWord is a word that every kind has, with the kind's name before it; genericChange decides which it is.
type genericWord struct{ suffix, doc string }

var genericWords = [...]genericWord{
	{"DeletionRequested", "Somebody asked for the deletion; finalizers, or a grace period, still hold the object."},
	{"StatusChanged", "Only what is observed changed, not what is wanted."},
	{"LabelsChanged", "Only metadata changed, labels among it."},
	{"AnnotationsChanged", "Only metadata changed, annotations among it."},
	{"FinalizersChanged", "What has to happen before the object may go changed."},
	{"OwnersChanged", "The object was adopted or orphaned."},
}

// fieldsDiffer compares the status of two objects of one Go type, and everything but status and metadata.
func fieldsDiffer(before, after runtime.Object) (status, rest bool) {
	if b, ok := before.(*unstructured.Unstructured); ok { // a custom kind
		if a, ok := after.(*unstructured.Unstructured); ok {
			return membersDiffer(b.Object, a.Object)
		}
	}
	b, a := reflect.ValueOf(before), reflect.ValueOf(after)
	if b.Type() != a.Type() || b.Kind() != reflect.Pointer || b.Elem().Kind() != reflect.Struct {
		return false, true
	}
	b, a = b.Elem(), a.Elem()
	for i := range b.NumField() {
		name := b.Type().Field(i).Name
		if name == "TypeMeta" || name == "ObjectMeta" || name == "Status" && status || name != "Status" && rest {
			continue
		}
		// By address, so that large structs are not copied.
		if !reflect.DeepEqual(b.Field(i).Addr().Interface(), a.Field(i).Addr().Interface()) {
			if name == "Status" {
				status = true
			} else {
				rest = true
			}
		}
	}
	return status, rest
}

// membersDiffer is fieldsDiffer for objects that have no Go type.
func membersDiffer(before, after map[string]any) (status, rest bool) {
	differs := func(key string) bool { return !reflect.DeepEqual(before[key], after[key]) }
	for _, m := range []map[string]any{before, after} {
		for key := range m {
			if key != "metadata" && key != "status" && differs(key) {
				return differs("status"), true
			}
		}
	}
	return differs("status"), false
}

func hasField(k *Kind, name string) bool {
	t := reflect.TypeOf(k.New()).Elem()
	if t == reflect.TypeFor[unstructured.Unstructured]() {
		return true // it may have one
	}
	if t.Kind() != reflect.Struct {
		return false
	}
	_, ok := t.FieldByName(name)
	return ok
}

// changed makes a word for a change of an object that was there before and is there after.
func changed[T runtime.Object](typ, doc string, match func(before, after T) bool) Word {
	return Word{Type: typ, Doc: doc, Match: func(before, after runtime.Object) bool {
		b, ok := before.(T)
		if !ok {
			return false
		}
		a, ok := after.(T)
		return ok && match(b, a)
	}}
}

// created makes a word for a creation.
func created[T runtime.Object](typ, doc string, match func(after T) bool) Word {
	return Word{Type: typ, Doc: doc, Match: func(before, after runtime.Object) bool {
		a, ok := after.(T)
		return before == nil && ok && match(a)
	}}
}

func deletionRequested[T metav1.Object](b, a T) bool {
	return b.GetDeletionTimestamp() == nil && a.GetDeletionTimestamp() != nil
}

// index makes an index's function of one that takes the Go type.
func index[T runtime.Object](values func(T) []string) func(runtime.Object) []string {
	return func(obj runtime.Object) []string {
		t, ok := obj.(T)
		if !ok {
			return nil
		}
		return values(t)
	}
}
