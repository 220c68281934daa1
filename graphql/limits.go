package graphql

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"sync/atomic"

	"github.com/99designs/gqlgen/graphql"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"github.com/shiplog/shiplog/graphql/view"
)

// Limits bound what one operation may ask for.
type Limits struct {
	// Depth is how deep fields may nest. 0: 16.
	Depth int
	// Cost is how many fields an answer may have. A query that asks for more (a list counts as long as its argument first says,
	// or as ten without) is refused at once; one whose lists turn out too long is given up on the way. 0: 200,000.
	Cost int
	// Tokens is how long the text of a query may be, in words and signs. 0: 10,000.
	Tokens int
	// Body is how many bytes a request may have. 0: 1 MiB.
	Body int64
}

func (l Limits) withDefaults() Limits {
	def := func(n *int, value int) {
		if *n == 0 {
			*n = value
		}
	}
	def(&l.Depth, 16)
	def(&l.Cost, 200_000)
	def(&l.Tokens, 10_000)
	if l.Body == 0 {
		l.Body = 1 << 20
	}
	return l
}

// ExtensionName is what gqlgen calls the extension.
func (Limits) ExtensionName() string { return "Limits" }

// Validate has nothing to object to.
func (Limits) Validate(graphql.ExecutableSchema) error { return nil }

// MutateOperationContext refuses an operation that asks for too much, before any of it is answered.
func (l Limits) MutateOperationContext(_ context.Context, op *graphql.OperationContext) *gqlerror.Error {
	m := measure{limits: l, variables: op.Variables}
	m.selections(op.Operation.SelectionSet, 1, 1)
	switch {
	case m.tooDeep:
		return refused("QUERY_TOO_DEEP", "the query nests deeper than %d fields", l.Depth)
	case m.cost > l.Cost:
		return l.tooCostly()
	}
	return nil
}

func (l Limits) tooCostly() *gqlerror.Error {
	return refused("QUERY_TOO_COSTLY", "the answer would have more than %d fields: ask for shorter pages (first), or for less at once", l.Cost)
}

// budget counts the fields that one query is answered.
type budget struct{ left atomic.Int64 }

type budgetKey struct{}

func (l Limits) withBudget(ctx context.Context) context.Context {
	b := &budget{}
	b.left.Store(int64(l.Cost))
	return context.WithValue(ctx, budgetKey{}, b)
}

// errSpent stops the fields of a query that has spent its budget; the whole answer is replaced then.
var errSpent = errors.New("the answer has too many fields")

// spend lets a field be answered while the budget lasts.
func spend(ctx context.Context, next graphql.Resolver) (any, error) {
	if b, ok := ctx.Value(budgetKey{}).(*budget); ok && b.left.Add(-1) < 0 {
		return nil, errSpent
	}
	return next(ctx)
}

// spent says whether the answer has become too long.
func spent(ctx context.Context) bool {
	b, ok := ctx.Value(budgetKey{}).(*budget)
	return ok && b.left.Load() < 0
}

func refused(code, format string, args ...any) *gqlerror.Error {
	err := gqlerror.Errorf(format, args...)
	err.Extensions = map[string]any{"code": code}
	return err
}

// measure adds up an operation, and stops when a limit is passed.
type measure struct {
	limits    Limits
	variables map[string]any
	cost      int
	tooDeep   bool
}

func (m *measure) over() bool { return m.tooDeep || m.cost > m.limits.Cost }

func (m *measure) selections(set ast.SelectionSet, depth, times int) {
	for _, s := range set {
		if m.over() {
			return
		}
		switch s := s.(type) {
		case *ast.Field:
			m.field(s, depth, times)
		case *ast.InlineFragment:
			m.selections(s.SelectionSet, depth, times)
		case *ast.FragmentSpread:
			m.selections(s.Definition.SelectionSet, depth, times)
		}
	}
}

func (m *measure) field(f *ast.Field, depth, times int) {
	if f.Name == "__schema" || f.Name == "__type" {
		return // the schema describes itself within its own bounds
	}
	if depth > m.limits.Depth {
		m.tooDeep = true
		return
	}
	m.cost = add(m.cost, times)
	m.selections(f.SelectionSet, depth+1, multiply(times, m.length(f)))
}

// usual is how long a list is taken to be of which nothing is said. What lists are in truth, the budget counts.
const usual = 10

// length is how many times the fields of a field may be answered.
func (m *measure) length(f *ast.Field) int {
	if f.Definition == nil || len(f.SelectionSet) == 0 {
		return 1
	}
	if f.Definition.Arguments.ForName("first") != nil {
		if arg := f.Arguments.ForName("first"); arg != nil {
			if value, err := arg.Value.Value(m.variables); err == nil && value != nil {
				return number(value)
			}
		}
		return usual
	}
	// The edges and nodes of a connection are counted with the connection.
	if f.Definition.Type.Elem != nil && f.Name != "edges" && f.Name != "nodes" {
		return usual
	}
	return 1
}

func number(v any) int {
	switch v := v.(type) {
	case int64:
		return clamp(v)
	case int:
		return clamp(int64(v))
	case float64:
		return clamp(int64(v))
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return clamp(n)
		}
	}
	return view.MaxPage
}

// clamp keeps a count within what a page can be: more is refused when the field is answered.
func clamp(n int64) int { return int(max(1, min(n, view.MaxPage))) }

func add(a, b int) int {
	if a > math.MaxInt-b {
		return math.MaxInt
	}
	return a + b
}

func multiply(a, b int) int {
	if a > math.MaxInt/max(b, 1) {
		return math.MaxInt
	}
	return a * b
}
