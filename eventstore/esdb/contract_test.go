package esdb_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/eventstore/contract"
	"github.com/shiplog/shiplog/eventstore/embedded"
	"github.com/shiplog/shiplog/eventstore/esdb"
	"github.com/shiplog/shiplog/eventstore/protocol"
)

func openEmbedded(t testing.TB) *embedded.Log {
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

// serve serves a log until the function that it returns is called.
func serve(t testing.TB, log eventstore.Log, address string, config *tls.Config) (string, func()) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	server := protocol.NewServer(log, protocol.Options{TLS: config, Logger: slog.New(slog.DiscardHandler)})
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	return listener.Addr().String(), func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
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
		address, stop := serve(t, openEmbedded(t), "127.0.0.1:0", nil)
		t.Cleanup(stop)
		return connect(t, "esdb://"+address+"?tls=false")
	})
}

// The same with TLS, and with the server found by gossip as in a cluster.
func TestContractInClusterWithTLS(t *testing.T) {
	config, ca := certificate(t)
	contract.Run(t, func(t *testing.T) eventstore.Log {
		address, stop := serve(t, openEmbedded(t), "127.0.0.1:0", config)
		t.Cleanup(stop)
		return connect(t, fmt.Sprintf("esdb://admin:changeit@%s,%s?tlsCAFile=%s", address, address, ca))
	})
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
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
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
