package api

import (
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"github.com/shiplog/shiplog/api/access"
	"github.com/shiplog/shiplog/commands/origin"
	"github.com/shiplog/shiplog/commands/remote/headers"
	"github.com/shiplog/shiplog/domain"
)

type requestInfo = request.RequestInfo

// chain builds the handlers that every request passes: upstream's, and around them what makes a request one of ours.
func (s *Server) chain(api http.Handler, c *genericapiserver.Config) http.Handler {
	return s.withAsOf(genericapiserver.DefaultBuildHandlerChain(withOrigin(api), c))
}

// withOrigin lets the event that a request ends in tell where the request came from. It stands behind authentication: why a component
// acted is believed to components alone.
func withOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o := origin.From(r.Context())
		u, ok := request.UserFrom(r.Context())
		o.Actor.UserAgent = r.UserAgent()
		o.Actor.SourceIP = sourceIP(r)
		if len(r.URL.Query()["dryRun"]) > 0 {
			o.Command.DryRun = true
		}
		if ok && component(u) {
			readCause(r.Header, &o)
		}
		next.ServeHTTP(w, r.WithContext(origin.With(r.Context(), o)))
	})
}

// component says whether a user is a part of the cluster, whose word on causes counts.
func component(u user.Info) bool {
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		return true
	}
	_, ok := access.NodeName(u)
	return ok
}

func readCause(h http.Header, o *origin.Origin) {
	if id := h.Get(headers.Cause); id != "" && len(id) <= headers.MaxID {
		c := &domain.Cause{ID: id}
		if p, err := strconv.ParseUint(h.Get(headers.CausePosition), 10, 64); err == nil {
			c.Position = p
		}
		o.Cause = c
	}
	if id := h.Get(headers.Correlation); id != "" && len(id) <= headers.MaxID {
		o.Correlation = id
	}
	if e := h.Get(headers.Evidence); e != "" && len(e) <= headers.MaxEvidence && json.Valid([]byte(e)) {
		o.Evidence = json.RawMessage(e)
	}
}

func sourceIP(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return strings.Trim(r.RemoteAddr, "[]")
	}
	return host
}
