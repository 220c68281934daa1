package access

import (
	"crypto/sha256"
	"net/http"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
)

// The bounds of what is remembered of client certificates.
const (
	certLife = time.Minute
	maxCerts = 4096
)

// remembering remembers for a short while whom a client certificate proved to be: verifying its chain costs as much as the rest of a
// small request, and a client sends thousands over one connection.
type remembering struct {
	next authenticator.Request
	now  func() time.Time

	mu    sync.Mutex
	known map[[sha256.Size]byte]proven
}

type proven struct {
	response *authenticator.Response
	until    time.Time
}

func rememberCerts(next authenticator.Request) *remembering {
	return &remembering{next: next, now: time.Now, known: map[[sha256.Size]byte]proven{}}
}

// AuthenticateRequest implements authenticator.Request.
func (r *remembering) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	if req.TLS == nil || len(req.TLS.PeerCertificates) == 0 {
		return nil, false, nil
	}
	leaf := req.TLS.PeerCertificates[0]
	if len(req.TLS.PeerCertificates) > 1 {
		return r.next.AuthenticateRequest(req)
	}
	id, now := sha256.Sum256(leaf.Raw), r.now()
	r.mu.Lock()
	p, ok := r.known[id]
	r.mu.Unlock()
	if ok && now.Before(p.until) {
		return p.response, true, nil
	}
	response, ok, err := r.next.AuthenticateRequest(req)
	if err != nil || !ok {
		return response, ok, err
	}
	until := now.Add(certLife)
	if leaf.NotAfter.Before(until) {
		until = leaf.NotAfter
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.known) >= maxCerts {
		clear(r.known)
	}
	r.known[id] = proven{response, until}
	return response, true, nil
}
