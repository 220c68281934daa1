package postgres

import (
	"fmt"
	"strings"
)

// Version is that of the tables and of what stands in them. A build with another version makes its own schema from the log.
const Version = 2

// The schemas of this version: what is served, what is being built, what is built to be compared.
const (
	schemaLive  = "views_v2"
	schemaNew   = "views_v2_new"
	schemaCheck = "views_v2_check"
)

// forever is the end of an incarnation that has none yet.
const forever = 1<<63 - 1

// table is one table of a model. Indexes are made after a bulk load.
type table struct {
	name    string
	columns []column
	key     string   // the primary key's columns
	indexes []string // definitions after "USING"
	options string   // storage parameters
}

type column struct{ name, definition string }

// model is one read model.
type model struct {
	name   string
	tables []*table
	// rows writes what changes mean to the tables of the model that are only added to.
	rows func(c *change, out map[*table]*rows)
}

const refColumns = `grp text COLLATE "C", resource text COLLATE "C", namespace text COLLATE "C", name text COLLATE "C"`

func columnsOf(definitions string) []column {
	var out []column
	for _, d := range strings.Split(definitions, ",") {
		name, definition, _ := strings.Cut(strings.TrimSpace(d), " ")
		out = append(out, column{name, definition})
	}
	return out
}

func eventsTable() *table {
	return &table{
		name: "events",
		columns: columnsOf(`position bigint, revision bigint, id uuid, type text COLLATE "C", time bigint, ` + refColumns +
			`, uid text, op text, actor text COLLATE "C", impersonator text COLLATE "C", correlation text COLLATE "C", data json, metadata json`),
		key: "position",
		indexes: []string{
			"btree (id)", "btree (resource, grp, namespace, name, position)", "btree (correlation, position)",
			"btree (actor, position)", "btree (impersonator, position) WHERE impersonator <> ''", "btree (type, position)", "btree (time, position)",
		},
		options: "fillfactor = 100",
	}
}

func currentTable() *table {
	return &table{
		name: "current",
		columns: columnsOf(refColumns + `, uid text, position bigint, revision bigint, incarnation bigint, base bigint, steps integer, bytes integer, ` +
			`node text, owners jsonb, labels jsonb, object json`),
		key:     "resource, grp, namespace, name",
		indexes: []string{"btree (node) WHERE node IS NOT NULL", "gin (owners jsonb_path_ops)", "gin (labels jsonb_path_ops)", "btree (uid)"},
		options: "fillfactor = 80",
	}
}

func incarnationsTable() *table {
	return &table{
		name:    "incarnations",
		columns: columnsOf(`incarnation bigint, ` + refColumns + `, uid text, until bigint`),
		key:     "incarnation",
		indexes: []string{"btree (resource, grp, namespace, name, incarnation)", "btree (resource, grp, until)"},
		options: "fillfactor = 90",
	}
}

func historyTable() *table {
	return &table{
		name:    "history",
		columns: columnsOf(`incarnation bigint, position bigint, base bigint, object json`),
		key:     "incarnation, position",
		options: "fillfactor = 100",
	}
}

func auditTable() *table {
	return &table{
		name: "audit",
		columns: columnsOf(`position bigint, time timestamptz, actor text COLLATE "C", impersonator text COLLATE "C", actor_uid text, groups jsonb, user_agent text, source_ip text, ` +
			`verb text, subresource text, dry_run boolean, ` + refColumns + `, uid text, type text, fact boolean, result text, code integer, reason text, message text, ` +
			`request_id text, correlation text COLLATE "C"`),
		key: "position",
		indexes: []string{
			"btree (actor, position)", "btree (resource, grp, namespace, name, position)", "btree (position) WHERE result <> 'done'", "brin (time)",
		},
		options: "fillfactor = 100",
	}
}

func causesTable() *table {
	return &table{
		name:    "causes",
		columns: columnsOf(`effect bigint, effect_id uuid, cause bigint, cause_id text COLLATE "C", correlation text COLLATE "C"`),
		key:     "effect",
		indexes: []string{"btree (cause_id, effect)", "btree (cause)"},
		options: "fillfactor = 100",
	}
}

func (t *table) columnNames() string {
	names := make([]string, len(t.columns))
	for i, c := range t.columns {
		names[i] = c.name
	}
	return strings.Join(names, ", ")
}

// create is the statement that makes the table, without its indexes.
func (t *table) create(schema string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE TABLE %s.%s (\n", schema, t.name)
	for i, c := range t.columns {
		if i > 0 {
			b.WriteString(",\n")
		}
		fmt.Fprintf(&b, "    %s %s", c.name, c.definition)
	}
	fmt.Fprintf(&b, "\n) WITH (%s)", t.options)
	return b.String()
}

// finish are the statements that make its indexes.
func (t *table) finish(schema string) []string {
	out := []string{fmt.Sprintf("ALTER TABLE %s.%s ADD PRIMARY KEY (%s)", schema, t.name, t.key)}
	for _, i := range t.indexes {
		out = append(out, fmt.Sprintf("CREATE INDEX ON %s.%s USING %s", schema, t.name, i))
	}
	return out
}

// createCheckpoint makes the table of the schema's one row, which says how far its tables reflect the log, and which event was the
// last: a log that has another event there is another log.
func createCheckpoint(schema string) string {
	return fmt.Sprintf(`CREATE TABLE %s.checkpoint (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    position bigint NOT NULL,
    event_position bigint NOT NULL,
    event uuid NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 20)`, schema)
}
