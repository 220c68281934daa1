package registry

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	api "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/registry/core/componentstatus"
	configmapstore "k8s.io/kubernetes/pkg/registry/core/configmap/storage"
	endpointsstore "k8s.io/kubernetes/pkg/registry/core/endpoint/storage"
	eventstore "k8s.io/kubernetes/pkg/registry/core/event/storage"
	limitrangestore "k8s.io/kubernetes/pkg/registry/core/limitrange/storage"
	namespacestore "k8s.io/kubernetes/pkg/registry/core/namespace/storage"
	nodestore "k8s.io/kubernetes/pkg/registry/core/node/storage"
	pvstore "k8s.io/kubernetes/pkg/registry/core/persistentvolume/storage"
	pvcstore "k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim/storage"
	podstore "k8s.io/kubernetes/pkg/registry/core/pod/storage"
	podtemplatestore "k8s.io/kubernetes/pkg/registry/core/podtemplate/storage"
	controllerstore "k8s.io/kubernetes/pkg/registry/core/replicationcontroller/storage"
	quotastore "k8s.io/kubernetes/pkg/registry/core/resourcequota/storage"
	secretstore "k8s.io/kubernetes/pkg/registry/core/secret/storage"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	servicestore "k8s.io/kubernetes/pkg/registry/core/service/storage"
	serviceaccountstore "k8s.io/kubernetes/pkg/registry/core/serviceaccount/storage"
	netutils "k8s.io/utils/net"

	"github.com/shiplog/shiplog/domain"
)

// eventTTL is how long Kubernetes' Events are kept: as their kind says.
func (r *Registry) eventTTL() time.Duration {
	k, ok := r.cfg.Kinds.ByResource(domain.Resource{Resource: "events"})
	if !ok || k.Retention.MaxAge == 0 {
		return time.Hour
	}
	return k.Retention.MaxAge
}

// coreGroup makes the group without a name. It is upstream's but for the allocators of service addresses and node ports, which
// reserve by events of our log and not in etcd.
func (r *Registry) coreGroup(opts generic.RESTOptionsGetter, client kubernetes.Interface) (*genericapiserver.APIGroupInfo, error) {
	s := map[string]rest.Storage{}
	if err := plainStores(s, opts, uint64(r.eventTTL().Seconds())); err != nil {
		return nil, err
	}
	nodes, err := nodestore.NewStorage(opts, r.cfg.Kubelet, r.cfg.ProxyTransport)
	if err != nil {
		return nil, fmt.Errorf("making the store of nodes: %w", err)
	}
	s["nodes"], s["nodes/proxy"], s["nodes/status"] = nodes.Node, nodes.Proxy, nodes.Status

	pods, err := podstore.NewStorage(opts, nodes.KubeletConnectionInfo, r.cfg.ProxyTransport, client.PolicyV1(), r.cfg.Authorizer)
	if err != nil {
		return nil, fmt.Errorf("making the store of pods: %w", err)
	}
	for path, store := range map[string]rest.Storage{
		"pods": pods.Pod, "pods/attach": pods.Attach, "pods/status": pods.Status, "pods/log": pods.Log, "pods/exec": pods.Exec,
		"pods/portforward": pods.PortForward, "pods/proxy": pods.Proxy, "pods/binding": pods.Binding, "bindings": pods.LegacyBinding,
		"pods/eviction": pods.Eviction, "pods/ephemeralcontainers": pods.EphemeralContainers, "pods/resize": pods.Resize,
	} {
		s[path] = store
	}
	if err := r.services(s, opts, pods, client); err != nil {
		return nil, err
	}
	if err := r.serviceAccounts(s, opts, pods, nodes, client); err != nil {
		return nil, err
	}
	info := &genericapiserver.APIGroupInfo{
		PrioritizedVersions:          legacyscheme.Scheme.PrioritizedVersionsForGroup(""),
		VersionedResourcesStorageMap: map[string]map[string]rest.Storage{"v1": s},
		Scheme:                       legacyscheme.Scheme,
		ParameterCodec:               legacyscheme.ParameterCodec,
		NegotiatedSerializer: serializer.NewCodecFactory(legacyscheme.Scheme,
			serializer.WithStreamingCollectionEncodingToJSON(), serializer.WithStreamingCollectionEncodingToProtobuf()),
	}
	return info, nil
}

// plainStores makes the stores that need nothing but storage.
func plainStores(s map[string]rest.Storage, opts generic.RESTOptionsGetter, eventTTL uint64) (err error) {
	fail := func(what string, err error) error { return fmt.Errorf("making the store of %s: %w", what, err) }
	if s["events"], err = eventstore.NewREST(opts, eventTTL); err != nil {
		return fail("events", err)
	}
	if s["secrets"], err = secretstore.NewREST(opts); err != nil {
		return fail("secrets", err)
	}
	if s["configmaps"], err = configmapstore.NewREST(opts); err != nil {
		return fail("config maps", err)
	}
	if s["limitranges"], err = limitrangestore.NewREST(opts); err != nil {
		return fail("limit ranges", err)
	}
	if s["podtemplates"], err = podtemplatestore.NewREST(opts); err != nil {
		return fail("pod templates", err)
	}
	if s["endpoints"], err = endpointsstore.NewREST(opts); err != nil {
		return fail("endpoints", err)
	}
	if s["resourcequotas"], s["resourcequotas/status"], err = two(quotastore.NewREST(opts)); err != nil {
		return fail("resource quotas", err)
	}
	if s["persistentvolumes"], s["persistentvolumes/status"], err = two(pvstore.NewREST(opts)); err != nil {
		return fail("persistent volumes", err)
	}
	if s["persistentvolumeclaims"], s["persistentvolumeclaims/status"], err = two(pvcstore.NewREST(opts)); err != nil {
		return fail("persistent volume claims", err)
	}
	namespaces, status, finalize, err := namespacestore.NewREST(opts)
	if err != nil {
		return fail("namespaces", err)
	}
	s["namespaces"], s["namespaces/status"], s["namespaces/finalize"] = namespaces, status, finalize
	controllers, err := controllerstore.NewStorage(opts)
	if err != nil {
		return fail("replication controllers", err)
	}
	s["replicationcontrollers"], s["replicationcontrollers/status"] = controllers.Controller, controllers.Status
	s["replicationcontrollers/scale"] = controllers.Scale
	s["componentstatuses"] = componentstatus.NewStorage(func() map[string]componentstatus.Server { return nil })
	return nil
}

func two[A, B rest.Storage](a A, b B, err error) (rest.Storage, rest.Storage, error) {
	return a, b, err
}

// services makes the stores of services over their allocators.
func (r *Registry) services(s map[string]rest.Storage, opts generic.RESTOptionsGetter, pods podstore.PodStorage, client kubernetes.Interface) error {
	net := r.cfg.Informers.Networking().V1()
	addresses, err := ipallocator.NewMetaAllocator(&addressClient{NetworkingV1Interface: client.NetworkingV1(), bus: r.Bus()},
		net.ServiceCIDRs(), net.IPAddresses(), netutils.IsIPv6CIDR(&r.cfg.ServiceCIDR), nil)
	if err != nil {
		return fmt.Errorf("making the allocator of service addresses: %w", err)
	}
	r.addresses = addresses
	r.ports = newPorts(r.cfg.NodePorts, r.cfg.Engine)
	getter := endpointSlices{r.cfg.Engine.Live()}
	services, status, proxied, err := servicestore.NewREST(opts, addresses.IPFamily(),
		map[api.IPFamily]ipallocator.Interface{addresses.IPFamily(): addresses}, r.ports, getter, pods.Pod, r.cfg.ProxyTransport)
	if err != nil {
		return fmt.Errorf("making the store of services: %w", err)
	}
	s["services"], s["services/status"], s["services/proxy"] = services, status, proxied
	return nil
}

func (r *Registry) serviceAccounts(s map[string]rest.Storage, opts generic.RESTOptionsGetter, pods podstore.PodStorage, nodes *nodestore.NodeStorage, client kubernetes.Interface) error {
	secrets, ok := s["secrets"].(rest.Getter)
	if !ok {
		return fmt.Errorf("making the store of service accounts: secrets cannot be read")
	}
	hooks := client.AdmissionregistrationV1()
	accounts, err := serviceaccountstore.NewREST(opts, r.cfg.Tokens, r.cfg.Audiences, r.cfg.Authorizer, r.cfg.TokenTTL,
		pods.Pod.Store, secrets, nodes.Node.Store, hooks.ValidatingWebhookConfigurations(), hooks.MutatingWebhookConfigurations(),
		false, r.cfg.TokenTTL)
	if err != nil {
		return fmt.Errorf("making the store of service accounts: %w", err)
	}
	s["serviceaccounts"] = accounts
	if accounts.Token != nil {
		s["serviceaccounts/token"] = accounts.Token
	}
	return nil
}
