package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/keystore"
	"github.com/shiplog/shiplog/internal/canary"
	privatepg "github.com/shiplog/shiplog/ops/postgres"
	"github.com/shiplog/shiplog/test/harness"
)

// TestSecretsAreUnreadable hides canaries in Secrets of a running cluster, and looks for them in every byte that it leaves behind: the files of
// the data directory, the events of the log, the rows of Postgres, and what every key of the key store opens.
func TestSecretsAreUnreadable(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{
		Args: []string{"--no-node", "--seal", "configmaps:data"}, Embedded: "it looks into every byte of the log's own files",
	})
	var living, gone []string
	value := func(list *[]string) string {
		v := "canary-" + rand.Text()
		*list = append(*list, v)
		return v
	}
	apply := func(kind, name, field, value string) {
		t.Helper()
		c.Apply(fmt.Sprintf("apiVersion: v1\nkind: %s\nmetadata: {name: %s}\n%s: {k: %s}\n", kind, name, field, value))
	}
	c.Kubectl("create", "secret", "generic", "created", "--from-literal=k="+value(&living))
	apply("Secret", "applied", "stringData", value(&gone))
	apply("Secret", "applied", "data", base64.StdEncoding.EncodeToString([]byte(value(&gone))))
	then := c.Head()
	apply("Secret", "applied", "stringData", value(&living))
	c.Kubectl("create", "secret", "generic", "patched", "--from-literal=k="+value(&gone))
	c.Kubectl("patch", "secret", "patched", "-p", `{"stringData":{"k":"`+value(&living)+`"}}`)
	c.Kubectl("create", "secret", "generic", "deleted", "--from-literal=k="+value(&gone))
	c.Kubectl("delete", "secret", "deleted")
	apply("ConfigMap", "sealed", "data", value(&gone))
	apply("ConfigMap", "sealed", "data", value(&living))

	t.Run("the past says what is erased", func(t *testing.T) {
		r := c.Shiplog("at", then, "kubectl", "get", "secrets", "-o", "yaml")
		if r.Code != 0 || !strings.Contains(r.Stdout, "name: created") || strings.Count(r.Stdout, "shiplog.dev/erased") != 1 {
			t.Errorf("at %s: %s%s", then, r.Stdout, r.Stderr)
		}
	})
	t.Run("looking back shows no values", func(t *testing.T) {
		for _, args := range [][]string{{"history", "secret/applied"}, {"history", "secret/applied", "-o", "json"}, {"blame", "secret/applied"}, {"diff", then, "now", "secret/applied"}, {"history", "configmap/sealed"}} {
			r := c.Shiplog(args...)
			if r.Code != 0 || len(canary.InBytes(append(living, gone...), "", []byte(r.Stdout+r.Stderr))) > 0 {
				t.Errorf("%v: exit code %d\n%s%s", args, r.Code, r.Stdout, r.Stderr)
			}
		}
	})
	t.Run("the KEK is rotated", func(t *testing.T) {
		if r := c.Shiplog("keys", "rotate"); r.Code != 0 || !strings.Contains(r.Stdout, "wrapped by a new key-encryption key") {
			t.Errorf("exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
	})
	c.Kill()
	c.Launch()
	if out := c.Kubectl("get", "secret", "patched", "-o", "jsonpath={.data.k}"); out != base64.StdEncoding.EncodeToString([]byte(living[2])) {
		t.Errorf("after kill -9 the Secret reads %s", out)
	}
	if r := c.Shiplog("verify"); r.Code != 0 { // and with it Postgres has everything
		t.Errorf("verify: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	if code := c.Stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if r := c.Shiplog("history", "configmap/sealed"); r.Code != 0 || len(canary.InBytes(append(living, gone...), "", []byte(r.Stdout+r.Stderr))) > 0 || !strings.Contains(r.Stdout, "(payload)") {
		t.Errorf("looking back when it is stopped: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	everything := append(append([]string(nil), living...), gone...)
	report := func(what string, found []canary.Finding, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if len(found) > 0 {
			t.Errorf("%s: %v", what, found)
		}
	}
	report("what it said", canary.InBytes(everything, "its log", []byte(c.Log())), nil)
	inFiles, err := canary.InFiles(everything, c.Dir)
	report("in files", inFiles, err)
	rows, n, err := inPostgres(t.Context(), everything, filepath.Join(c.Dir, "postgres"))
	report("in Postgres", rows, err)
	if n < 100 {
		t.Errorf("%d values in Postgres: it has not been searched", n)
	}
	log, err := embedded.Open(filepath.Join(c.Dir, "log"), embedded.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	inLog, err := canary.InLog(t.Context(), everything, log)
	report("in the log", inLog, err)
	keys := openedKeys(t, filepath.Join(c.Dir, "keys"))
	lost, _, err := canary.Recoverable(t.Context(), gone, log, keys)
	report("recoverable", lost, err)
	there, payloads, err := canary.Recoverable(t.Context(), living, log, keys)
	if err != nil || len(there) < len(living) || payloads < len(everything) {
		t.Errorf("%d of %d living values in %d payloads: the search is not what it should be (%v)", len(there), len(living), payloads, err)
	}
}

// openedKeys returns every key that the files of a key store hold.
func openedKeys(t *testing.T, dir string) (keys [][]byte) {
	t.Helper()
	store, err := keystore.Open(dir, keystore.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for _, id := range store.IDs() {
		key, ok := store.DataKey(id)
		if !ok {
			t.Errorf("key %s cannot be unwrapped", id)
		}
		keys = append(keys, key)
	}
	return keys
}

// inPostgres looks for values in every row of every table of a stopped cluster's private Postgres; files alone would not do, since
// Postgres compresses what is long.
func inPostgres(ctx context.Context, values []string, dir string) (found []canary.Finding, searched int, err error) {
	server, err := privatepg.Start(ctx, dir, privatepg.Options{Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if stop := server.Stop(context.WithoutCancel(ctx)); err == nil {
			err = stop
		}
	}()
	conn, err := pgx.Connect(ctx, server.DSN())
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, `SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')`)
	if err != nil {
		return nil, 0, err
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, 0, err
	}
	for _, table := range tables {
		rows, err := conn.Query(ctx, "SELECT * FROM "+table)
		if err != nil {
			return nil, 0, err
		}
		for rows.Next() {
			searched += len(rows.RawValues())
			found = append(found, canary.InBytes(values, table, bytes.Join(rows.RawValues(), []byte(" ")))...)
		}
		if err := rows.Err(); err != nil {
			return nil, 0, err
		}
	}
	return found, searched, nil
}
