package postgres

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/shiplog/shiplog/domain"
)

// views are the models of one schema.
type views struct {
	models                                                []*model
	events, current, incarnations, history, audit, causes *table
}

func newViews() *views {
	v := &views{
		events: eventsTable(), current: currentTable(), incarnations: incarnationsTable(),
		history: historyTable(), audit: auditTable(), causes: causesTable(),
	}
	v.models = []*model{
		{name: "events", tables: []*table{v.events}, rows: v.eventRows},
		{name: "current", tables: []*table{v.current}},
		{name: "history", tables: []*table{v.incarnations, v.history}, rows: v.historyRows},
		{name: "audit", tables: []*table{v.audit}, rows: v.auditRows},
		{name: "causes", tables: []*table{v.causes}, rows: v.causeRows},
	}
	return v
}

// only returns the views with the named models alone; no names mean all.
func (v *views) only(names []string) (*views, bool) {
	if len(names) == 0 {
		return v, true
	}
	out := *v
	out.models = nil
	for _, n := range names {
		found := false
		for _, m := range v.models {
			if m.name == n {
				out.models, found = append(out.models, m), true
			}
		}
		if !found {
			return nil, false
		}
	}
	return &out, true
}

func (v *views) has(name string) bool {
	for _, m := range v.models {
		if m.name == name {
			return true
		}
	}
	return false
}

func (v *views) tables() []*table {
	var out []*table
	for _, m := range v.models {
		out = append(out, m.tables...)
	}
	return out
}

func (v *views) names() []string {
	var out []string
	for _, m := range v.models {
		out = append(out, m.name)
	}
	return out
}

// rowsOf makes the rows of all models that are only added to.
func (v *views) rowsOf(changes []change) map[*table]*rows {
	out := map[*table]*rows{}
	for _, m := range v.models {
		if m.rows == nil {
			continue
		}
		for i := range changes {
			if !changes[i].retained {
				m.rows(&changes[i], out)
			}
		}
	}
	return out
}

func rowsIn(t *table, out map[*table]*rows) *rows {
	r := out[t]
	if r == nil {
		r = newRows(t)
		out[t] = r
	}
	r.begin()
	return r
}

func (r *rows) ref(ref domain.Ref) {
	r.text(ref.Group)
	r.text(ref.Resource)
	r.text(ref.Namespace)
	r.text(ref.Name)
}

func (v *views) eventRows(c *change, out map[*table]*rows) {
	e, r := &c.event, rowsIn(v.events, out)
	r.bigint(e.Position)
	r.bigint(e.Revision)
	r.uuid(c.record.ID)
	r.text(e.Type)
	r.bigint(uint64(e.Time.UnixNano()))
	r.ref(e.Ref)
	r.text(string(e.Ref.UID))
	r.text(string(e.Op))
	r.text(e.Actor.User)
	r.text(e.Actor.Impersonator)
	r.text(e.Correlation)
	r.bytes(c.record.Data)
	r.bytes(c.record.Metadata)
}

func (v *views) historyRows(c *change, out map[*table]*rows) {
	if c.entry == nil {
		return
	}
	r := rowsIn(v.history, out)
	r.bigint(c.entry.incarnation)
	r.bigint(c.event.Position)
	r.bigint(c.entry.base)
	if c.whole {
		r.bytes(c.entry.state.JSON)
		return
	}
	r.null()
}

func (v *views) incarnationRow(e *entry, until uint64, out map[*table]*rows) {
	r := rowsIn(v.incarnations, out)
	r.bigint(e.incarnation)
	r.ref(e.ref)
	r.text(string(e.ref.UID))
	r.bigint(until)
}

// auditRows tell every request that was carried out or refused. What a request came to stands in the evidence of the events that
// change nothing.
func (v *views) auditRows(c *change, out map[*table]*rows) {
	e, r := &c.event, rowsIn(v.audit, out)
	result, verdict := "done", verdict{Code: 200}
	if e.Op == "" {
		verdict.Code = 0
		_ = json.Unmarshal(e.Evidence, &verdict) // evidence is free in its form: none of it need be there
		switch {
		case strings.HasSuffix(e.Type, "Refused") || verdict.Code >= 400 && verdict.Code < 500:
			result = "refused"
		case strings.HasSuffix(e.Type, "Failed") || verdict.Code >= 500:
			result = "failed"
		}
	}
	groups, err := json.Marshal(e.Actor.Groups)
	if err != nil || e.Actor.Groups == nil {
		groups = []byte("[]")
	}
	r.bigint(e.Position)
	r.timestamp(e.Time)
	r.text(e.Actor.User)
	r.text(e.Actor.Impersonator)
	r.text(e.Actor.UID)
	r.jsonb(withoutNUL(groups))
	r.text(e.Actor.UserAgent)
	r.text(e.Actor.SourceIP)
	r.text(e.Command.Verb)
	r.text(e.Command.Subresource)
	r.boolean(e.Command.DryRun)
	r.ref(e.Ref)
	r.text(string(e.Ref.UID))
	r.text(e.Type)
	r.boolean(e.Op == "")
	r.text(result)
	r.integer(verdict.Code)
	r.text(verdict.Reason)
	r.text(verdict.Message)
	r.text(e.Command.RequestID)
	r.text(e.Correlation)
}

type verdict struct {
	Code    int    `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

func (v *views) causeRows(c *change, out map[*table]*rows) {
	e := &c.event
	if e.Cause == nil {
		return
	}
	r := rowsIn(v.causes, out)
	r.bigint(e.Position)
	r.uuid(c.record.ID)
	r.bigint(e.Cause.Position)
	r.text(e.Cause.ID)
	r.text(e.Correlation)
}

// currentRow writes an object as it is. Its labels, owners and node are what its JSON says.
func (v *views) currentRow(e *entry, r *rows) {
	f := fieldsOf(e.state.JSON)
	r.begin()
	r.ref(e.ref)
	r.text(string(e.ref.UID))
	r.bigint(e.state.Position)
	r.bigint(e.state.Revision)
	r.bigint(e.incarnation)
	r.bigint(e.base)
	r.integer(e.steps)
	r.integer(e.bytes)
	if f.node == "" {
		r.null()
	} else {
		r.text(f.node)
	}
	r.jsonb(f.owners)
	r.jsonb(f.labels)
	r.bytes(e.state.JSON)
}

// fields are what the table of current objects can be searched by.
type fields struct {
	node           string
	owners, labels []byte // JSON; nil when there are none
}

func fieldsOf(object []byte) fields {
	var o struct {
		Metadata struct {
			Labels          json.RawMessage `json:"labels"`
			OwnerReferences []struct {
				UID string `json:"uid"`
			} `json:"ownerReferences"`
		} `json:"metadata"`
		Spec struct {
			NodeName json.RawMessage `json:"nodeName"`
		} `json:"spec"`
	}
	var f fields
	if err := json.Unmarshal(object, &o); err != nil {
		return f // a custom resource may use these names as it likes
	}
	_ = json.Unmarshal(o.Spec.NodeName, &f.node) // not a text: not a node
	if len(o.Metadata.Labels) > 0 && o.Metadata.Labels[0] == '{' {
		f.labels = withoutNUL(o.Metadata.Labels)
	}
	if len(o.Metadata.OwnerReferences) > 0 {
		uids := make([]string, len(o.Metadata.OwnerReferences))
		for i, r := range o.Metadata.OwnerReferences {
			uids[i] = r.UID
		}
		if owners, err := json.Marshal(uids); err == nil { // strings always marshal
			f.owners = withoutNUL(owners)
		}
	}
	f.node = strings.ReplaceAll(f.node, "\x00", "")
	return f
}

// withoutNUL removes what jsonb cannot hold.
func withoutNUL(b []byte) []byte {
	if bytes.Contains(b, []byte(`\u0000`)) {
		return bytes.ReplaceAll(b, []byte(`\u0000`), nil)
	}
	return b
}
