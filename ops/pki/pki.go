// Package pki makes and keeps the certificates of a cluster in a directory: its authority, the API server's serving certificate, the
// administrator's and the server's own client certificates, the key that signs service-account tokens, and what nodes ask for.
// Making is idempotent: what is there and good stays; what is missing, damaged, about to expire or for other names is made anew.
// The authority and the token key are never replaced.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 365 * 24 * time.Hour
	// renewBefore is how long before its end a certificate is made anew.
	renewBefore = 30 * 24 * time.Hour
	// backdated lets clocks differ.
	backdated = 5 * time.Minute
)

// The files, without directory. Keys are readable by their owner alone.
const (
	CACert, CAKey           = "ca.crt", "ca.key"
	ServerCert, ServerKey   = "apiserver.crt", "apiserver.key"
	AdminCert, AdminKey     = "admin.crt", "admin.key"
	KubeletCert, KubeletKey = "apiserver-kubelet-client.crt", "apiserver-kubelet-client.key"
	TokenKey                = "sa.key"
)

// Options say what the certificates are for.
type Options struct {
	Dir string
	// Names and IPs under which the API server is reached, besides localhost, the loopback addresses and the service's names.
	Names []string
	IPs   []net.IP
	// ServiceIP is the address of the service "kubernetes".
	ServiceIP     net.IP
	ClusterDomain string           // "cluster.local" when empty
	Now           func() time.Time // nil: time.Now
}

// PKI is a directory of certificates and the authority's power to sign more.
type PKI struct {
	dir   string
	opts  Options
	now   func() time.Time
	ca    *x509.Certificate
	key   crypto.Signer
	caPEM []byte
	token *ecdsa.PrivateKey
}

// Ensure makes what is missing in a directory.
func Ensure(o Options) (*PKI, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.ClusterDomain == "" {
		o.ClusterDomain = "cluster.local"
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of certificates: %w", err)
	}
	p := &PKI{dir: o.Dir, now: o.Now}
	if err := p.authority(); err != nil {
		return nil, fmt.Errorf("the cluster's certificate authority in %s: %w", o.Dir, err)
	}
	if err := p.tokenKey(); err != nil {
		return nil, fmt.Errorf("the key of service-account tokens in %s: %w", o.Dir, err)
	}
	p.opts = o
	if err := p.Renew(); err != nil {
		return nil, err
	}
	return p, nil
}

// Renew makes the certificates anew that are about to expire. Who serves with them reads them again by itself.
func (p *PKI) Renew() error {
	o := p.opts
	for _, l := range []struct {
		cert, key string
		want      Request
	}{
		{ServerCert, ServerKey, serving(o)},
		{AdminCert, AdminKey, Request{Name: "kubernetes-admin", Organizations: []string{"system:masters"}, Client: true}},
		{KubeletCert, KubeletKey, Request{Name: "kube-apiserver-kubelet-client", Organizations: []string{"system:masters"}, Client: true}},
	} {
		if err := p.leaf(l.cert, l.key, l.want); err != nil {
			return fmt.Errorf("the certificate %s: %w", filepath.Join(o.Dir, l.cert), err)
		}
	}
	return nil
}

func serving(o Options) Request {
	r := Request{
		Name: "kube-apiserver", Server: true,
		Names: append([]string{
			"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + o.ClusterDomain,
		}, o.Names...),
		IPs: append([]net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, o.IPs...),
	}
	if o.ServiceIP != nil {
		r.IPs = append(r.IPs, o.ServiceIP)
	}
	slices.Sort(r.Names)
	r.Names = slices.Compact(r.Names)
	return r
}

// Path returns the path of one of the files.
func (p *PKI) Path(file string) string { return filepath.Join(p.dir, file) }

// CA returns the authority's certificate in PEM.
func (p *PKI) CA() []byte { return slices.Clone(p.caPEM) }

// Token returns the key that signs service-account tokens.
func (p *PKI) Token() *ecdsa.PrivateKey { return p.token }

// Request says what a certificate is for.
type Request struct {
	Name           string   // common name: the user's, of a client
	Organizations  []string // groups
	Names          []string
	IPs            []net.IP
	Client, Server bool
	Life           time.Duration // 0: a year
}

// Issue makes a key and a certificate for it, both in PEM.
func (p *PKI) Issue(r Request) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	if cert, err = p.Sign(k.Public(), r); err != nil {
		return nil, nil, err
	}
	key, err = encodeKey(k)
	return cert, key, err
}

// Sign makes a certificate for somebody else's key, in PEM.
func (p *PKI) Sign(public crypto.PublicKey, r Request) ([]byte, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	now := p.now()
	if r.Life == 0 {
		r.Life = leafLife
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: r.Name, Organization: r.Organizations},
		NotBefore:    now.Add(-backdated), NotAfter: now.Add(r.Life),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		DNSNames: r.Names, IPAddresses: r.IPs, BasicConstraintsValid: true,
	}
	if t.NotAfter.After(p.ca.NotAfter) {
		t.NotAfter = p.ca.NotAfter
	}
	if r.Client {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	if r.Server {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, p.ca, public, p.key)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate for %s: %w", r.Name, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func (p *PKI) authority() error {
	certPEM, err := os.ReadFile(p.Path(CACert))
	if err == nil {
		if p.ca, err = decodeCert(certPEM); err != nil {
			return err
		}
		if p.key, err = readKey(p.Path(CAKey)); err != nil {
			return err
		}
		if !publicEqual(p.ca.PublicKey, p.key.Public()) {
			return errors.New("certificate and key do not belong together; restore both from a backup")
		}
		p.caPEM = certPEM
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making a key: %w", err)
	}
	serial, err := serialNumber()
	if err != nil {
		return err
	}
	now := p.now()
	id := sha256.Sum256(elliptic.MarshalCompressed(elliptic.P256(), k.X, k.Y)) //nolint:staticcheck // any stable digest of the key will do
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "shiplog"},
		NotBefore: now.Add(-backdated), NotAfter: now.Add(authorityLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, IsCA: true, BasicConstraintsValid: true,
		SubjectKeyId: id[:20],
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, k.Public(), k)
	if err != nil {
		return fmt.Errorf("signing the authority: %w", err)
	}
	keyPEM, err := encodeKey(k)
	if err != nil {
		return err
	}
	p.caPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if p.ca, err = x509.ParseCertificate(der); err != nil {
		return fmt.Errorf("reading back the authority: %w", err)
	}
	p.key = k
	// The key first: a certificate without its key would be taken for a damaged directory.
	if err := write(p.Path(CAKey), keyPEM, 0o600); err != nil {
		return err
	}
	return write(p.Path(CACert), p.caPEM, 0o644)
}

func (p *PKI) tokenKey() error {
	k, err := readKey(p.Path(TokenKey))
	if err == nil {
		ec, ok := k.(*ecdsa.PrivateKey)
		if !ok {
			return fmt.Errorf("%s is not an ECDSA key", p.Path(TokenKey))
		}
		p.token = ec
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if p.token, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return fmt.Errorf("making a key: %w", err)
	}
	keyPEM, err := encodeKey(p.token)
	if err != nil {
		return err
	}
	return write(p.Path(TokenKey), keyPEM, 0o600)
}

// leaf makes a certificate unless there is a good one.
func (p *PKI) leaf(cert, key string, want Request) error {
	if p.good(cert, key, want) {
		return nil
	}
	certPEM, keyPEM, err := p.Issue(want)
	if err != nil {
		return err
	}
	if err := write(p.Path(key), keyPEM, 0o600); err != nil {
		return err
	}
	return write(p.Path(cert), certPEM, 0o644)
}

func (p *PKI) good(cert, key string, want Request) bool {
	data, err := os.ReadFile(p.Path(cert))
	if err != nil {
		return false
	}
	c, err := decodeCert(data)
	if err != nil {
		return false
	}
	k, err := readKey(p.Path(key))
	if err != nil || !publicEqual(c.PublicKey, k.Public()) {
		return false
	}
	if c.CheckSignatureFrom(p.ca) != nil || c.Subject.CommonName != want.Name || p.now().After(c.NotAfter.Add(-renewBefore)) {
		return false
	}
	for _, name := range want.Names {
		if !slices.Contains(c.DNSNames, name) {
			return false
		}
	}
	for _, ip := range want.IPs {
		if !slices.ContainsFunc(c.IPAddresses, ip.Equal) {
			return false
		}
	}
	return true
}

func serialNumber() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("making a serial number: %w", err)
	}
	return n, nil
}

func publicEqual(a, b crypto.PublicKey) bool {
	e, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && e.Equal(b)
}

func decodeCert(data []byte) (*x509.Certificate, error) {
	b, _ := pem.Decode(data)
	if b == nil || b.Type != "CERTIFICATE" {
		return nil, errors.New("the file holds no certificate in PEM")
	}
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading a certificate: %w", err)
	}
	return c, nil
}

func readKey(path string) (crypto.Signer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	b, _ := pem.Decode(data)
	if b == nil {
		return nil, fmt.Errorf("%s holds no key in PEM", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(b.Bytes)
	if err != nil {
		k, err = x509.ParseECPrivateKey(b.Bytes)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the key %s: %w", path, err)
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("the key %s cannot sign", path)
	}
	return s, nil
}

// encodeKey writes a key in the form that all of Kubernetes' libraries read.
func encodeKey(k *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// write replaces a file at once: it is never seen half written.
func write(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	if err := errors.Join(f.Chmod(mode), second(f.Write(data)), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

func second(_ int, err error) error { return err }
