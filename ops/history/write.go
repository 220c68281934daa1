package history

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/shiplog/shiplog/domain"
)

// Format of output.
type Format string

// Formats.
const (
	Table Format = "table"
	JSON  Format = "json"
	YAML  Format = "yaml"
)

// ParseFormat reads a value of the flag -o; "" is Table.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case "":
		return Table, nil
	case Table, JSON, YAML:
		return f, nil
	}
	return "", fmt.Errorf("output format %q is none of table, json, yaml", s)
}

// Style is how output looks.
type Style struct {
	Format    Format
	Kinds     *domain.Set
	Namespace string         // of the reader: objects in it are named without it
	Zone      *time.Location // of times in tables; nil: UTC
	Full      bool           // every field, in full
}

const timeLayout = "2006-01-02 15:04:05"

func (s Style) time(t time.Time) string {
	if s.Zone == nil {
		return t.UTC().Format(timeLayout)
	}
	return t.In(s.Zone).Format(timeLayout)
}

// structured writes a value as JSON or YAML; it returns false for a table, which the caller writes.
func (s Style) structured(w io.Writer, v any) (bool, error) {
	var data []byte
	var err error
	switch s.Format {
	case JSON:
		if data, err = json.MarshalIndent(v, "", "  "); err == nil {
			data = append(data, '\n')
		}
	case YAML:
		data, err = yaml.Marshal(v)
	default:
		return false, nil
	}
	if err == nil {
		_, err = w.Write(data)
	}
	return true, err
}

// who is an actor, with the user behind who asked in another's name.
func who(a domain.Actor) string {
	if a.Impersonator != "" {
		return a.User + " (by " + a.Impersonator + ")"
	}
	return a.User
}

func verbOf(c *Change) string {
	if c.Subresource != "" {
		return c.Verb + "/" + c.Subresource
	}
	return c.Verb
}

// WriteHistory writes the changes of an object.
func WriteHistory(w io.Writer, changes []Change, s Style) error {
	if done, err := s.structured(w, changes); done {
		return err
	}
	// The fields of a full listing stand between the rows, so they are put in after the columns are aligned.
	var table strings.Builder
	t := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "POSITION\tTIME\tTYPE\tACTOR\tVERB\tCHANGE\n")
	for i := range changes {
		c := &changes[i]
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\n", c.Position, s.time(c.Time), c.Type, who(c.Actor), verbOf(c), s.summary(c))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for i, row := range strings.Split(strings.TrimSuffix(table.String(), "\n"), "\n") {
		if _, err := fmt.Fprintln(w, strings.TrimRight(row, " ")); err != nil {
			return err
		}
		if !s.Full || i == 0 {
			continue
		}
		for _, line := range s.details(&changes[i-1]) {
			if _, err := fmt.Fprintf(w, "    %s\n", line); err != nil {
				return err
			}
		}
	}
	return nil
}

// summary is the last column of a row.
func (s Style) summary(c *Change) string {
	switch {
	case c.Op == "":
		return "(nothing changed)"
	case c.Op == domain.Created:
		return "created, uid " + string(c.Object.UID)
	case c.Op == domain.Deleted:
		return "deleted"
	case s.Full:
		if len(c.Fields) == 1 {
			return "1 field"
		}
		return fmt.Sprintf("%d fields", len(c.Fields))
	}
	return shortFields(c.Fields, 3)
}

func (s Style) details(c *Change) []string {
	var lines []string
	for _, f := range c.Fields {
		lines = append(lines, describe(f, 0))
	}
	return append(lines, evidenceLines(c.Evidence)...)
}

// WriteWhy writes a chain of causes as a tree, the first cause first.
func WriteWhy(w io.Writer, chain []Link, s Style) error {
	if done, err := s.structured(w, chain); done {
		return err
	}
	for i := range chain {
		l := &chain[i]
		indent := strings.Repeat("   ", max(0, i-1))
		branch := "└─ "
		switch {
		case i == 0:
			branch = ""
		case !l.Because:
			branch = "└┄ " // after, not because
		}
		if _, err := fmt.Fprintf(w, "%s%s%s\n", indent, branch, s.event(&l.Change)); err != nil {
			return err
		}
		if i > 0 {
			indent += "   "
		}
		bar := "   "
		if i+1 < len(chain) {
			bar = "│  "
		}
		for _, line := range s.reasons(&l.Change) {
			if _, err := fmt.Fprintf(w, "%s%s%s\n", indent, bar, line); err != nil {
				return err
			}
		}
	}
	return nil
}

// event is one line about an event.
func (s Style) event(c *Change) string {
	return fmt.Sprintf("%s  #%d  %s  %s  (%s, %s)", s.time(c.Time), c.Position, c.Type, short(s.Kinds, c.Object, s.Namespace), who(c.Actor), verbOf(c))
}

func (s Style) reasons(c *Change) []string {
	if s.Full {
		return s.details(c)
	}
	var lines []string
	if f := shortFields(c.Fields, 3); f != "" {
		lines = append(lines, f)
	}
	return append(lines, evidenceLines(c.Evidence)...)
}

// WriteEffects writes what followed from a request as a tree.
func WriteEffects(w io.Writer, effects []*Effect, s Style) error {
	if done, err := s.structured(w, effects); done {
		return err
	}
	for _, x := range effects {
		if err := s.effect(w, x, "", ""); err != nil {
			return err
		}
	}
	return nil
}

func (s Style) effect(w io.Writer, x *Effect, first, rest string) error {
	if _, err := fmt.Fprintf(w, "%s%s\n", first, s.event(&x.Change)); err != nil {
		return err
	}
	for i, y := range x.Effects {
		branch, below := "├─ ", "│  "
		if i == len(x.Effects)-1 {
			branch, below = "└─ ", "   "
		}
		if err := s.effect(w, y, rest+branch, rest+below); err != nil {
			return err
		}
	}
	return nil
}

// WriteDiff writes differences between two moments.
func WriteDiff(w io.Writer, list []Difference, s Style) error {
	if done, err := s.structured(w, list); done {
		return err
	}
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "No differences.")
		return err
	}
	signs := map[string]string{"added": "+", "removed": "-", "changed": "~", "replaced": "!"}
	for _, d := range list {
		note := ""
		if d.Change == "replaced" {
			note = "  (deleted and created again)"
		}
		if _, err := fmt.Fprintf(w, "%s %s%s\n", signs[d.Change], d.Object, note); err != nil {
			return err
		}
		for _, f := range d.Fields {
			if !s.Full && noise(f.Path) {
				continue
			}
			bound := 60
			if s.Full {
				bound = 0
			}
			if _, err := fmt.Fprintf(w, "    %s\n", describe(f, bound)); err != nil {
				return err
			}
		}
	}
	return nil
}

// WriteBlame writes an object line by line with who set what.
func WriteBlame(w io.Writer, lines []Blame, s Style) error {
	if done, err := s.structured(w, lines); done {
		return err
	}
	var table strings.Builder
	t := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "POSITION\tTIME\tACTOR\tOBJECT\n")
	for _, b := range lines {
		position, at, actor := "", "", ""
		if b.By != nil {
			position, at, actor = fmt.Sprint(b.By.Position), s.time(b.By.Time), who(b.By.Actor)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s%s\n", position, at, actor, strings.Repeat("  ", b.Depth), b.Line)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(w, table.String())
	return err
}
