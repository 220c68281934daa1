package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	kuberoutes "k8s.io/kubernetes/pkg/routes"
	"k8s.io/kubernetes/pkg/serviceaccount"

	"github.com/shiplog/shiplog/api/join"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// caPath answers with the cluster's authority, proven by a bootstrap token.
const caPath = join.CAPath

// mount serves what is not the Kubernetes API.
func (s *Server) mount(_ serviceaccount.TokenGenerator, issuer string) error {
	keys, err := serviceaccount.StaticPublicKeysGetter([]any{s.cfg.PKI.Token().Public()})
	if err != nil {
		return fmt.Errorf("reading the key of service-account tokens: %w", err)
	}
	md, err := serviceaccount.NewOpenIDMetadataProvider(issuer, issuer+serviceaccount.JWKSPath, s.listener.Addr().String(), keys)
	if err != nil {
		return fmt.Errorf("making the OpenID metadata: %w", err)
	}
	kuberoutes.NewOpenIDMetadataServer(md).Install(s.generic.Handler.GoRestfulContainer)
	mux := s.generic.Handler.NonGoRestfulMux
	mux.Handle(caPath, http.HandlerFunc(s.serveCA))
	if s.cfg.Feed != nil {
		mux.HandlePrefix(nodesPath, http.HandlerFunc(s.serveFeed))
	}
	for prefix, h := range s.cfg.Extra {
		prefix = strings.TrimRight(prefix, "/")
		mux.Handle(prefix, h)
		mux.HandlePrefix(prefix+"/", h)
	}
	return nil
}

func fail(w http.ResponseWriter, r *http.Request, err error) {
	responsewriters.ErrorNegotiated(err, legacyscheme.Codecs, schema.GroupVersion{Version: "v1"}, w, r)
}

var tokenID = regexp.MustCompile(`^[a-z0-9]{6}$`)

// serveCA answers with the cluster's authority and a proof that whoever answers knows the bootstrap token of the given id: so a node
// that knows the token, and nothing else, learns whom to trust.
func (s *Server) serveCA(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Query().Get("token-id")
	if !tokenID.MatchString(id) {
		fail(w, r, apierrors.NewBadRequest("token-id must be the six characters before the dot of a bootstrap token"))
		return
	}
	secret, ok := projections.Get[*corev1.Secret](s.cfg.Live.Snapshot(), domain.Resource{Resource: "secrets"}, "kube-system", "bootstrap-token-"+id)
	if !ok || !s.tokenUsable(secret, id) {
		fail(w, r, apierrors.NewUnauthorized("no such bootstrap token, or it has expired"))
		return
	}
	ca := s.cfg.PKI.CA()
	mac := hmac.New(sha256.New, secret.Data["token-secret"])
	mac.Write(ca)
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(join.CA{PEM: string(ca), Proof: hex.EncodeToString(mac.Sum(nil))}); err != nil {
		s.cfg.Logger.Debug("answering with the cluster's authority", "error", err)
	}
}

func (s *Server) tokenUsable(secret *corev1.Secret, id string) bool {
	if secret.Type != corev1.SecretTypeBootstrapToken || string(secret.Data["token-id"]) != id || len(secret.Data["token-secret"]) == 0 ||
		string(secret.Data["usage-bootstrap-authentication"]) != "true" || secret.DeletionTimestamp != nil {
		return false
	}
	end := string(secret.Data["expiration"])
	if end == "" {
		return true
	}
	t, err := time.Parse(time.RFC3339, end)
	return err == nil && s.cfg.Now().Before(t)
}

// proxyTransport reaches pods and services for the API's proxies. They show what a pod itself serves: like upstream, without
// verifying its certificate. Loopback and link-local addresses are this machine's, and no pod's.
func proxyTransport() http.RoundTripper {
	d := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second, Control: refuseLocal}
	return &http.Transport{DialContext: d.DialContext, TLSClientConfig: insecure(), MaxIdleConnsPerHost: 16, IdleConnTimeout: 90 * time.Second}
}
