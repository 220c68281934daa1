package registry

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapiserver "k8s.io/apiserver/pkg/server"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	restclient "k8s.io/client-go/rest"
	kubeletclient "k8s.io/kubernetes/pkg/kubelet/client"
	"k8s.io/kubernetes/pkg/serviceaccount"

	"github.com/shiplog/shiplog/commands/informers"
	"github.com/shiplog/shiplog/commands/storage"
	"github.com/shiplog/shiplog/domain"
)

// Config is what the registry is made of. All fields without a default must be set.
type Config struct {
	Engine    *storage.Engine
	Kinds     *domain.Set
	Informers *informers.Factory
	// Loopback reaches the API of this very process with all rights: for the few libraries that insist on a client.
	Loopback *restclient.Config

	Authenticator authenticator.Request
	Audiences     authenticator.Audiences
	Authorizer    authorizer.Authorizer
	RuleResolver  authorizer.RuleResolver
	// Tokens makes the tokens of service accounts; nil: none are made.
	Tokens   serviceaccount.TokenGenerator
	TokenTTL time.Duration // the longest that a token may live; 0: a day

	Kubelet        kubeletclient.KubeletClientConfig // how nodes are reached for logs, exec and the like
	ProxyTransport http.RoundTripper                 // for the proxies to pods and services; nil: none
	ServiceCIDR    net.IPNet
	NodePorts      utilnet.PortRange // 0: 30000-32767
	// ClientCA verifies that admission signs only what may be signed.
	ClientCAFile, ClientCAKeyFile string

	// Stop ends what admission plugins run in the background.
	Stop <-chan struct{}
}

// Registry holds the REST stores and the admission chain.
type Registry struct {
	cfg       Config
	resources *serverstorage.ResourceConfig
	groups    []*genericapiserver.APIGroupInfo
	stores    map[schema.GroupVersionResource]*endpoint
	admission *chain
	ports     *ports
	addresses interface{ Destroy() }
	objects   admission.ObjectInterfaces
}

// New makes the registry.
func New(c Config) (*Registry, error) {
	if c.Engine == nil || c.Kinds == nil || c.Informers == nil || c.Loopback == nil || c.Authorizer == nil {
		return nil, errors.New("making the registry: engine, kinds, informers, loopback and authorizer must be given")
	}
	if c.NodePorts.Size == 0 {
		c.NodePorts = utilnet.PortRange{Base: 30000, Size: 2768}
	}
	if c.TokenTTL == 0 {
		c.TokenTTL = 24 * time.Hour
	}
	if c.Stop == nil {
		c.Stop = make(chan struct{})
	}
	c.Authorizer = trusting{c.Authorizer}
	r := &Registry{cfg: c, resources: served(c.Kinds), stores: map[schema.GroupVersionResource]*endpoint{}}
	r.objects = admission.NewObjectInterfacesFromScheme(scheme())
	// A start waits for both, and neither needs the other.
	var making errgroup.Group
	making.Go(func() error {
		if err := r.makeGroups(); err != nil {
			return fmt.Errorf("making the REST stores: %w", err)
		}
		return nil
	})
	making.Go(func() (err error) {
		if r.admission, err = r.makeAdmission(); err != nil {
			return fmt.Errorf("making the admission chain: %w", err)
		}
		return nil
	})
	if err := making.Wait(); err != nil {
		return nil, err
	}
	return r, nil
}

// Groups returns the API groups in the order of discovery, the core group first.
func (r *Registry) Groups() []*genericapiserver.APIGroupInfo { return r.groups }

// Admission returns the admission chain that every change passes.
func (r *Registry) Admission() admission.Interface { return r.admission }

// Resources says which versions and resources are served.
func (r *Registry) Resources() *serverstorage.ResourceConfig { return r.resources }

// Close ends what runs in the background.
func (r *Registry) Close() {
	if r.addresses != nil {
		r.addresses.Destroy()
	}
}

// served enables the versions of all kinds that are stored, and of those that are only answered.
func served(kinds *domain.Set) *serverstorage.ResourceConfig {
	c := serverstorage.NewResourceConfig()
	for _, k := range kinds.All() {
		c.EnableVersions(k.GroupVersionKind().GroupVersion())
	}
	c.EnableVersions(
		schema.GroupVersion{Group: "authentication.k8s.io", Version: "v1"},
		schema.GroupVersion{Group: "authorization.k8s.io", Version: "v1"},
		schema.GroupVersion{Group: "autoscaling", Version: "v1"},
		schema.GroupVersion{Group: "autoscaling", Version: "v2"},
		schema.GroupVersion{Group: "events.k8s.io", Version: "v1"},
	)
	return c
}
