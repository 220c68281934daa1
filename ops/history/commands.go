package history

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Access is where the past is read from.
type Access struct {
	History projections.History
	// Reader is the cluster as it is now, where there is one at hand; nil otherwise.
	Reader projections.Reader
	Kinds  *domain.Set
	// Close releases what was opened; may be nil.
	Close func() error
}

// NewCommands returns the commands history, why, blame, diff and audit. open is called once a command's arguments have been read.
func NewCommands(open func(ctx context.Context) (Access, error)) []*cobra.Command {
	return []*cobra.Command{newHistory(open), newWhy(open), newBlame(open), newDiff(open), newAudit(open)}
}

type opener = func(ctx context.Context) (Access, error)

// flags that all commands have.
type flags struct {
	namespace string
	output    string
	full      bool
	utc       bool
}

func (f *flags) add(set *pflag.FlagSet) {
	set.StringVarP(&f.namespace, "namespace", "n", DefaultNamespace, "namespace of the object")
	set.StringVarP(&f.output, "output", "o", "table", "output format: table, json or yaml")
	set.BoolVar(&f.utc, "utc", false, "times in UTC instead of the local zone")
}

func (f *flags) style(kinds *domain.Set) (Style, error) {
	format, err := ParseFormat(f.output)
	s := Style{Format: format, Kinds: kinds, Namespace: f.namespace, Zone: time.Local, Full: f.full}
	if f.utc {
		s.Zone = time.UTC
	}
	return s, err
}

// with opens the past for a function and closes it after.
func with(ctx context.Context, open opener, f *flags, run func(Access, Style) error) (err error) {
	if _, err := ParseFormat(f.output); err != nil {
		return err
	}
	a, err := open(ctx)
	if err != nil {
		return err
	}
	if a.Close != nil {
		defer func() { err = errors.Join(err, a.Close()) }()
	}
	s, err := f.style(a.Kinds)
	if err != nil {
		return err
	}
	return run(a, s)
}

// moment reads and resolves a flag's or argument's moment; "" is 0.
func moment(ctx context.Context, a Access, text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	m, err := ParseMoment(text, time.Now())
	if err != nil {
		return 0, err
	}
	return m.Resolve(ctx, a.History)
}

// target reads the one object that arguments name.
func target(a Access, f *flags, args []string) (domain.Ref, error) {
	ref, rest, err := ParseTarget(a.Kinds, f.namespace, args)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%w: one at a time; what is %q?", ErrBadTarget, strings.Join(rest, " "))
	}
	return ref, err
}

func newHistory(open opener) *cobra.Command {
	var f flags
	var since, until, diff string
	var last int
	cmd := &cobra.Command{
		Use:   "history TYPE/NAME",
		Short: "Every change of an object",
		Long: `Lists every change of an object, oldest first: when, what, by whom, and the fields that changed. Deleted objects too, and
all objects that had the name. The payload of secrets is not shown.`,
		Example: `  shiplog history deployment/web
  shiplog history deploy web -n shop --since -1h
  shiplog history pod/web-1 --diff full
  shiplog history deployment/web -o json`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if diff != "short" && diff != "full" {
				return fmt.Errorf("--diff %q is none of short, full", diff)
			}
			f.full = diff == "full"
			return with(cmd.Context(), open, &f, func(a Access, s Style) error {
				ref, err := target(a, &f, args)
				if err != nil {
					return err
				}
				r := Range{Last: last}
				if r.After, err = moment(cmd.Context(), a, since); err != nil {
					return fmt.Errorf("--since: %w", err)
				}
				if r.Through, err = moment(cmd.Context(), a, until); err != nil {
					return fmt.Errorf("--until: %w", err)
				}
				changes, err := Changes(cmd.Context(), a.History, ref, r)
				if err != nil {
					return err
				}
				return WriteHistory(cmd.OutOrStdout(), changes, s)
			})
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().StringVar(&since, "since", "", "only changes after a moment: a position, a time, or a time ago such as -1h")
	cmd.Flags().StringVar(&until, "until", "", "only changes up to a moment")
	cmd.Flags().IntVar(&last, "last", 0, "only so many of the last changes (0: all)")
	cmd.Flags().StringVar(&diff, "diff", "short", "short: the most telling fields in the row; full: every field in full, below it")
	return cmd
}

func newWhy(open opener) *cobra.Command {
	var f flags
	var at string
	var effects bool
	cmd := &cobra.Command{
		Use:   "why TYPE/NAME | POSITION",
		Short: "The chain of causes from a person's command to an object's last change",
		Long: `Shows why an object is as it is: the chain of causes from the first command to the object's last change, with times, actors,
and what decisions rested on (why the scheduler chose a node). A dotted branch is not a recorded cause but what happened to the
object before.`,
		Example: `  shiplog why pod/web-1
  shiplog why pod/web-1 --at -10m
  shiplog why 4711
  shiplog why deployment/web --effects`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			return with(ctx, open, &f, func(a Access, s Style) error {
				e, err := whichEvent(ctx, a, &f, args, at)
				if err != nil {
					return err
				}
				if effects {
					tree, err := Effects(ctx, a.History, e)
					if err != nil {
						return err
					}
					return WriteEffects(cmd.OutOrStdout(), tree, s)
				}
				chain, err := Chain(ctx, a.History, e)
				if err != nil {
					return err
				}
				return WriteWhy(cmd.OutOrStdout(), chain, s)
			})
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().StringVar(&at, "at", "", "the object's last change up to a moment: a position, a time, or a time ago such as -10m")
	cmd.Flags().BoolVar(&effects, "effects", false, "everything that followed from the same request, as a tree")
	cmd.Flags().BoolVar(&f.full, "full", false, "every field that changed, in full")
	return cmd
}

// whichEvent is the event that is asked about: one by its position, or an object's last.
func whichEvent(ctx context.Context, a Access, f *flags, args []string, at string) (domain.Event, error) {
	if m, err := ParseMoment(args[0], time.Now()); err == nil && m.Position > 0 && len(args) == 1 {
		e, err := a.History.Event(ctx, m.Position, "")
		if err != nil {
			return e, fmt.Errorf("reading the event at position %d: %w", m.Position, err)
		}
		return e, nil
	}
	ref, err := target(a, f, args)
	if err != nil {
		return domain.Event{}, err
	}
	through, err := moment(ctx, a, at)
	if err != nil {
		return domain.Event{}, fmt.Errorf("--at: %w", err)
	}
	return lastEvent(ctx, a.History, ref, through)
}

func newBlame(open opener) *cobra.Command {
	var f flags
	var at string
	cmd := &cobra.Command{
		Use:     "blame TYPE/NAME",
		Short:   "Who set each field of an object, and when",
		Example: "  shiplog blame deployment/web\n  shiplog blame deployment/web --at \"2026-05-01 10:00\"",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd.Context(), open, &f, func(a Access, s Style) error {
				ref, err := target(a, &f, args)
				if err != nil {
					return err
				}
				position, err := moment(cmd.Context(), a, at)
				if err != nil {
					return fmt.Errorf("--at: %w", err)
				}
				lines, err := BlameObject(cmd.Context(), a.History, ref, position)
				if err != nil {
					return err
				}
				return WriteBlame(cmd.OutOrStdout(), lines, s)
			})
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().StringVar(&at, "at", "", "the object as of a moment: a position, a time, or a time ago such as -10m")
	return cmd
}

func newDiff(open opener) *cobra.Command {
	var f flags
	var all, everything bool
	cmd := &cobra.Command{
		Use:   "diff FROM TO [TYPE/NAME]",
		Short: "What is different between two moments",
		Long: `Shows what was added (+), removed (-), changed (~) and created again (!) between two moments: of one object, of a namespace, or
with -A of the whole cluster. A moment is a position of the log, a time, a time ago such as -10m, or now.`,
		Example: `  shiplog diff -10m now
  shiplog diff 4711 4800 deployment/web
  shiplog diff "2026-05-01 10:00" now -A -o yaml`,
		// A time ago looks like a flag.
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, raw []string) error {
			args, help, err := parseFlags(cmd, raw)
			if err != nil || help {
				if help {
					return cmd.Help()
				}
				return err
			}
			if len(args) < 2 || len(args) > 4 {
				return fmt.Errorf("give two moments, and an object if you want only one: %s", cmd.UseLine())
			}
			ctx := cmd.Context()
			return with(ctx, open, &f, func(a Access, s Style) error {
				var at [2]uint64
				for i := range at {
					if at[i], err = moment(ctx, a, args[i]); err != nil {
						return err
					}
				}
				scope := Scope{Namespace: f.namespace, Everything: everything}
				if all {
					scope.Namespace = ""
				}
				if len(args) > 2 {
					ref, err := target(a, &f, args[2:])
					if err != nil {
						return err
					}
					scope.Object = &ref
				}
				list, err := Compare(ctx, a.History, a.Kinds, at[0], at[1], scope)
				if err != nil {
					return err
				}
				return WriteDiff(cmd.OutOrStdout(), list, s)
			})
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().BoolVarP(&all, "all-namespaces", "A", false, "the whole cluster")
	cmd.Flags().BoolVar(&everything, "everything", false, "leases and events too")
	cmd.Flags().BoolVar(&f.full, "full", false, "every field that changed, in full")
	return cmd
}

// aTimeAgo is an argument that looks like a flag and is none.
var aTimeAgo = regexp.MustCompile(`^-[0-9]`)

// parseFlags reads the flags of a command that does not have cobra read them, and returns the other arguments.
func parseFlags(cmd *cobra.Command, raw []string) (args []string, help bool, err error) {
	const mark = "\x00"
	marked := make([]string, len(raw))
	for i, arg := range raw {
		if aTimeAgo.MatchString(arg) {
			arg = mark + arg
		}
		marked[i] = arg
	}
	cmd.InheritedFlags() // adds those of the parents to Flags
	if cmd.Flags().Lookup("help") == nil {
		cmd.Flags().BoolP("help", "h", false, "help for "+cmd.Name())
	}
	if err := cmd.Flags().Parse(marked); err != nil {
		return nil, false, err
	}
	help, err = cmd.Flags().GetBool("help")
	for _, arg := range cmd.Flags().Args() {
		args = append(args, strings.TrimPrefix(arg, mark))
	}
	return args, help, err
}
