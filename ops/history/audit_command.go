package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// auditFormat is the output format that Kubernetes' audit log has: an audit.k8s.io/v1 Event a line.
const auditFormat = "audit"

func newAudit(open opener) *cobra.Command {
	var f flags
	var q AuditQuery
	var since, until string
	cmd := &cobra.Command{
		Use:   "audit [TYPE/NAME]",
		Short: "Who asked for what, and what came of it, refused requests included",
		Long: `Lists what was asked for, oldest first: every change, and of the requests that changed nothing those that were refused or failed, that
read secrets, or that opened a session in a container. Of the whole cluster, unless a namespace or an object is named.

-o audit writes what a Kubernetes API server writes into its audit log: one audit.k8s.io/v1 Event a line. Of requests that changed
nothing the last 100,000 are kept; changes are kept for ever.`,
		Example: `  shiplog audit --people --since -1h
  shiplog audit --refused --user ada
  shiplog audit secret/db -n shop --last 0
  shiplog audit --last 0 -o audit > audit.log`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			asAudit := f.output == auditFormat
			if asAudit {
				f.output = string(JSON)
			}
			if _, err := ParseFormat(f.output); err != nil {
				return fmt.Errorf("output format %q is none of table, json, yaml, audit", f.output)
			}
			if q.Last < 0 {
				return fmt.Errorf("--last %d: give a number of entries, or 0 for all", q.Last)
			}
			named := cmd.Flags().Changed("namespace")
			return with(cmd.Context(), open, &f, func(a Access, s Style) error {
				if len(args) > 0 {
					ref, err := target(a, &f, args)
					if err != nil {
						return err
					}
					q.Object = &ref
				} else if named {
					q.Namespace = f.namespace
				}
				if !named {
					s.Namespace = ""
				}
				if err := q.between(cmd.Context(), a, since, until); err != nil {
					return err
				}
				if asAudit {
					return writeAuditLog(cmd.Context(), cmd.OutOrStdout(), a, q)
				}
				return writeAudit(cmd.Context(), cmd.OutOrStdout(), a, q, s)
			})
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().Lookup("namespace").Usage = "only this namespace"
	cmd.Flags().Lookup("namespace").DefValue = ""
	cmd.Flags().Lookup("output").Usage = "output format: table, json, yaml, or audit (audit.k8s.io/v1, an event a line)"
	cmd.Flags().StringVar(&q.User, "user", "", "only what this user asked for, or somebody in their name, or they in another's")
	cmd.Flags().BoolVar(&q.People, "people", false, "not what the cluster's own components asked for")
	cmd.Flags().BoolVar(&q.Refused, "refused", false, "only what was refused or failed")
	cmd.Flags().StringSliceVar(&q.Verbs, "verb", nil, "only these verbs, as in create,delete")
	cmd.Flags().StringVar(&since, "since", "", "from a moment on: a position, a time, or a time ago such as -1h")
	cmd.Flags().StringVar(&until, "until", "", "up to a moment")
	cmd.Flags().IntVar(&q.Last, "last", 100, "only so many of the last entries (0: all)")
	return cmd
}

// between reads the bounds. A moment by time is compared with the times of the events: those that change nothing are written a little
// later than they happened, so a position would not do.
func (q *AuditQuery) between(ctx context.Context, a Access, since, until string) error {
	read := func(name, text string) (Moment, error) {
		m, err := ParseMoment(text, time.Now())
		if err != nil {
			return m, fmt.Errorf("%s: %w", name, err)
		}
		if m.Position > 0 {
			if _, err = m.Resolve(ctx, a.History); err != nil {
				return m, fmt.Errorf("%s: %w", name, err)
			}
		}
		return m, nil
	}
	if since != "" {
		m, err := read("--since", since)
		if err != nil {
			return err
		}
		if q.After, q.Since = 0, m.Time; m.Position > 0 {
			q.After, q.Since = m.Position-1, time.Time{}
		}
	}
	if until != "" {
		m, err := read("--until", until)
		if err != nil {
			return err
		}
		if q.Through, q.Until = m.Position, m.Time; m.Position > 0 {
			q.Until = time.Time{}
		}
	}
	return nil
}

// writeAuditLog writes an audit.k8s.io/v1 Event a line.
func writeAuditLog(ctx context.Context, w io.Writer, a Access, q AuditQuery) error {
	lines := json.NewEncoder(w)
	lines.SetEscapeHTML(false)
	return Audit(ctx, a.History, q, func(e Entry) error { return lines.Encode(e.kubernetesEvent(a.Kinds)) })
}

// writeAudit writes a table, or a list for programs. A table is aligned so many rows at a time, so that a long one begins at once.
func writeAudit(ctx context.Context, w io.Writer, a Access, q AuditQuery, s Style) error {
	if s.Format != Table {
		list := []Entry{}
		if err := Audit(ctx, a.History, q, func(e Entry) error { list = append(list, e); return nil }); err != nil {
			return err
		}
		_, err := s.structured(w, list)
		return err
	}
	var table strings.Builder
	t := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	flush := func() error {
		err := t.Flush()
		for row := range strings.Lines(table.String()) {
			_, werr := fmt.Fprintln(w, strings.TrimRight(row, " \n"))
			err = errors.Join(err, werr)
		}
		table.Reset()
		return err
	}
	fmt.Fprint(t, "POSITION\tTIME\tACTOR\tVERB\tOBJECT\tRESULT\n")
	rows := 0
	err := Audit(ctx, a.History, q, func(e Entry) error {
		verb := e.Verb
		if e.Subresource != "" {
			verb += "/" + e.Subresource
		}
		object := short(a.Kinds, e.Object, s.Namespace)
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\n", e.Position, s.time(e.Time), who(e.Actor), verb, strings.Replace(object, "/ in", " in", 1), e.result())
		if rows++; rows%page == 0 {
			return flush()
		}
		return nil
	})
	if err == nil && rows == 0 {
		_, err = fmt.Fprintln(w, "Nothing.")
		return err
	}
	return errors.Join(err, flush())
}
