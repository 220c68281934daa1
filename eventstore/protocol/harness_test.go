package protocol_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/esdb"
	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/crypto/bcrypt"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/protocol"
	"github.com/shiplog/shiplog/eventstore/protocol/users"
)

func openLog(t *testing.T) eventstore.Log {
	t.Helper()
	log, err := embedded.Open("log", embedded.Options{FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return log
}

// serve returns a log and the address at which it is served, open to everybody and without TLS.
func serve(t *testing.T) (eventstore.Log, string) {
	t.Helper()
	log := openLog(t)
	address, _ := start(t, log, protocol.Options{})
	return log, address
}

// start serves a log until the test ends or stop is called.
func start(t *testing.T, log eventstore.Log, opts protocol.Options) (address string, stop func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return startAt(t, listener, log, opts)
}

func startAt(t *testing.T, listener net.Listener, log eventstore.Log, opts protocol.Options) (address string, stop func()) {
	t.Helper()
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	server := protocol.NewServer(log, opts)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return listener.Addr().String(), stop
}

func official(t *testing.T, address string) *esdb.Client {
	t.Helper()
	return connect(t, "esdb://"+address+"?tls=false")
}

func connect(t *testing.T, connection string) *esdb.Client {
	t.Helper()
	config, err := esdb.ParseConnectionString(connection)
	if err != nil {
		t.Fatal(err)
	}
	config.Logger = esdb.NoopLogging()
	client, err := esdb.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// account is a user of a secured server. Passwords are the names.
func account(t *testing.T, name string, groups ...string) string {
	t.Helper()
	line, err := users.Line(name, name, groups, bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// secured is a server with TLS and users.
type secured struct {
	log     eventstore.Log
	address string
	ca      *authority
}

// serveSecured serves a log with TLS to admin, ops, ann and bob, who is a writer.
func serveSecured(t *testing.T, change func(*protocol.Options)) *secured {
	t.Helper()
	set, err := users.Parse(strings.NewReader(strings.Join([]string{
		account(t, "admin"), account(t, "ops"), account(t, "ann"), account(t, "bob", "writers"),
	}, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	s := &secured{log: openLog(t), ca: newAuthority(t)}
	opts := protocol.Options{TLS: s.ca.server(t), Users: func() *users.Set { return set }}
	if change != nil {
		change(&opts)
	}
	s.address, _ = start(t, s.log, opts)
	return s
}

// client connects as a user; "" is nobody.
func (s *secured) client(t *testing.T, user string) *esdb.Client {
	t.Helper()
	return connect(t, s.connection(user))
}

func (s *secured) connection(user string) string {
	if user != "" {
		user += ":" + user + "@"
	}
	return fmt.Sprintf("esdb://%s%s?tlsCAFile=%s", user, s.address, s.ca.file)
}

// authority makes certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
	dir  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.file = a.write(t, "ca.pem", "CERTIFICATE", der)
	return a
}

func (a *authority) write(t *testing.T, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// issue makes a certificate for a name and returns its files.
func (a *authority) issue(t *testing.T, name string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, k.Public(), a.key)
	keyDER, keyErr := x509.MarshalECPrivateKey(k)
	if err := errors.Join(err, keyErr); err != nil {
		t.Fatal(err)
	}
	return a.write(t, name+".pem", "CERTIFICATE", der), a.write(t, name+".key", "EC PRIVATE KEY", keyDER)
}

func (a *authority) server(t *testing.T) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(a.issue(t, "server"))
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
}
