package esdb_test

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

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/contract"
	"github.com/shiplog/shiplog/eventstore/esdb"
	"github.com/shiplog/shiplog/eventstore/protocol"
	"github.com/shiplog/shiplog/eventstore/protocol/users"
	"github.com/shiplog/shiplog/internal/servetest"
)

// serve serves a log until the function that it returns is called.
func serve(t testing.TB, log eventstore.Log, address string, config *tls.Config) (string, func()) {
	t.Helper()
	return serveWith(t, log, address, protocol.Options{TLS: config})
}

func serveWith(t testing.TB, log eventstore.Log, address string, opts protocol.Options) (string, func()) {
	t.Helper()
	return servetest.Serve(t, servetest.Listen(t, address), log, opts)
}

func connect(t testing.TB, connection string) *esdb.Log {
	t.Helper()
	log, err := esdb.Open(t.Context(), connection, esdb.Options{Logger: slog.New(slog.DiscardHandler), Timeout: time.Minute})
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

// The whole contract, through the official client and a socket.
func TestContract(t *testing.T) {
	contract.Run(t, func(t *testing.T) eventstore.Log {
		address, stop := serve(t, servetest.OpenLog(t), "127.0.0.1:0", nil)
		t.Cleanup(stop)
		return connect(t, "esdb://"+address+"?tls=false")
	})
}

// The same with TLS, credentials, and the server found by gossip as in a cluster.
func TestContractInClusterWithTLS(t *testing.T) {
	config, ca := certificate(t)
	admins := admins(t)
	contract.Run(t, func(t *testing.T) eventstore.Log {
		address, stop := serveWith(t, servetest.OpenLog(t), "127.0.0.1:0", protocol.Options{TLS: config, Users: admins})
		t.Cleanup(stop)
		return connect(t, fmt.Sprintf("esdb://admin:changeit@%s,%s?tlsCAFile=%s", address, address, ca))
	})
}

func admins(t *testing.T) func() *users.Set {
	t.Helper()
	line, err := users.Line("admin", "changeit", []string{"$admins"}, 4)
	if err != nil {
		t.Fatal(err)
	}
	set, err := users.Parse(strings.NewReader(line + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return func() *users.Set { return set }
}

// Who has no password, the wrong one, or no certificate where one is wanted, is told so.
func TestAccess(t *testing.T) {
	config, ca := certificate(t)
	address, stop := serveWith(t, servetest.OpenLog(t), "127.0.0.1:0", protocol.Options{TLS: config, Users: admins(t)})
	t.Cleanup(stop)
	open := func(connection string) error {
		log, err := esdb.Open(t.Context(), connection, esdb.Options{Logger: slog.New(slog.DiscardHandler), Timeout: time.Second})
		if err != nil {
			return err
		}
		return log.Close()
	}
	for credentials, want := range map[string]error{"admin:changeit@": nil, "admin:wrong@": eventstore.ErrDenied, "nobody:changeit@": eventstore.ErrDenied, "": eventstore.ErrDenied} {
		if err := open("esdb://" + credentials + address + "?tlsCAFile=" + ca); !errors.Is(err, want) {
			t.Errorf("with %q: got %v, want %v", credentials, err, want)
		}
	}
	if err := open("esdb://admin:changeit@" + address); !isUnavailable(err) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without the authority: got %v", err)
	}

	// The server's certificate is its own authority, and so that of a user who has it.
	both := config.Clone()
	both.ClientCAs, both.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	leaf, err := x509.ParseCertificate(config.Certificates[0].Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	both.ClientCAs.AddCert(leaf)
	strict, stop := serveWith(t, servetest.OpenLog(t), "127.0.0.1:0", protocol.Options{TLS: both})
	t.Cleanup(stop)
	key := filepath.Join(t.TempDir(), "user.key")
	der, err := x509.MarshalPKCS8PrivateKey(config.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open(fmt.Sprintf("esdb://%s?tlsCAFile=%s&userCertFile=%s&userKeyFile=%s", strict, ca, ca, key)); err != nil {
		t.Errorf("with a user certificate: %v", err)
	}
	if err := open("esdb://" + strict + "?tlsCAFile=" + ca); !isUnavailable(err) {
		t.Errorf("without a user certificate: got %v", err)
	}
}

func certificate(t testing.TB) (server *tls.Config, caFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "event store"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}, caFile
}
