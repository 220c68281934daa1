package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/shiplog/shiplog/api"
	"github.com/shiplog/shiplog/api/feedclient"
	"github.com/shiplog/shiplog/api/join"
	"github.com/shiplog/shiplog/commands/remote"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/ops/datadir"
	"github.com/shiplog/shiplog/runtime/agent"
)

// JoinConfig says how a node alone runs.
type JoinConfig struct {
	DataDir     string
	Server      string // https://host:port of the control plane
	Token       string // needed at the first start only
	Name        string
	Listen      string
	Bridge      string
	PodCIDR     netip.Prefix // of this node
	ClusterCIDR netip.Prefix
	ServiceCIDR netip.Prefix
	DNS         netip.Addr
	Domain      string
	Logger      *slog.Logger
}

// RunAgent runs a node alone, joined to a control plane elsewhere, until the context ends. ready is called once the node is
// registered and knows what it is to run.
func RunAgent(ctx context.Context, c JoinConfig, ready func(name string)) error {
	api.RouteLibraryLogs(c.Logger)
	if os.Geteuid() != 0 {
		return errors.New("running containers needs root: run as root")
	}
	name, err := nodeName(c.Name)
	if err != nil {
		return err
	}
	dir, err := datadir.Open(c.DataDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	member, err := membership(ctx, dir, c, name)
	if err != nil {
		return err
	}
	config := member.Config(c.Server)
	config.QPS = -1
	bus, err := remote.New(config)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", c.Server, err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", c.Server, err)
	}
	cert, err := tls.X509KeyPair(member.ServingCert, member.ServingKey)
	if err != nil {
		return fmt.Errorf("reading the node's certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(member.CA)
	server, err := url.Parse(c.Server)
	if err != nil {
		return fmt.Errorf("--join %s: %w", c.Server, err)
	}
	spec := makeNodeSpec(dir.Path(), nodeSpec{
		Name: name, Bridge: c.Bridge, PodCIDR: c.PodCIDR, ClusterCIDR: c.ClusterCIDR, ServiceCIDR: c.ServiceCIDR, DNS: c.DNS, Domain: c.Domain,
	})
	if err := spec.save(dir.Path()); err != nil {
		return err
	}
	node, err := newAgent(dir.Path(), spec, agent.Config{
		Upstream: agent.Upstream{Source: feedclient.New(c.Server, client, domain.NewSet(domain.Kinds())), Bus: bus, Address: server.Host},
		Listen:   c.Listen, Cert: &cert, ClientCA: pool,
	}, c.Logger)
	if err != nil {
		return err
	}
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error { return node.Run(running) })
	group.Go(func() error {
		select {
		case <-node.Ready():
			ready(name)
		case <-running.Done():
		}
		return nil
	})
	return ignoreCanceled(group.Wait())
}

// The files of a member, in the data directory.
var memberFiles = []string{"ca.crt", "node-client.crt", "node-client.key", "node-serving.crt", "node-serving.key"}

func memberParts(m *join.Credentials) []*[]byte {
	return []*[]byte{&m.CA, &m.ClientCert, &m.ClientKey, &m.ServingCert, &m.ServingKey}
}

// membership reads the node's credentials, or joins with the token to get them.
func membership(ctx context.Context, dir *datadir.Dir, c JoinConfig, name string) (join.Credentials, error) {
	var m join.Credentials
	missing := false
	for i, part := range memberParts(&m) {
		data, err := os.ReadFile(dir.Join(pkiDir, memberFiles[i]))
		if errors.Is(err, fs.ErrNotExist) {
			missing = true
			break
		} else if err != nil {
			return m, fmt.Errorf("reading the node's credentials: %w", err)
		}
		*part = data
	}
	if !missing {
		return m, nil
	}
	if c.Token == "" {
		return m, errors.New("this node has not joined yet: give a token with --token (`shiplog token create` on the control plane makes one)")
	}
	c.Logger.Info("starting: joining " + c.Server)
	m, err := join.Join(ctx, c.Server, c.Token, join.Node{Name: name, Names: []string{name}, IPs: append(hostAddresses(), net.IPv4(127, 0, 0, 1))})
	if err != nil {
		return m, fmt.Errorf("joining %s: %w", c.Server, err)
	}
	if err := os.MkdirAll(dir.Join(pkiDir), 0o700); err != nil {
		return m, fmt.Errorf("keeping the node's credentials: %w", err)
	}
	for i, part := range memberParts(&m) {
		if err := os.WriteFile(filepath.Join(dir.Join(pkiDir), memberFiles[i]), *part, 0o600); err != nil {
			return m, fmt.Errorf("keeping the node's credentials: %w", err)
		}
	}
	return m, nil
}
