package history

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

func deployment(replicas int32, image string) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Labels: map[string]string{"app": "web"}},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "web", Image: image, Env: []corev1.EnvVar{{Name: "A", Value: "1"}}}, {Name: "side", Image: "side:1"}},
		}}},
	}
}

func pod(node string, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-1"},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "web", Image: "web:1"}}},
		Status:     corev1.PodStatus{Phase: phase},
	}
}

// reasons is what the scheduler writes down.
const reasons = `{"scheduler":"default-scheduler","position":6,"node":"n2","nodes":4,"feasible":2,
"refused":[{"filter":"TaintToleration","reason":"node(s) had untolerated taint {db: }","count":1,"nodes":["n1"]},
{"filter":"NodeResourcesFit","reason":"Insufficient cpu","count":1,"nodes":["n4"]}],
"scores":[{"node":"n2","total":648,"resources":73,"balance":75,"taints":300,"spread":200},{"node":"n3","total":500,"resources":60,"balance":40,"taints":300,"spread":100}]}`

// refusal is what the API's trail says of a request that it has refused.
const refusal = `{"code":403,"message":"deployments.apps \"web\" is forbidden: User \"eve\" cannot delete resource","reason":"Forbidden","uri":"/apis/apps/v1/namespaces/default/deployments/web"}`

// voyage is a past with some of everything in it.
func voyage() *past {
	p := newPast()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "key"}, Data: map[string][]byte{"password": []byte("hunter2")}}
	admin := by{user: "ada", verb: "create", correlation: "request-1"}
	p.put(by{user: "ada", verb: "create"}, secret)                                                                                                  // 1
	created := p.put(admin, deployment(1, "web:1"))                                                                                                 // 2
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-7d9"}}                                                  //
	rsCreated := p.put(by{user: "system:serviceaccount:kube-system:deployment-controller", verb: "create", cause: &created}, rs)                    // 3
	podCreated := p.put(by{user: "system:serviceaccount:kube-system:replicaset-controller", verb: "create", cause: &rsCreated}, pod("", "Pending")) // 4
	secret.Data["password"] = []byte("hunter3")
	p.put(by{user: "ada", verb: "patch"}, secret)                                                                                                                                                                   // 5
	bound := p.put(by{user: "system:kube-scheduler", verb: "create", subresource: "binding", cause: &podCreated, positionOnly: true, evidence: json.RawMessage(reasons)}, pod("n2", "Pending"))                     // 6
	p.put(by{user: "system:node:n2", verb: "update", subresource: "status", cause: &bound}, pod("n2", "Running"))                                                                                                   // 7
	p.put(by{user: "ada", verb: "patch", subresource: "scale"}, deployment(3, "web:1"))                                                                                                                             // 8
	p.put(by{user: "bob", verb: "patch"}, deployment(3, "web:2"))                                                                                                                                                   // 9
	p.append(by{user: "eve", verb: "delete", evidence: json.RawMessage(refusal)}, domain.Event{Ref: domain.Ref{Group: "apps", Resource: "deployments", Namespace: "default", Name: "web"}, Type: "RequestRefused"}) // 10
	p.put(by{user: "system:node:n2", verb: "update", subresource: "status"}, pod("n2", "Failed"))                                                                                                                   // 11: it does not say why
	p.delete(by{user: "bob", verb: "delete"}, deployment(3, "web:2"))                                                                                                                                               // 12
	p.put(by{user: "bob", verb: "create", impersonator: "root"}, deployment(2, "web:3"))                                                                                                                            // 13
	p.put(by{user: "ada", verb: "create"}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})                                                                                                                 // 14
	return p
}

// run runs a command as a person would type it.
func run(t *testing.T, p *past, h projections.History, args ...string) (string, error) {
	t.Helper()
	open := 0
	for _, cmd := range NewCommands(func(context.Context) (Access, error) {
		open++
		return Access{History: h, Kinds: p.kinds, Close: func() error { open--; return nil }}, nil
	}) {
		if cmd.Name() != args[0] {
			continue
		}
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SilenceUsage, cmd.SilenceErrors = true, true
		cmd.SetArgs(args[1:])
		err := cmd.ExecuteContext(t.Context())
		if open != 0 {
			t.Error("what was opened was not closed")
		}
		return out.String(), err
	}
	t.Fatalf("there is no command %s", args[0])
	return "", nil
}

func TestCommands(t *testing.T) {
	p := voyage()
	replayed := p.inALog(t)
	for name, line := range map[string]string{
		"history":           "history deployment/web --utc",
		"history-full":      "history deploy web --diff full --utc",
		"history-json":      "history deployments.apps/web --since 7 --until 9 -o json",
		"history-last":      "history Deployment/web --last 2 --utc",
		"history-secret":    "history secret/key --diff full --utc",
		"history-node":      "history no/n1 -n anything --utc",
		"why":               "why pod/web-1 --at 7 --utc",
		"why-unsaid":        "why pod/web-1 --utc",
		"why-position":      "why 6 --utc",
		"why-full":          "why 8 --full --utc",
		"why-yaml":          "why pod/web-1 --at 6 -o yaml",
		"why-effects":       "why deployment/web --at 2 --effects --utc",
		"diff-object":       "diff 2 9 deployment/web",
		"diff-namespace":    "diff 4 14",
		"diff-cluster":      "diff 4 14 -A",
		"diff-secret":       "diff 1 5 secret/key --full",
		"diff-json":         "diff 2 8 deployment/web -o json",
		"diff-none":         "diff 9 9",
		"blame":             "blame deployment/web --at 9 --utc",
		"blame-after-reset": "blame deployment/web --utc",
		"blame-secret":      "blame secret/key --utc",
		"audit":             "audit --utc",
		"audit-people":      "audit --people --last 3 --utc",
		"audit-refused":     "audit --refused --utc",
		"audit-object":      "audit deployment/web --verb delete,create --user bob --last 0 --utc -n default",
		"audit-since":       "audit --since 2026-05-01T10:05:00Z --until 2026-05-01T10:08:00Z --last 0 --utc",
		"audit-by":          "audit --user root --utc",
		"audit-by-k8s":      "audit --user root -o audit",
		"audit-none":        "audit --user nobody",
		"audit-json":        "audit --refused -o json",
		"audit-k8s":         "audit --since 8 --until 10 -o audit",
	} {
		t.Run(name, func(t *testing.T) {
			out, err := run(t, p, p, strings.Fields(line)...)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+".txt", "$ shiplog "+line+"\n"+out)
			if strings.Contains(out, "aHVudGVy") {
				t.Error("a secret's payload is shown")
			}
			fromLog, err := run(t, p, replayed, strings.Fields(line)...)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(out, fromLog); d != "" {
				t.Errorf("-the past +the log, replayed\n%s", d)
			}
		})
	}
}

func TestMistakesAreAnswered(t *testing.T) {
	p := voyage()
	for _, c := range []struct {
		line string
		is   error
		says string
	}{
		{"history deployment/none", projections.ErrNotFound, "nothing is known of deployments.apps/default/none"},
		{"history deployment/web -n other", projections.ErrNotFound, ""},
		{"history ghost/web", ErrBadTarget, `there is no type "ghost"`},
		{"history deployment", ErrBadTarget, "add the object's name"},
		{"history deployment/web extra", ErrBadTarget, "one at a time"},
		{"history deployment/web --since dawn", ErrBadMoment, "--since"},
		{"history deployment/web -o xml", nil, "none of table, json, yaml"},
		{"history deployment/web --diff wide", nil, "none of short, full"},
		{"why 99", projections.ErrNotFound, "position 99"},
		{"diff 1", nil, "two moments"},
		{"diff 1 99", projections.ErrFuture, "the log stands at 14"},
		{"diff 1 2 deployment/none", projections.ErrNotFound, "at neither moment"},
		{"blame pod/none", projections.ErrNotFound, ""},
		{"audit --since dawn", ErrBadMoment, "--since"},
		{"audit --until 99", projections.ErrFuture, "--until"},
		{"audit -o xml", nil, "none of table, json, yaml, audit"},
		{"audit --last -1", nil, "or 0 for all"},
		{"audit ghost/web", ErrBadTarget, `there is no type "ghost"`},
	} {
		t.Run(c.line, func(t *testing.T) {
			_, err := run(t, p, p, strings.Fields(c.line)...)
			if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want %v and %q", err, c.is, c.says)
			}
		})
	}
}

func TestATimeAgoIsNoFlag(t *testing.T) {
	p := voyage()
	// All events lie more than ten minutes back: nothing is different between two late moments.
	out, err := run(t, p, p, "diff", "-10m", "now", "-n", "default")
	if err != nil || out != "No differences.\n" {
		t.Errorf("%q, %v", out, err)
	}
	if out, err = run(t, p, p, "diff", "--help"); err != nil || !strings.Contains(out, "shiplog diff -10m now") {
		t.Errorf("help: %q, %v", out, err)
	}
}

func TestLongHistoriesAreReadToTheEnd(t *testing.T) {
	p := newPast()
	const changes = 2*page + 7
	for i := range changes {
		p.put(by{user: "ada", verb: "patch"}, deployment(int32(i), "web:1"))
	}
	got, err := Changes(t.Context(), p, domain.Ref{Group: "apps", Resource: "deployments", Namespace: "default", Name: "web"}, Range{})
	if err != nil || len(got) != changes {
		t.Fatalf("%d changes, %v", len(got), err)
	}
	if f := got[changes-1].Fields; len(f) != 1 || f[0].Path != "spec.replicas" || string(f[0].After) != fmt.Sprint(changes-1) {
		t.Errorf("the last: %+v", f)
	}
}

// TestAStreamWithoutItsBeginning has lost its first events to retention: what the events do not tell the read models do.
func TestAStreamWithoutItsBeginning(t *testing.T) {
	p := newPast()
	ref := domain.Ref{Group: "apps", Resource: "deployments", Namespace: "default", Name: "web"}
	for i := range 4 {
		p.put(by{user: "ada", verb: "patch"}, deployment(int32(i), "web:1"))
	}
	got, err := Changes(t.Context(), &shortened{past: p, first: 3}, ref, Range{})
	if err != nil || len(got) != 2 {
		t.Fatalf("%d changes, %v", len(got), err)
	}
	for _, c := range got {
		if len(c.Fields) != 1 || c.Fields[0].Path != "spec.replicas" {
			t.Errorf("position %d: %+v", c.Position, c.Fields)
		}
	}
}

// shortened has no events before a position.
type shortened struct {
	*past
	first uint64
}

func (s *shortened) Events(ctx context.Context, q projections.EventQuery) ([]domain.Event, error) {
	q.After = max(q.After, s.first-1)
	return s.past.Events(ctx, q)
}

func TestParseMoment(t *testing.T) {
	zone := time.FixedZone("there", 2*3600)
	now := time.Date(2026, 5, 2, 12, 0, 0, 0, zone)
	for text, want := range map[string]Moment{
		"now":                       {Now: true, Time: now},
		" NOW ":                     {Now: true, Time: now},
		"4711":                      {Position: 4711},
		"#4711":                     {Position: 4711},
		"-10m":                      {Time: now.Add(-10 * time.Minute)},
		"10m ago":                   {Time: now.Add(-10 * time.Minute)},
		"-1h30m":                    {Time: now.Add(-90 * time.Minute)},
		"2d ago":                    {Time: now.Add(-48 * time.Hour)},
		"1w 1d ago":                 {Time: now.Add(-8 * 24 * time.Hour)},
		"1 hour ago":                {Time: now.Add(-time.Hour)},
		"0.5d ago":                  {Time: now.Add(-12 * time.Hour)},
		"2026-05-01T10:00:00Z":      {Time: time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)},
		"2026-05-01T10:00:00.5Z":    {Time: time.Date(2026, 5, 1, 10, 0, 0, 5e8, time.UTC)},
		"2026-05-01T10:00:00+05:00": {Time: time.Date(2026, 5, 1, 5, 0, 0, 0, time.UTC)},
		"2026-05-01 10:00:00":       {Time: time.Date(2026, 5, 1, 10, 0, 0, 0, zone)},
		"2026-05-01 10:00":          {Time: time.Date(2026, 5, 1, 10, 0, 0, 0, zone)},
		"2026-05-01T10:00":          {Time: time.Date(2026, 5, 1, 10, 0, 0, 0, zone)},
		"2026-05-01":                {Time: time.Date(2026, 5, 1, 0, 0, 0, 0, zone)},
	} {
		got, err := ParseMoment(text, now)
		if err != nil || got.Now != want.Now || got.Position != want.Position || !got.Time.Equal(want.Time) {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "dawn", "-", "ago", "-10", "10x ago", "-10m ago later", "2026-13-01", "m ago", "1.2.3d ago"} {
		if got, err := ParseMoment(text, now); !errors.Is(err, ErrBadMoment) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestParseTarget(t *testing.T) {
	kinds := domain.NewSet(domain.Kinds())
	for args, want := range map[string]string{
		"deployment/web":              "deployments.apps/shop/web",
		"deploy web":                  "deployments.apps/shop/web",
		"Deployment.v1.apps/web":      "deployments.apps/shop/web",
		"po/web-1":                    "pods/shop/web-1",
		"node/n1":                     "nodes/n1",
		"ns shop":                     "namespaces/shop",
		"widgets.example.com/w1 more": "widgets.example.com/shop/w1",
	} {
		ref, rest, err := ParseTarget(kinds, "shop", strings.Fields(args))
		if err != nil || ref.String() != want || len(rest) > 0 != strings.HasSuffix(args, "more") {
			t.Errorf("%q: %s, %v, %v; want %s", args, ref, rest, err, want)
		}
	}
	for _, args := range []string{"", "pod", "/web", "pod/", "pod/a/b", "ghost/web"} {
		if ref, _, err := ParseTarget(kinds, "shop", strings.Fields(args)); !errors.Is(err, ErrBadTarget) {
			t.Errorf("%q: %s, %v", args, ref, err)
		}
	}
}

// In a log that was copied to where positions are others, a recorded cause is found by its id.
func TestTheCauseInACopiedLog(t *testing.T) {
	p := newPast()
	created := p.put(by{user: "ada", verb: "create"}, deployment(1, "web:1"))
	for _, position := range []uint64{2, 2000} { // where another event stands, and where none does
		p.put(by{user: "bob", verb: "create"}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", position)}})
		moved := created
		moved.Position = position
		effect := p.put(by{user: "system:serviceaccount:kube-system:deployment-controller", verb: "create", cause: &moved}, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("web-", position)}})
		chain, err := Chain(t.Context(), p, effect)
		if err != nil || len(chain) != 2 || chain[0].ID != created.ID || !chain[1].Because {
			t.Errorf("caused at position %d: %+v, %v", position, chain, err)
		}
	}
}
