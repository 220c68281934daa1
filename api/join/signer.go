package join

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/ops/pki"
	"github.com/shiplog/shiplog/projections"
)

var (
	requests = domain.Resource{Group: "certificates.k8s.io", Resource: "certificatesigningrequests"}
	actor    = domain.Actor{User: "system:certificate-signer", Groups: []string{"system:masters"}}
)

// SignerConfig is what a signer is made of.
type SignerConfig struct {
	Live   projections.Live
	Bus    commands.Bus
	PKI    *pki.PKI
	Now    func() time.Time
	Logger *slog.Logger
}

// Signer approves what nodes may ask for, and signs what is approved: client and serving certificates of nodes. Other signers'
// requests it leaves alone.
type Signer struct{ cfg SignerConfig }

// NewSigner makes a signer.
func NewSigner(c SignerConfig) *Signer { return &Signer{c} }

// Run follows the requests until the context ends.
func (s *Signer) Run(ctx context.Context) {
	for ctx.Err() == nil {
		snap := s.cfg.Live.Snapshot()
		for r := range projections.List[*certv1.CertificateSigningRequest](snap, requests, "") {
			s.handle(ctx, r, nil)
		}
		f, err := s.cfg.Live.Follow(snap.Position(), requests)
		if err != nil {
			if !errors.Is(err, projections.ErrTooOld) {
				return
			}
			continue
		}
		s.follow(ctx, f)
		f.Close()
	}
}

func (s *Signer) follow(ctx context.Context, f projections.Follower) {
	for {
		changes, _, err := f.Next(ctx)
		if err != nil {
			return
		}
		for _, c := range changes {
			if c.After == nil {
				continue
			}
			if r, ok := projections.As[*certv1.CertificateSigningRequest](c.After); ok {
				s.handle(ctx, r, &domain.Cause{ID: c.Event.ID, Position: c.Event.Position})
			}
		}
	}
}

// handle takes a request one step further.
func (s *Signer) handle(ctx context.Context, r *certv1.CertificateSigningRequest, cause *domain.Cause) {
	approved, denied := false, false
	for _, c := range r.Status.Conditions {
		approved = approved || c.Type == certv1.CertificateApproved
		denied = denied || c.Type == certv1.CertificateDenied || c.Type == certv1.CertificateFailed
	}
	var err error
	switch {
	case denied || len(r.Status.Certificate) > 0:
		return
	case approved:
		err = s.sign(ctx, r, cause)
	case MayApprove(r) == nil:
		err = s.approve(ctx, r, cause)
	}
	if err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		s.cfg.Logger.Warn("handling a certificate request", "request", r.Name, "error", err)
	}
}

func (s *Signer) approve(ctx context.Context, r *certv1.CertificateSigningRequest, cause *domain.Cause) error {
	now := metav1.NewTime(s.cfg.Now())
	r = r.DeepCopy()
	r.Status.Conditions = append(r.Status.Conditions, certv1.CertificateSigningRequestCondition{
		Type: certv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved",
		Message: "what a node may ask for", LastUpdateTime: now, LastTransitionTime: now,
	})
	return s.do(ctx, r, "approval", cause)
}

func (s *Signer) sign(ctx context.Context, r *certv1.CertificateSigningRequest, cause *domain.Cause) error {
	if r.Spec.SignerName != certv1.KubeAPIServerClientKubeletSignerName && r.Spec.SignerName != certv1.KubeletServingSignerName {
		return nil
	}
	req, err := parse(r.Spec.Request)
	if err == nil {
		err = check(r, req)
	}
	r = r.DeepCopy()
	if err != nil {
		now := metav1.NewTime(s.cfg.Now())
		r.Status.Conditions = append(r.Status.Conditions, certv1.CertificateSigningRequestCondition{
			Type: certv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: err.Error(),
			LastUpdateTime: now, LastTransitionTime: now,
		})
		return s.do(ctx, r, "status", cause)
	}
	want := pki.Request{Name: req.Subject.CommonName, Organizations: req.Subject.Organization}
	if r.Spec.SignerName == certv1.KubeletServingSignerName {
		want.Server, want.Names, want.IPs = true, req.DNSNames, req.IPAddresses
	} else {
		want.Client = true
	}
	if r.Spec.ExpirationSeconds != nil {
		want.Life = time.Duration(*r.Spec.ExpirationSeconds) * time.Second
	}
	if r.Status.Certificate, err = s.cfg.PKI.Sign(req.PublicKey, want); err != nil {
		return err
	}
	return s.do(ctx, r, "status", cause)
}

func (s *Signer) do(ctx context.Context, r *certv1.CertificateSigningRequest, subresource string, cause *domain.Cause) error {
	_, err := s.cfg.Bus.Do(ctx, commands.Command{
		Verb: commands.Update, Resource: certv1.SchemeGroupVersion.WithResource(requests.Resource), Subresource: subresource,
		Name: r.Name, Object: r, Actor: actor, Cause: cause,
	})
	return err
}

func parse(data []byte) (*x509.CertificateRequest, error) {
	b, _ := pem.Decode(data)
	if b == nil || b.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("the request is not a certificate request in PEM")
	}
	req, err := x509.ParseCertificateRequest(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the request cannot be read: %w", err)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the request is not signed by its own key: %w", err)
	}
	return req, nil
}

// MayApprove returns nil when a request may be approved without a person: a bootstrap token asks for the first client certificate of a
// node, or a node for its own next one, or for its serving certificate.
func MayApprove(r *certv1.CertificateSigningRequest) error {
	req, err := parse(r.Spec.Request)
	if err != nil {
		return err
	}
	if err := check(r, req); err != nil {
		return err
	}
	self := r.Spec.Username == req.Subject.CommonName && slices.Contains(r.Spec.Groups, "system:nodes")
	first := r.Spec.SignerName == certv1.KubeAPIServerClientKubeletSignerName && slices.Contains(r.Spec.Groups, "system:bootstrappers")
	if !self && !first {
		return fmt.Errorf("%s may not ask for a certificate of %s", r.Spec.Username, req.Subject.CommonName)
	}
	return nil
}

// check says whether a request is of the form that its signer signs.
func check(r *certv1.CertificateSigningRequest, req *x509.CertificateRequest) error {
	name, ok := strings.CutPrefix(req.Subject.CommonName, "system:node:")
	if !ok || name == "" || !slices.Equal(req.Subject.Organization, []string{"system:nodes"}) {
		return errors.New("the subject must be CN=system:node:<name>, O=system:nodes")
	}
	allowed := []certv1.KeyUsage{certv1.UsageDigitalSignature, certv1.UsageKeyEncipherment}
	need := certv1.UsageClientAuth
	switch r.Spec.SignerName {
	case certv1.KubeAPIServerClientKubeletSignerName:
		if len(req.DNSNames)+len(req.IPAddresses)+len(req.EmailAddresses)+len(req.URIs) > 0 {
			return errors.New("a client certificate has no alternative names")
		}
	case certv1.KubeletServingSignerName:
		need = certv1.UsageServerAuth
		if len(req.EmailAddresses)+len(req.URIs) > 0 || len(req.DNSNames)+len(req.IPAddresses) == 0 {
			return errors.New("a serving certificate has DNS names and IP addresses, and nothing else")
		}
	default:
		return fmt.Errorf("the signer %s is not ours", r.Spec.SignerName)
	}
	if !slices.Contains(r.Spec.Usages, need) {
		return fmt.Errorf("the usage %q is missing", need)
	}
	for _, u := range r.Spec.Usages {
		if u != need && !slices.Contains(allowed, u) {
			return fmt.Errorf("the usage %q is not allowed", u)
		}
	}
	return nil
}
