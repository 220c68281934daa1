package model

import (
	"cmp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/shiplog/shiplog/domain"
)

// uidPath is where an object's uid stands.
var uidPath, _ = domain.ParsePath("metadata.uid")

func cmpString(a, b string) int { return strings.Compare(a, b) }

func gvk(r metav1.OwnerReference) schema.GroupVersionKind {
	return schema.FromAPIVersionAndKind(r.APIVersion, r.Kind)
}

func noteOf(e *corev1.Event) *Note {
	n := &Note{Type: e.Type, Reason: e.Reason, Message: e.Message, Count: max(int(e.Count), 1), Source: cmp.Or(e.ReportingController, e.Source.Component)}
	last := e.LastTimestamp.Time
	if e.Series != nil {
		n.Count, last = int(e.Series.Count), e.Series.LastObservedTime.Time
	}
	for _, t := range []time.Time{e.EventTime.Time, e.FirstTimestamp.Time, e.CreationTimestamp.Time} {
		if last.IsZero() {
			last = t
		}
	}
	n.LastSeen = when(last)
	return n
}

func compareNotes(a, b *Note) int {
	at := func(n *Note) time.Time {
		if n.LastSeen == nil {
			return time.Time{}
		}
		return time.Time(*n.LastSeen)
	}
	return at(a).Compare(at(b))
}

func condition(typ, status, reason, message string, since metav1.Time) *Condition {
	return &Condition{Type: typ, Status: status, Reason: optional(reason), Message: optional(message), Since: when(since.Time)}
}

func quantities(list corev1.ResourceList) []*KeyValue {
	m := make(map[string]string, len(list))
	for name, q := range list {
		m[string(name)] = q.String()
	}
	return keyValues(m)
}

func count(n *int32) int {
	if n == nil {
		return 1
	}
	return int(*n)
}
