package graphql

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/99designs/gqlgen/graphql"
	"github.com/99designs/gqlgen/graphql/handler"
	"github.com/99designs/gqlgen/graphql/handler/extension"
	"github.com/99designs/gqlgen/graphql/handler/lru"
	"github.com/99designs/gqlgen/graphql/handler/transport"
	"github.com/vektah/gqlparser/v2/ast"
	"github.com/vektah/gqlparser/v2/gqlerror"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/graphql/failure"
	"github.com/shiplog/shiplog/graphql/generated"
	"github.com/shiplog/shiplog/graphql/playground"
	"github.com/shiplog/shiplog/graphql/resolvers"
	"github.com/shiplog/shiplog/graphql/view"
	"github.com/shiplog/shiplog/projections"
)

// Config is what a handler is made of.
type Config struct {
	Live    projections.Live
	History projections.History // nil: questions about the past are refused
	Log     eventstore.Log
	Kinds   *domain.Set
	// Now is the clock that "-10m" is counted from; nil: time.Now.
	Now func() time.Time
	// Authorize says whether the caller, whom the caller's own middleware has put into the context, may do something (verbs get,
	// list, watch) with the objects of a resource in a namespace; "" is all of them. nil allows everything.
	Authorize func(ctx context.Context, gr domain.Resource, namespace, verb string) error
	Logger    *slog.Logger // nil: slog.Default
	Limits    Limits

	// KeepAlive is the time between pings on long connections; a WebSocket whose client does not answer for twice as long is
	// closed. 0: 15 s.
	KeepAlive time.Duration
	// Timeout bounds a query; subscriptions last. 0: 30 s.
	Timeout time.Duration
}

// NewHandler serves GraphQL at /graphql (GET, POST, WebSocket, server-sent events) and the page to try it on at / and, for
// browsers, at /graphql.
func NewHandler(c Config) http.Handler {
	c = c.withDefaults()
	server := c.server()
	page := playground.Handler()
	mux := http.NewServeMux()
	mux.HandleFunc("/graphql", func(w http.ResponseWriter, r *http.Request) {
		if wantsPage(r) {
			page.ServeHTTP(w, r)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, c.Limits.Body)
		server.ServeHTTP(w, r)
	})
	mux.Handle("GET /{$}", page)
	mux.Handle("GET /graphql/assets/", page)
	return mux
}

// wantsPage tells a browser that opens the address from a program that asks a query.
func wantsPage(r *http.Request) bool {
	return r.Method == http.MethodGet && r.Header.Get("Upgrade") == "" && !r.URL.Query().Has("query") &&
		strings.Contains(r.Header.Get("Accept"), "text/html")
}

func (c Config) withDefaults() Config {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.KeepAlive == 0 {
		c.KeepAlive = 15 * time.Second
	}
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Second
	}
	c.Limits = c.Limits.withDefaults()
	return c
}

func (c Config) server() *handler.Server {
	source := view.Source{Live: c.Live, History: c.History, Log: c.Log, Kinds: c.Kinds, Now: c.Now, Authorize: c.Authorize}
	s := handler.New(generated.NewExecutableSchema(generated.Config{Resolvers: &resolvers.Root{Source: source, Logger: c.Logger}}))
	s.AddTransport(transport.Websocket{KeepAlivePingInterval: c.KeepAlive, PingPongInterval: c.KeepAlive, InitTimeout: c.KeepAlive, PayloadReadLimit: &c.Limits.Body})
	s.AddTransport(transport.SSE{KeepAlivePingInterval: c.KeepAlive})
	s.AddTransport(transport.Options{})
	s.AddTransport(transport.GET{})
	s.AddTransport(transport.POST{})
	s.SetQueryCache(lru.New[*ast.QueryDocument](256))
	s.SetParserTokenLimit(c.Limits.Tokens)
	s.Use(extension.Introspection{})
	s.Use(c.Limits)
	s.SetErrorPresenter(failure.Present)
	s.SetRecoverFunc(func(ctx context.Context, p any) error {
		c.Logger.ErrorContext(ctx, "a GraphQL resolver panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		err := gqlerror.Errorf("internal error; the server's log says more")
		err.Extensions = map[string]any{"code": "INTERNAL"}
		return err
	})
	s.AroundOperations(func(ctx context.Context, next graphql.OperationHandler) graphql.ResponseHandler {
		if subscribes(ctx) {
			return next(ctx)
		}
		// Everything that one query asks is answered from one moment.
		return next(c.Limits.withBudget(view.WithSet(ctx, view.NewSet(source))))
	})
	s.AroundFields(spend)
	s.AroundResponses(func(ctx context.Context, next graphql.ResponseHandler) *graphql.Response {
		if subscribes(ctx) {
			return next(ctx)
		}
		ctx, cancel := context.WithTimeout(ctx, c.Timeout)
		defer cancel()
		response := next(ctx)
		if spent(ctx) {
			return &graphql.Response{Errors: gqlerror.List{c.Limits.tooCostly()}}
		}
		return response
	})
	return s
}

// subscribes says whether the operation lasts; one that was refused before it was understood is none.
func subscribes(ctx context.Context) bool {
	op := graphql.GetOperationContext(ctx).Operation
	return op != nil && op.Operation == ast.Subscription
}
