package projectiontest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// RandomHistory writes a random history of a few objects of several kinds, with causes, refused requests, and names that are used
// again, and returns the position of its last event. between, when set, is called between events.
func RandomHistory(t *rapid.T, ctx context.Context, s *Scribe, between func()) uint64 {
	last := uint64(0)
	var past []domain.Event
	for range rapid.IntRange(1, 60).Draw(t, "events") {
		typed := randomObject(t)
		k, ok := s.Kinds.ByKind(typed.GetObjectKind().GroupVersionKind().GroupKind())
		if !ok {
			t.Fatalf("no kind of the set is a %T", typed)
		}
		ref, err := domain.ObjectRef(k, typed)
		if err != nil {
			t.Fatal(err)
		}
		var cause *domain.Event
		if len(past) > 0 && rapid.Bool().Draw(t, "caused") {
			cause = &past[rapid.IntRange(0, len(past)-1).Draw(t, "cause")]
		}
		var e domain.Event
		switch op := rapid.IntRange(0, 10).Draw(t, "op"); {
		case op == 10:
			e, err = s.Note(ctx, domain.Event{Ref: ref, Type: "RequestRefused", Evidence: []byte(`{"code":403,"reason":"Forbidden"}`), Command: domain.CommandInfo{Verb: "delete"}})
		case op == 0:
			e, err = s.Refuse(ctx, ref, "update", map[string]any{"code": 409, "reason": "Conflict"})
		case op <= 2 && s.State(ref).Exists:
			e, err = s.Delete(ctx, ref, cause)
		default:
			e, err = s.Put(ctx, typed, cause)
		}
		if err != nil {
			t.Fatal(err)
		}
		if e.Position > 0 { // else nothing had to change
			past, last = append(past, e), e.Position
		}
		if between != nil {
			between()
		}
	}
	return last
}

func randomObject(t *rapid.T) runtime.Object {
	m := metav1.ObjectMeta{Namespace: rapid.SampledFrom([]string{"default", "shop"}).Draw(t, "namespace"), Name: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name")}
	if rapid.Bool().Draw(t, "labelled") {
		m.Labels = map[string]string{"app": rapid.SampledFrom([]string{"web", "st\u00f6re", `q"uote\n`}).Draw(t, "app")}
	}
	if rapid.Bool().Draw(t, "owned") {
		m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "o", UID: types.UID(rapid.SampledFrom([]string{"o1", "o2"}).Draw(t, "owner"))}}
	}
	switch rapid.IntRange(0, 4).Draw(t, "kind") {
	case 0, 1:
		p := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: m}
		p.Spec.NodeName = rapid.SampledFrom([]string{"", "n1", "n2"}).Draw(t, "node")
		for i := range rapid.IntRange(0, 3).Draw(t, "containers") {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: fmt.Sprint("c", i), Image: rapid.SampledFrom([]string{"web:1", "web:2"}).Draw(t, "image")})
		}
		p.Status.Phase = rapid.SampledFrom([]corev1.PodPhase{"", corev1.PodPending, corev1.PodRunning}).Draw(t, "phase")
		return p
	case 2:
		c := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: m}
		c.Data = rapid.MapOfN(rapid.StringMatching(`[a-c]{1,2}`), rapid.String(), 0, 4).Draw(t, "data")
		return c
	case 3:
		n := rapid.Int32Range(0, 5).Draw(t, "replicas")
		return &appsv1.Deployment{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: m, Spec: appsv1.DeploymentSpec{Replicas: &n}}
	}
	holder := rapid.SampledFrom([]string{"x", "y"}).Draw(t, "holder")
	return &coordinationv1.Lease{TypeMeta: metav1.TypeMeta{APIVersion: "coordination.k8s.io/v1", Kind: "Lease"}, ObjectMeta: m, Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder}}
}

// DiffView compares a view with what the scribe's events have led to; "" says that they are equal.
func DiffView(s *Scribe, view projections.Reader) string {
	var out []string
	found := 0
	for stream, state := range s.states {
		ref := domain.MustParseStream(stream)
		o, ok := view.Get(ref.GroupResource(), ref.Namespace, ref.Name)
		switch {
		case ok != state.Exists:
			out = append(out, fmt.Sprintf("%s: there %v, want %v", ref, ok, state.Exists))
		case ok && (!bytes.Equal(o.JSON, state.JSON) || o.Position != state.Position || o.Revision != state.Revision || o.Ref.UID != state.UID):
			out = append(out, fmt.Sprintf("%s: %s at position %d, revision %d, uid %s, want %s at %d, %d, %s",
				ref, o.JSON, o.Position, o.Revision, o.Ref.UID, state.JSON, state.Position, state.Revision, state.UID))
		}
		if ok {
			found++
		}
	}
	listed := 0
	for _, k := range s.Kinds.All() {
		for range view.List(k.GroupResource(), "") {
			listed++
		}
	}
	if listed != found {
		out = append(out, fmt.Sprintf("%d objects are listed, %d found by their names", listed, found))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}
