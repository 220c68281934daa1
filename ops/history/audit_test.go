package history

import (
	"errors"
	"fmt"
	"testing"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// A long audit is read page by page, from either end.
func TestLongAudits(t *testing.T) {
	p := newPast()
	const changes = 2*page + 7
	for i := range changes {
		user := "ada"
		if i%3 == 0 {
			user = "system:kube-scheduler"
		}
		p.put(by{user: user, verb: "patch"}, deployment(int32(i), "web:1"))
	}
	people := 0
	for _, e := range p.events {
		if e.Actor.User == "ada" {
			people++
		}
	}
	for name, h := range map[string]projections.History{"the past": p, "a log": p.inALog(t)} {
		for _, c := range []struct {
			q     AuditQuery
			count int
			first uint64
		}{
			{AuditQuery{}, changes, 1},
			{AuditQuery{Last: page + 5}, page + 5, changes - page - 4},
			{AuditQuery{Last: page}, page, changes - page + 1},
			{AuditQuery{Last: 1}, 1, changes},
			{AuditQuery{Last: changes + 1}, changes, 1},
			{AuditQuery{People: true}, people, 2},
			{AuditQuery{People: true, Last: people}, people, 2},
			{AuditQuery{After: 5, Through: 2 * page}, 2*page - 5, 6},
		} {
			var got []uint64
			err := Audit(t.Context(), h, c.q, func(e Entry) error {
				got = append(got, e.Position)
				return nil
			})
			if err != nil || len(got) != c.count || got[0] != c.first {
				t.Errorf("%s, %+v: %d entries from %v, %v; want %d from %d", name, c.q, len(got), got[:min(1, len(got))], err, c.count, c.first)
			}
			for i := 1; i < len(got); i++ {
				if got[i] <= got[i-1] {
					t.Fatalf("%s, %+v: position %d comes after %d", name, c.q, got[i], got[i-1])
				}
			}
		}
	}
	stop := errors.New("enough")
	n := 0
	if err := Audit(t.Context(), p, AuditQuery{}, func(Entry) error { n++; return stop }); !errors.Is(err, stop) || n != 1 {
		t.Errorf("an error after the first: %v after %d", err, n)
	}
}

func TestOwnComponents(t *testing.T) {
	for user, want := range map[string]bool{
		"system:node:vm": true, "system:kube-scheduler": true, "system:bootstrap": true, "system:apiserver": true, "system:serviceaccount:kube-system:replicaset-controller": true,
		"ada": false, "system:admin": false, "kubernetes-admin": false, "system:anonymous": false, "system:serviceaccount:ci:deployer": false, "system:serviceaccount:kube-system-x:y": false,
	} {
		if got := ownComponent(user); got != want {
			t.Errorf("%s: %t", user, got)
		}
	}
}

// What the API says of a collection names no object, and an answer that is not told of is not made up.
func TestEntriesOfFacts(t *testing.T) {
	ref := domain.Ref{Resource: "secrets", Namespace: "default", Name: "-"}
	for _, c := range []struct {
		e    domain.Event
		want string
	}{
		{domain.Event{Ref: ref, Type: domain.SecretRead, Evidence: []byte(`{"code":200,"uri":"/api/v1/secrets"}`)}, "200 SecretRead"},
		{domain.Event{Ref: ref, Type: domain.RequestFailed, Evidence: []byte(`{"code":503,"reason":"ServiceUnavailable","message":"no disk"}`)}, "503 ServiceUnavailable: no disk"},
		{domain.Event{Ref: ref, Type: domain.RequestRefused}, "RequestRefused"},
		{domain.Event{Ref: ref, Type: domain.RequestRefused, Evidence: []byte(`"said no"`)}, "RequestRefused"},
	} {
		entry := entryOf(&c.e)
		if got := entry.result(); got != c.want || entry.Object.Name != "" {
			t.Errorf("%s %s: %q of %q, want %q", c.e.Type, c.e.Evidence, got, entry.Object.Name, c.want)
		}
		if k := entry.kubernetesEvent(domain.NewSet(domain.Kinds())); fmt.Sprint(k.ObjectRef.Name) != "" || k.RequestURI == "" {
			t.Errorf("%+v", k)
		}
	}
}
