package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/filters"
	restclient "k8s.io/client-go/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	kubeletclient "k8s.io/kubernetes/pkg/kubelet/client"
	"k8s.io/kubernetes/pkg/serviceaccount"

	"github.com/shiplog/shiplog/api/access"
	"github.com/shiplog/shiplog/api/inprocess"
	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/commands/informers"
	"github.com/shiplog/shiplog/commands/registry"
	"github.com/shiplog/shiplog/commands/storage"
	"github.com/shiplog/shiplog/ops/pki"
)

// Server is the HTTP API of one control plane.
type Server struct {
	cfg       Config
	engine    *storage.Engine
	registry  *registry.Registry
	informers *informers.Factory
	generic   *genericapiserver.GenericAPIServer
	listener  net.Listener
	audit     *auditTrail
	stop      chan struct{}
	stopOnce  sync.Once
	ready     chan struct{}
}

// open are the paths that anybody may ask for without proving who they are, if they are allowed to by their roles.
func open() []string {
	return []string{"/healthz", "/livez", "/readyz", "/version", "/.well-known/openid-configuration", "/openid/v1/jwks", caPath}
}

// New makes a server and begins to listen, so that a port in use is an error here. It serves when Run is called. The live view must
// be filled by then; the bus works at once.
func New(ctx context.Context, c Config) (*Server, error) {
	if err := c.complete(); err != nil {
		return nil, fmt.Errorf("making the API server: %w", err)
	}
	s := &Server{cfg: c, stop: make(chan struct{}), ready: make(chan struct{})}
	s.engine = storage.NewEngine(storage.Config{Log: c.Log, Live: c.Live, History: c.History, Keys: c.Keys, Kinds: c.Kinds, Now: c.Now, Logger: c.Logger})
	s.informers = informers.New(c.Live, c.Kinds)
	if err := s.assemble(ctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("making the API server: %w", err)
	}
	return s, nil
}

func (s *Server) assemble(ctx context.Context) error {
	c := &s.cfg
	serviceNet, err := c.serviceNet()
	if err != nil {
		return err
	}
	if s.listener, err = listen(ctx, c.Listen, c.AlsoListen); err != nil {
		return err
	}
	transport := &inprocess.Transport{}
	loopback, err := loopbackConfig(transport)
	if err != nil {
		return err
	}
	ca, err := dynamiccertificates.NewStaticCAContent("cluster authority", c.PKI.CA())
	if err != nil {
		return fmt.Errorf("reading the cluster's authority: %w", err)
	}
	issuer := "https://kubernetes.default.svc." + c.ClusterDomain
	authn, err := access.Authentication{
		ClientCA: ca, TokenKey: c.PKI.Token(), Issuer: issuer, Live: c.Live, Informers: s.informers, Open: open(),
	}.Authenticator()
	if err != nil {
		return err
	}
	authz, rules, err := access.Authorizer(c.Live)
	if err != nil {
		return err
	}
	tokens, err := serviceaccount.JWTTokenGenerator(issuer, c.PKI.Token())
	if err != nil {
		return fmt.Errorf("making the generator of service-account tokens: %w", err)
	}
	s.registry, err = registry.New(registry.Config{
		Engine: s.engine, Kinds: c.Kinds, Informers: s.informers, Loopback: loopback,
		Authenticator: authn, Audiences: authenticator.Audiences{issuer}, Authorizer: authz, RuleResolver: rules, Tokens: tokens,
		Kubelet: kubelet(c), ProxyTransport: proxyTransport(), ServiceCIDR: *serviceNet,
		NodePorts: utilnet.PortRange{Base: c.NodePortBase, Size: c.NodePortCount}, Stop: s.stop,
	})
	if err != nil {
		return err
	}
	s.audit = newAuditTrail(s.engine, c.Kinds, c.Now, c.Logger)

	g := genericapiserver.NewConfig(legacyscheme.Codecs)
	g.SecureServing = &genericapiserver.SecureServingInfo{Listener: s.listener, ClientCA: ca}
	g.SecureServing.Cert, err = dynamiccertificates.NewDynamicServingContentFromFiles("serving certificate",
		c.PKI.Path(pki.ServerCert), c.PKI.Path(pki.ServerKey))
	if err != nil {
		return fmt.Errorf("reading the serving certificate: %w", err)
	}
	g.Authentication = genericapiserver.AuthenticationInfo{Authenticator: authn, APIAudiences: authenticator.Audiences{issuer}}
	g.Authorization = genericapiserver.AuthorizationInfo{Authorizer: authz}
	g.RuleResolver = rules
	g.LoopbackClientConfig = loopback
	g.AdmissionControl = s.registry.Admission()
	g.AuditBackend, g.AuditPolicyRuleEvaluator = s.audit, s.audit
	g.EffectiveVersion = version()
	g.MergedResourceConfig = s.registry.Resources()
	g.ExternalAddress = s.listener.Addr().String()
	g.PublicAddress = s.advertised()
	g.EnableProfiling = false
	g.MaxRequestsInFlight, g.MaxMutatingRequestsInFlight = 800, 400
	g.LongRunningFunc = filters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"), sets.NewString("attach", "exec", "proxy", "log", "portforward"))
	g.LongRunningFunc = s.longRunning(g.LongRunningFunc)
	g.SkipOpenAPIInstallation = true // see serveOpenAPI
	g.AggregatedDiscoveryGroupManager = aggregated.NewResourceManager("apis")
	g.StorageObjectCountTracker = nil
	g.AddHealthChecks(s.checkLog(), s.checkLive())
	g.BuildHandlerChainFunc = s.chain

	s.generic, err = g.Complete(s.informers).New("shiplog", genericapiserver.NewEmptyDelegate())
	if err != nil {
		return fmt.Errorf("making the generic server: %w", err)
	}
	if c.ReadOnly {
		s.generic.ShutdownTimeout = endReadOnly
	}
	if err := s.install(g); err != nil {
		return err
	}
	s.serveOpenAPI()
	if err := s.mount(tokens, issuer); err != nil {
		return err
	}
	transport.Serve(s.generic.Handler)
	return nil
}

// endReadOnly is how long a server that is only read waits for its connections at its end. Whoever looked back has the answer by then,
// and an idle HTTP/2 connection would hold the end of the command up for a second.
const endReadOnly = 10 * time.Millisecond

// loopbackConfig makes the configuration of clients of this very process: with all rights, and without a network.
func loopbackConfig(t http.RoundTripper) (*restclient.Config, error) {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, fmt.Errorf("making the loopback's secret: %w", err)
	}
	return &restclient.Config{
		Host: "https://in-process", BearerToken: hex.EncodeToString(secret), Transport: t, QPS: -1,
		ContentConfig: restclient.ContentConfig{ContentType: runtime.ContentTypeProtobuf, AcceptContentTypes: runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON},
		UserAgent:     "shiplog-loopback",
	}, nil
}

func kubelet(c *Config) kubeletclient.KubeletClientConfig {
	return kubeletclient.KubeletClientConfig{
		Port: uint(c.KubeletPort), ReadOnlyPort: uint(c.KubeletPort),
		PreferredAddressTypes: []string{"InternalIP", "Hostname", "ExternalIP"},
		HTTPTimeout:           5 * time.Second,
		TLSClientConfig: kubeletclient.KubeletTLSConfig{
			CertFile: c.PKI.Path(pki.KubeletCert), KeyFile: c.PKI.Path(pki.KubeletKey), CAFile: c.PKI.Path(pki.CACert),
		},
	}
}

// Bus carries out the commands of this process's components.
func (s *Server) Bus() commands.Bus { return s.registry.Bus() }

// Engine is the storage under the API.
func (s *Server) Engine() *storage.Engine { return s.engine }

// Registry holds the REST stores.
func (s *Server) Registry() *registry.Registry { return s.registry }

// URL is where the server is reached on this machine.
func (s *Server) URL() string {
	host, port, err := net.SplitHostPort(s.listener.Addr().String())
	if err != nil {
		return "https://" + s.listener.Addr().String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "https://" + net.JoinHostPort(host, port)
}

func (s *Server) port() int {
	_, port, err := net.SplitHostPort(s.listener.Addr().String())
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return 0
	}
	return n
}

func (s *Server) advertisedPort() int {
	if s.cfg.AdvertisePort != 0 {
		return s.cfg.AdvertisePort
	}
	return s.port()
}

// advertised is the address of the endpoint of the service "kubernetes".
func (s *Server) advertised() net.IP {
	if s.cfg.Advertise != nil {
		return s.cfg.Advertise
	}
	if a, ok := s.listener.Addr().(*net.TCPAddr); ok && !a.IP.IsUnspecified() && !a.IP.IsLoopback() {
		return a.IP
	}
	if ip, err := utilnet.ChooseHostInterface(); err == nil {
		return ip
	}
	return net.IPv4(127, 0, 0, 1)
}

// Ready is closed when the server serves and the objects that every cluster has are there.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves until the context ends. It returns nil after a clean stop.
func (s *Server) Run(ctx context.Context) error {
	defer s.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		if err := s.begin(ctx); err != nil {
			failed <- err
			cancel()
			return
		}
		close(s.ready)
	}()
	err := s.generic.PrepareRun().RunWithContext(ctx)
	select {
	case cause := <-failed:
		return cause
	default:
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("serving the API: %w", err)
	}
	return nil
}

// Close ends everything that the server started. Run calls it.
func (s *Server) Close() {
	s.stopOnce.Do(func() {
		close(s.stop)
		if s.registry != nil {
			s.registry.Close()
		}
		s.informers.Shutdown()
		s.engine.Close()
		if s.listener != nil {
			s.listener.Close()
		}
	})
}

func (s *Server) longRunning(standard func(*http.Request, *requestInfo) bool) func(*http.Request, *requestInfo) bool {
	return func(r *http.Request, info *requestInfo) bool {
		if standard(r, info) {
			return true
		}
		if strings.HasPrefix(r.URL.Path, nodesPath) {
			return true
		}
		for prefix := range s.cfg.Extra {
			if r.URL.Path == prefix || strings.HasPrefix(r.URL.Path, prefix+"/") {
				return true // a subscription may last for ever
			}
		}
		return false
	}
}
