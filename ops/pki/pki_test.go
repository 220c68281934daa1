package pki_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shiplog/shiplog/ops/pki"
)

func ensure(t *testing.T, o pki.Options) *pki.PKI {
	t.Helper()
	p, err := pki.Ensure(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func read(t *testing.T, p *pki.PKI, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(p.Path(file))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func cert(t *testing.T, data []byte) *x509.Certificate {
	t.Helper()
	b, _ := pem.Decode(data)
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestMakingTwiceChangesNothing(t *testing.T) {
	o := pki.Options{Dir: filepath.Join(t.TempDir(), "pki"), ServiceIP: net.IPv4(10, 96, 0, 1)}
	p := ensure(t, o)
	files := []string{pki.CACert, pki.CAKey, pki.ServerCert, pki.ServerKey, pki.AdminCert, pki.AdminKey, pki.KubeletCert, pki.KubeletKey, pki.TokenKey}
	before := map[string][]byte{}
	for _, f := range files {
		before[f] = read(t, p, f)
		info, err := os.Stat(p.Path(f))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(f, ".key") && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f, info.Mode())
		}
	}
	p = ensure(t, o)
	for _, f := range files {
		if !bytes.Equal(read(t, p, f), before[f]) {
			t.Errorf("%s was made anew", f)
		}
	}
}

func TestWhatIsMadeAnew(t *testing.T) {
	now := time.Now()
	o := pki.Options{Dir: t.TempDir(), Now: func() time.Time { return now }}
	p := ensure(t, o)
	ca, server, token := read(t, p, pki.CACert), read(t, p, pki.ServerCert), read(t, p, pki.TokenKey)
	for _, tt := range []struct {
		name  string
		given func()
	}{
		{"another name", func() { o.Names = []string{"ship.example.org"} }},
		{"another address", func() { o.IPs = []net.IP{net.IPv4(192, 0, 2, 7)} }},
		{"soon to expire", func() { now = now.Add(340 * 24 * time.Hour) }},
		{"a lost key", func() {
			if err := os.Remove(p.Path(pki.ServerKey)); err != nil {
				t.Fatal(err)
			}
		}},
		{"a damaged certificate", func() {
			if err := os.WriteFile(p.Path(pki.ServerCert), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		tt.given()
		p = ensure(t, o)
		if next := read(t, p, pki.ServerCert); bytes.Equal(next, server) {
			t.Errorf("%s: the serving certificate stayed", tt.name)
		} else {
			server = next
		}
	}
	if !bytes.Equal(read(t, p, pki.CACert), ca) || !bytes.Equal(read(t, p, pki.TokenKey), token) {
		t.Error("the authority or the token key was replaced")
	}
	c := cert(t, server)
	if err := c.VerifyHostname("ship.example.org"); err != nil {
		t.Error(err)
	}
	if err := c.VerifyHostname("kubernetes.default.svc.cluster.local"); err != nil {
		t.Error(err)
	}
}

func TestCertificatesAreTrusted(t *testing.T) {
	p := ensure(t, pki.Options{Dir: t.TempDir()})
	certPEM, keyPEM, err := p.Issue(pki.Request{Name: "system:node:n1", Organizations: []string{"system:nodes"}, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(certPEM, keyPEM); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.CA())
	if _, err := cert(t, certPEM).Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if _, err := cert(t, certPEM).Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Error("a client certificate serves")
	}
}

func TestAnAuthorityWithoutItsKeyIsAnError(t *testing.T) {
	o := pki.Options{Dir: t.TempDir()}
	p := ensure(t, o)
	if err := os.Remove(p.Path(pki.CAKey)); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Ensure(o); err == nil {
		t.Error("a new key was made for an old authority")
	}
}
