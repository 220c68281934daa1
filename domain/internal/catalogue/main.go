// Command catalogue writes the handbook's page of all events from the descriptors of the kinds. Run it by
// "go generate ./domain"; its argument is the file to write.
package main

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/shiplog/shiplog/domain"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "catalogue:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("one argument expected, the file to write; got %q", args)
	}
	if err := os.WriteFile(args[0], []byte(page(domain.Kinds())), 0o644); err != nil {
		return fmt.Errorf("writing the event catalogue: %w", err)
	}
	return nil
}

const head = `# The event catalogue

<!-- Written by "go generate ./domain" from the descriptors of the kinds. Do not edit. -->

Every change of the cluster is one event in the log. Its type is a word of the field, chosen from the object before and after the
change: of the words of its kind the first that fits, in the order given here. The data of an event names the object and holds the
change, its metadata says who asked for it, why and when; ` + "`domain/README.md`" + ` describes the form.

Kinds whose words are not listed have only those that every kind has:

| Event | What happened |
| --- | --- |
`

func page(kinds []*domain.Kind) string {
	kinds = slices.Clone(kinds)
	slices.SortFunc(kinds, func(a, b *domain.Kind) int {
		return cmp.Or(strings.Compare(a.Group, b.Group), strings.Compare(a.Kind, b.Kind))
	})
	var b strings.Builder
	b.WriteString(head)
	generic := domain.EventTypes(&domain.Kind{Kind: "<Kind>", New: statusKind})
	for _, w := range generic {
		fmt.Fprintf(&b, "| `%s` | %s |\n", w.Type, w.Doc)
	}
	var plain []string
	for _, k := range kinds {
		if len(k.Words) == 0 {
			plain = append(plain, fmt.Sprintf("%s (`%s`)", k.Kind, k.GroupResource()))
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n`%s`, kept as `%s`, in streams `%s`.%s\n\n| Event | What happened |\n| --- | --- |\n",
			k.Kind, k.GroupResource(), k.GroupVersionKind().GroupVersion(), k.Ref(placeholder(k.Namespaced), "<name>").Stream(), retention(k))
		for _, w := range domain.EventTypes(k) {
			fmt.Fprintf(&b, "| `%s` | %s |\n", w.Type, w.Doc)
		}
	}
	fmt.Fprintf(&b, "\n## Kinds without words of their own\n\n%s.\n", strings.Join(plain, ", "))
	return b.String()
}

func placeholder(namespaced bool) string {
	if namespaced {
		return "<namespace>"
	}
	return ""
}

func retention(k *domain.Kind) string {
	r := k.Retention
	switch {
	case !k.Retained():
		return ""
	case r.MaxAge == 0:
		return fmt.Sprintf(" Only the last %d events of an object are kept, each with the whole object.", r.MaxCount)
	case r.MaxCount == 0:
		return fmt.Sprintf(" Events are kept for %s, each with the whole object.", r.MaxAge)
	}
	return fmt.Sprintf(" Only the last %d events of an object are kept, for %s, each with the whole object.", r.MaxCount, r.MaxAge)
}
