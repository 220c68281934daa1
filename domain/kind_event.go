package domain

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// eventKinds describes Kubernetes' own Events, the notes that kubectl describe shows, which are objects like any other and not
// events of the log. Both groups that serve them (core and events.k8s.io) keep them as core/v1.
func eventKinds() []Kind {
	return []Kind{{
		Version: "v1", Kind: "Event", Resource: "events", ShortNames: []string{"ev"}, Namespaced: true,
		New: func() runtime.Object { return &corev1.Event{} },
		Indexes: []Index{{Name: InvolvedIndex, Values: index(func(e *corev1.Event) []string {
			if e.InvolvedObject.UID == "" {
				return nil
			}
			return []string{string(e.InvolvedObject.UID)}
		})}},
		Words: []Word{
			changed("EventRepeated", "The same thing happened again.", func(b, a *corev1.Event) bool {
				return a.Count > b.Count || a.Series != nil && (b.Series == nil || a.Series.Count > b.Series.Count)
			}),
		},
		Retention: Retention{MaxCount: 4, MaxAge: time.Hour},
	}}
}
