package join

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
)

// Node is who wants to join, or to renew its certificates.
type Node struct {
	Name  string
	Names []string // under which the node's own server is reached
	IPs   []net.IP
}

// Credentials are what a member holds, all in PEM.
type Credentials struct {
	CA                      []byte
	ClientCert, ClientKey   []byte
	ServingCert, ServingKey []byte
}

// Errors of joining, tested with errors.Is.
var (
	ErrBadToken = errors.New("a bootstrap token has the form abcdef.0123456789abcdef")
	ErrNotTrue  = errors.New("the server does not know the token: it may not be the one that the token was made for")
)

// FetchCA asks a server for the cluster's authority and checks its proof: whoever answers must know the token.
func FetchCA(ctx context.Context, server, token string) ([]byte, error) {
	id, secret, ok := strings.Cut(token, ".")
	if !ok || len(id) != 6 || len(secret) != 16 {
		return nil, ErrBadToken
	}
	// Nothing is believed but what the proof proves.
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as said
	}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(server, "/")+CAPath+"?token-id="+id, nil)
	if err != nil {
		return nil, fmt.Errorf("asking %s for the cluster's authority: %w", server, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking %s for the cluster's authority: %w", server, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("asking %s for the cluster's authority: %w", server, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking %s for the cluster's authority: %s: %s", server, resp.Status, body)
	}
	var ca CA
	if err := json.Unmarshal(body, &ca); err != nil {
		return nil, fmt.Errorf("asking %s for the cluster's authority: %w", server, err)
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(ca.PEM))
	proof, err := hex.DecodeString(ca.Proof)
	if err != nil || !hmac.Equal(proof, mac.Sum(nil)) {
		return nil, ErrNotTrue
	}
	return []byte(ca.PEM), nil
}

// Join makes a node a member: it returns when the node has its certificates, or when the context ends.
func Join(ctx context.Context, server, token string, n Node) (Credentials, error) {
	ca, err := FetchCA(ctx, server, token)
	if err != nil {
		return Credentials{}, fmt.Errorf("joining %s: %w", server, err)
	}
	first := &restclient.Config{Host: server, BearerToken: token, TLSClientConfig: restclient.TLSClientConfig{CAData: ca}, QPS: -1}
	out := Credentials{CA: ca}
	if out.ClientCert, out.ClientKey, err = request(ctx, first, n, certv1.KubeAPIServerClientKubeletSignerName); err != nil {
		return Credentials{}, fmt.Errorf("joining %s: %w", server, err)
	}
	return renewServing(ctx, server, out, n)
}

// Renew gets new certificates for a member while its old ones are still good.
func Renew(ctx context.Context, server string, old Credentials, n Node) (Credentials, error) {
	out := Credentials{CA: old.CA}
	var err error
	if out.ClientCert, out.ClientKey, err = request(ctx, old.config(server), n, certv1.KubeAPIServerClientKubeletSignerName); err != nil {
		return Credentials{}, fmt.Errorf("renewing the certificates of %s: %w", n.Name, err)
	}
	return renewServing(ctx, server, out, n)
}

func renewServing(ctx context.Context, server string, out Credentials, n Node) (Credentials, error) {
	var err error
	if out.ServingCert, out.ServingKey, err = request(ctx, out.config(server), n, certv1.KubeletServingSignerName); err != nil {
		return Credentials{}, fmt.Errorf("getting a serving certificate for %s: %w", n.Name, err)
	}
	return out, nil
}

// config connects as the member.
func (c Credentials) config(server string) *restclient.Config {
	return &restclient.Config{Host: server, QPS: -1, TLSClientConfig: restclient.TLSClientConfig{
		CAData: c.CA, CertData: c.ClientCert, KeyData: c.ClientKey,
	}}
}

// Config connects to a server as the member.
func (c Credentials) Config(server string) *restclient.Config { return c.config(server) }

// request asks for one certificate and waits for it.
func request(ctx context.Context, config *restclient.Config, n Node, signer string) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	t := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:" + n.Name, Organization: []string{"system:nodes"}}}
	usages := []certv1.KeyUsage{certv1.UsageDigitalSignature, certv1.UsageClientAuth}
	if signer == certv1.KubeletServingSignerName {
		t.DNSNames, t.IPAddresses = n.Names, n.IPs
		usages = []certv1.KeyUsage{certv1.UsageDigitalSignature, certv1.UsageServerAuth}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, t, k)
	if err != nil {
		return nil, nil, fmt.Errorf("making a certificate request: %w", err)
	}
	keyDER, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding a key: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("connecting to %s: %w", config.Host, err)
	}
	csrs := client.CertificatesV1().CertificateSigningRequests()
	made, err := csrs.Create(ctx, &certv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "node-csr-"},
		Spec: certv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: signer, Usages: usages,
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("asking for a certificate: %w", err)
	}
	cert, err = await(ctx, client, made)
	if err != nil {
		return nil, nil, err
	}
	return bytes.Clone(cert), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), nil
}

// await waits until a request has been signed or turned down.
func await(ctx context.Context, client kubernetes.Interface, made *certv1.CertificateSigningRequest) ([]byte, error) {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		r, err := client.CertificatesV1().CertificateSigningRequests().Get(ctx, made.Name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("waiting for certificate request %s: %w", made.Name, err)
		}
		if len(r.Status.Certificate) > 0 {
			return r.Status.Certificate, nil
		}
		for _, c := range r.Status.Conditions {
			if c.Type == certv1.CertificateDenied || c.Type == certv1.CertificateFailed {
				return nil, fmt.Errorf("certificate request %s was turned down: %s", made.Name, c.Message)
			}
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for certificate request %s: %w", made.Name, ctx.Err())
		}
	}
}
