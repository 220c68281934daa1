package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/shiplog/shiplog/eventstore/protocol"
	"github.com/shiplog/shiplog/eventstore/protocol/users"
	"github.com/shiplog/shiplog/ops/pki"
)

// Files in the data directory of a cluster that serves its log. Both are their owner's alone.
const (
	storeUsers      = "eventstore.users"      // who may connect; operators add others
	storeConnection = "eventstore.connection" // the administrator's connection string, with the password
)

// serveLog serves the cluster's log over EventStoreDB's protocol, if that was asked for: with the cluster's certificate, to users
// alone, and read-only but for streams that begin with what the configuration names. What the log holds is the cluster, so a
// stranger who could write to it would own the machine.
func (cp *controlPlane) serveLog(ctx context.Context, group *errgroup.Group, running context.Context) error {
	if cp.StoreListen == "" {
		return nil
	}
	cp.stage("serving the log")
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cp.StoreListen)
	if err != nil {
		return fmt.Errorf("serving the log: %w: choose another address with --eventstore-listen", err)
	}
	if err := cp.ensureStoreAdmin(listener.Addr().String()); err != nil {
		listener.Close()
		return err
	}
	file, err := users.OpenFile(cp.dir.Join(storeUsers), cp.logger)
	if err != nil {
		listener.Close()
		return err
	}
	server := protocol.NewServer(cp.log, protocol.Options{
		TLS: certificateFrom(cp.pki.Path(pki.ServerCert), cp.pki.Path(pki.ServerKey)), Users: file.Users, NoAnonymous: true, Logger: cp.logger,
		Writable: func(stream string) bool {
			for _, prefix := range cp.StoreWrite {
				if strings.HasPrefix(stream, prefix) {
					return true
				}
			}
			return false
		},
	})
	group.Go(func() error { return serveUntil(running, server, listener) })
	return nil
}

// ensureStoreAdmin makes an administrator with a password that nobody else knows, unless there is one, and writes down how to
// connect. The password is not logged.
func (cp *controlPlane) ensureStoreAdmin(address string) error {
	usersFile, connectionFile := cp.dir.Join(storeUsers), cp.dir.Join(storeConnection)
	password, err := storePassword(connectionFile)
	if err != nil {
		return err
	}
	_, err = os.Stat(usersFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("serving the log: %w", err)
	}
	if password == "" || err != nil {
		password = rand.Text()
		line, err := users.Line(users.Admin, password, nil, 0)
		if err != nil {
			return err
		}
		if err := users.Put(usersFile, line); err != nil {
			return err
		}
	}
	connection := url.URL{
		Scheme: "esdb", User: url.UserPassword(users.Admin, password), Host: reachable(address),
		RawQuery: "tlsCAFile=" + url.QueryEscape(cp.pki.Path(pki.CACert)),
	}
	if err := os.WriteFile(connectionFile, []byte(connection.String()+"\n"), 0o600); err != nil {
		return fmt.Errorf("writing how to connect to the log: %w", err)
	}
	cp.logger.Info("the log is served", "connect", connection.Redacted(), "with password", "in "+connectionFile, "users", usersFile)
	return nil
}

// storePassword returns the password in a connection string that was written before, "" if none was.
func storePassword(path string) (string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading how to connect to the log: %w", err)
	}
	u, err := url.Parse(strings.TrimSpace(string(data)))
	if err != nil {
		return "", fmt.Errorf("%s holds no connection string: remove it, and a new password is made", path)
	}
	password, _ := u.User.Password()
	return password, nil
}

// reachable is an address under which this machine reaches a server that listens on another.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}
