package api

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"k8s.io/apiserver/pkg/apis/audit"
	kaudit "k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/shiplog/shiplog/commands/storage"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
)

// AuditStream holds what changed nothing and should be known all the same: refused and failed requests, reads of secrets, sessions in
// containers. Changes need no such trail: they are events themselves.
const AuditStream = "audit-requests"

// The words of the trail.
const (
	RequestRefused = domain.RequestRefused
	RequestFailed  = domain.RequestFailed
	SecretRead     = domain.SecretRead
	SessionOpened  = domain.SessionOpened
)

const (
	auditKeep  = 100_000 // events
	auditQueue = 1024    // requests that wait to be written; more are dropped and counted
	auditBatch = 64
	auditEvery = time.Second // at most one append in this time
)

// auditTrail is an audit backend that writes to the log, in batches, never in a request's way.
type auditTrail struct {
	engine  *storage.Engine
	now     func() time.Time
	logger  *slog.Logger
	kinds   *domain.Set
	queue   chan domain.Event
	dropped atomic.Uint64
	done    chan struct{}
	once    sync.Once
}

func newAuditTrail(e *storage.Engine, kinds *domain.Set, now func() time.Time, logger *slog.Logger) *auditTrail {
	return &auditTrail{engine: e, kinds: kinds, now: now, logger: logger, queue: make(chan domain.Event, auditQueue), done: make(chan struct{})}
}

var (
	_ kaudit.Backend             = (*auditTrail)(nil)
	_ kaudit.PolicyRuleEvaluator = (*auditTrail)(nil)
)

// EvaluatePolicyRule implements audit.PolicyRuleEvaluator: it looks at requests that may have to be told.
func (t *auditTrail) EvaluatePolicyRule(a authorizer.Attributes) kaudit.RequestAuditConfig {
	level := audit.LevelNone
	if a.IsResourceRequest() && (!a.IsReadOnly() || a.GetResource() == "secrets" || session(a.GetSubresource())) {
		level = audit.LevelMetadata
	}
	return kaudit.RequestAuditConfig{
		Level:      level,
		OmitStages: []audit.Stage{audit.StageRequestReceived, audit.StageResponseStarted},
	}
}

func session(subresource string) bool {
	switch subresource {
	case "exec", "attach", "portforward", "proxy":
		return true
	}
	return false
}

// ProcessEvents implements audit.Sink.
func (t *auditTrail) ProcessEvents(events ...*audit.Event) bool {
	for _, e := range events {
		ev, ok := t.event(e)
		if !ok {
			continue
		}
		select {
		case t.queue <- ev:
		default:
			t.dropped.Add(1)
		}
	}
	return true
}

// event makes the log's event of a request; false for one that need not be told.
func (t *auditTrail) event(e *audit.Event) (domain.Event, bool) {
	if e.ObjectRef == nil || e.ResponseStatus == nil {
		return domain.Event{}, false
	}
	code := int(e.ResponseStatus.Code)
	word := ""
	read := e.Verb == "get" || e.Verb == "list" || e.Verb == "watch"
	switch {
	case code >= http.StatusInternalServerError:
		word = RequestFailed
	case code >= http.StatusBadRequest && !(read && code == http.StatusNotFound):
		word = RequestRefused
	case code < http.StatusBadRequest && session(e.ObjectRef.Subresource):
		word = SessionOpened
	case code < http.StatusBadRequest && e.ObjectRef.Resource == "secrets" && read:
		word = SecretRead
	default:
		return domain.Event{}, false
	}
	// The API's own business is not told.
	if e.User.Username == "system:apiserver" {
		return domain.Event{}, false
	}
	name := e.ObjectRef.Name
	if name == "" {
		name = "-"
	}
	gr := domain.Resource{Group: e.ObjectRef.APIGroup, Resource: e.ObjectRef.Resource}
	evidence, err := json.Marshal(map[string]any{"uri": e.RequestURI, "code": code, "reason": e.ResponseStatus.Reason, "message": t.message(gr, code, e.ResponseStatus.Message)})
	if err != nil {
		return domain.Event{}, false
	}
	actor := domain.Actor{User: e.User.Username, UID: e.User.UID, Groups: e.User.Groups, UserAgent: e.UserAgent}
	if u := e.ImpersonatedUser; u != nil {
		actor.User, actor.UID, actor.Groups, actor.Impersonator = u.Username, u.UID, u.Groups, e.User.Username
	}
	if len(e.SourceIPs) > 0 {
		actor.SourceIP = e.SourceIPs[0]
	}
	return domain.Event{
		ID: uuid.NewString(), Type: word,
		Ref:   domain.Ref{Group: e.ObjectRef.APIGroup, Resource: e.ObjectRef.Resource, Namespace: e.ObjectRef.Namespace, Name: name},
		Actor: actor, Command: domain.CommandInfo{Verb: e.Verb, Subresource: e.ObjectRef.Subresource, RequestID: string(e.AuditID)},
		Correlation: uuid.NewString(), Evidence: evidence, Time: t.now().UTC(), Version: domain.SchemaVersion,
	}, true
}

// message is what may be told of the answer to a request. An answer that finds fault with what was sent may quote it, and what is sealed
// must not get into the log by that way.
func (t *auditTrail) message(gr domain.Resource, code int, text string) string {
	k, ok := t.kinds.ByResource(gr)
	if !ok || len(k.Sealed) == 0 {
		return text
	}
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusConflict, http.StatusTooManyRequests:
		return text
	}
	return "(withheld: it may quote what was sent)"
}

// Run implements audit.Backend.
func (t *auditTrail) Run(stop <-chan struct{}) error {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(t.done)
		defer cancel()
		t.write(ctx, stop)
	}()
	return nil
}

// write appends what is queued, one batch at a time and no faster than allowed.
func (t *auditTrail) write(ctx context.Context, stop <-chan struct{}) {
	bounded := false
	for {
		var batch []domain.Event
		select {
		case <-stop:
			t.flush(ctx)
			return
		case ev := <-t.queue:
			batch = append(batch, ev)
		}
		batch = t.more(batch)
		if !bounded {
			err := t.engine.Log().SetMetadata(ctx, AuditStream, eventstore.Any, eventstore.Metadata{MaxCount: auditKeep})
			bounded = err == nil
		}
		t.append(ctx, batch)
		select {
		case <-time.After(auditEvery):
		case <-stop:
			t.flush(ctx)
			return
		}
	}
}

func (t *auditTrail) more(batch []domain.Event) []domain.Event {
	for len(batch) < auditBatch {
		select {
		case ev := <-t.queue:
			batch = append(batch, ev)
		default:
			return batch
		}
	}
	return batch
}

func (t *auditTrail) flush(ctx context.Context) {
	for {
		batch := t.more(nil)
		if len(batch) == 0 {
			return
		}
		t.append(ctx, batch)
	}
}

func (t *auditTrail) append(ctx context.Context, batch []domain.Event) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := t.engine.AppendFact(ctx, AuditStream, eventstore.Any, batch...); err != nil {
		t.logger.Warn("the audit trail could not be written", "requests", len(batch), "error", err)
	}
	if n := t.dropped.Swap(0); n > 0 {
		t.logger.Warn("requests are missing from the audit trail: there were too many at once", "requests", n)
	}
}

// Shutdown implements audit.Backend.
func (t *auditTrail) Shutdown() { t.once.Do(func() { <-t.done }) }

// String implements audit.Backend.
func (t *auditTrail) String() string { return "log" }
