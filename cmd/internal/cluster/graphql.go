package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/graphql"
)

// graphQLHandler answers GraphQL to those whom the API server has let through.
func (cp *controlPlane) graphQLHandler() http.Handler {
	return graphql.NewHandler(graphql.Config{
		Live: cp.view, History: fresh{cp.models, cp.log}, Log: cp.log, Kinds: cp.kinds, Now: time.Now,
		Authorize: func(ctx context.Context, gr domain.Resource, namespace, verb string) error {
			return cp.server.Authorize(ctx, gr, namespace, verb)
		},
	})
}

// serveGraphQL serves the page on an address of its own. On a loopback address whoever is on this machine may read (Secrets are
// never shown); on any other address requests are handed to the API server, which asks who they are from.
func (cp *controlPlane) serveGraphQL(ctx context.Context, group *errgroup.Group, running context.Context) error {
	if cp.GraphQL == "" {
		return nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cp.GraphQL)
	if err != nil {
		return fmt.Errorf("serving GraphQL: %w: choose another address with --graphql", err)
	}
	var handler http.Handler
	if addr, ok := listener.Addr().(*net.TCPAddr); ok && addr.IP.IsLoopback() {
		handler = loopbackOnly(graphql.NewHandler(graphql.Config{
			Live: cp.view, History: fresh{cp.models, cp.log}, Log: cp.log, Kinds: cp.kinds, Now: time.Now,
		}))
	} else if handler, err = cp.proxyToAPI(); err != nil {
		listener.Close()
		return err
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		BaseContext: func(net.Listener) context.Context { return running },
	}
	group.Go(func() error {
		defer context.AfterFunc(running, func() { server.Close() })()
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serving GraphQL: %w", err)
		}
		return nil
	})
	cp.logger.Info("GraphQL is served", "url", "http://"+listener.Addr().String()+"/")
	return nil
}

// loopbackOnly refuses requests that name another host: a page of somebody else's, opened in a browser on this machine, could
// otherwise read the cluster by a name that it lets point to 127.0.0.1.
func loopbackOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isLoopbackHost(r.Host) {
			http.Error(w, "this address answers to localhost only", http.StatusForbidden)
			return
		}
		if origin := r.Header.Get("Origin"); origin != "" {
			if u, err := url.Parse(origin); err != nil || !isLoopbackHost(u.Host) {
				http.Error(w, "this address answers to pages of its own only", http.StatusForbidden)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

func isLoopbackHost(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func (cp *controlPlane) proxyToAPI() (http.Handler, error) {
	target, err := url.Parse(cp.server.URL())
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(cp.pki.CA())
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			if r.Out.URL.Path == "/" {
				r.Out.URL.Path = "/graphql"
			}
		},
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}},
	}
	return proxy, nil
}
