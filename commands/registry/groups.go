package registry

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/client-go/kubernetes"
	admissionregistrationrest "k8s.io/kubernetes/pkg/registry/admissionregistration/rest"
	appsrest "k8s.io/kubernetes/pkg/registry/apps/rest"
	authenticationrest "k8s.io/kubernetes/pkg/registry/authentication/rest"
	authorizationrest "k8s.io/kubernetes/pkg/registry/authorization/rest"
	autoscalingrest "k8s.io/kubernetes/pkg/registry/autoscaling/rest"
	batchrest "k8s.io/kubernetes/pkg/registry/batch/rest"
	certificatesrest "k8s.io/kubernetes/pkg/registry/certificates/rest"
	coordinationrest "k8s.io/kubernetes/pkg/registry/coordination/rest"
	discoveryrest "k8s.io/kubernetes/pkg/registry/discovery/rest"
	eventsrest "k8s.io/kubernetes/pkg/registry/events/rest"
	flowcontrolrest "k8s.io/kubernetes/pkg/registry/flowcontrol/rest"
	networkingrest "k8s.io/kubernetes/pkg/registry/networking/rest"
	noderest "k8s.io/kubernetes/pkg/registry/node/rest"
	policyrest "k8s.io/kubernetes/pkg/registry/policy/rest"
	rbacrest "k8s.io/kubernetes/pkg/registry/rbac/rest"
	resourcerest "k8s.io/kubernetes/pkg/registry/resource/rest"
	schedulingrest "k8s.io/kubernetes/pkg/registry/scheduling/rest"
	storagerest "k8s.io/kubernetes/pkg/registry/storage/rest"
	svmrest "k8s.io/kubernetes/pkg/registry/storagemigration/rest"
)

// provider makes the REST stores of one API group.
type provider interface {
	GroupName() string
	NewRESTStorage(serverstorage.APIResourceConfigSource, generic.RESTOptionsGetter) (genericapiserver.APIGroupInfo, error)
}

// endpoint is one resource or subresource of one served version.
type endpoint struct {
	gvr         schema.GroupVersionResource
	subresource string
	store       rest.Storage
	namespaced  bool
	kind        schema.GroupVersionKind // what a request for it carries
}

// key names an endpoint: the resource of a subresource is "pods/status".
func key(gvr schema.GroupVersionResource, subresource string) schema.GroupVersionResource {
	if subresource != "" {
		gvr.Resource += "/" + subresource
	}
	return gvr
}

// makeGroups makes all groups, in the order in which discovery lists them.
func (r *Registry) makeGroups() error {
	client, err := kubernetes.NewForConfig(r.cfg.Loopback)
	if err != nil {
		return fmt.Errorf("making the loopback client: %w", err)
	}
	authz := r.cfg.Authorizer
	opts := &restOptions{engine: r.cfg.Engine, kinds: r.cfg.Kinds}
	core, err := r.coreGroup(opts, client)
	if err != nil {
		return fmt.Errorf("making the core group: %w", err)
	}
	r.groups = append(r.groups, core)
	for _, p := range []provider{
		authenticationrest.RESTStorageProvider{Authenticator: r.cfg.Authenticator, APIAudiences: r.cfg.Audiences},
		authorizationrest.RESTStorageProvider{Authorizer: authz, RuleResolver: r.cfg.RuleResolver},
		autoscalingrest.RESTStorageProvider{},
		batchrest.RESTStorageProvider{},
		certificatesrest.RESTStorageProvider{Authorizer: authz},
		coordinationrest.RESTStorageProvider{},
		discoveryrest.StorageProvider{},
		networkingrest.RESTStorageProvider{},
		noderest.RESTStorageProvider{},
		policyrest.RESTStorageProvider{},
		rbacrest.RESTStorageProvider{Authorizer: authz},
		schedulingrest.RESTStorageProvider{},
		storagerest.RESTStorageProvider{},
		svmrest.RESTStorageProvider{},
		flowcontrolrest.RESTStorageProvider{InformerFactory: r.cfg.Informers},
		appsrest.StorageProvider{},
		admissionregistrationrest.RESTStorageProvider{Authorizer: authz, DiscoveryClient: client.Discovery()},
		eventsrest.RESTStorageProvider{TTL: r.eventTTL()},
		resourcerest.RESTStorageProvider{NamespaceClient: client.CoreV1().Namespaces(), Authorizer: authz},
	} {
		info, err := p.NewRESTStorage(r.resources, opts)
		if err != nil {
			return fmt.Errorf("making the group %s: %w", p.GroupName(), err)
		}
		if len(info.VersionedResourcesStorageMap) > 0 {
			r.groups = append(r.groups, &info)
		}
	}
	return r.indexStores()
}

// indexStores makes every store findable for the bus.
func (r *Registry) indexStores() error {
	for _, g := range r.groups {
		group := g.PrioritizedVersions[0].Group
		for version, stores := range g.VersionedResourcesStorageMap {
			gv := schema.GroupVersion{Group: group, Version: version}
			for path, store := range stores {
				tellAgesAsOf(store)
				e, err := describe(gv, path, store, stores)
				if err != nil {
					return err
				}
				r.stores[gv.WithResource(path)] = e
			}
		}
	}
	return nil
}

// describe learns of a store what a request to it needs to know.
func describe(gv schema.GroupVersion, path string, store rest.Storage, siblings map[string]rest.Storage) (*endpoint, error) {
	e := &endpoint{store: store}
	resource := path
	for i := range path {
		if path[i] == '/' {
			resource, e.subresource = path[:i], path[i+1:]
			break
		}
	}
	e.gvr = gv.WithResource(resource)
	scoper, ok := store.(rest.Scoper)
	if !ok {
		scoper, ok = siblings[resource].(rest.Scoper)
	}
	if ok {
		e.namespaced = scoper.NamespaceScoped()
	}
	if k, ok := store.(rest.GroupVersionKindProvider); ok {
		e.kind = k.GroupVersionKind(gv)
		return e, nil
	}
	kinds, _, err := scheme().ObjectKinds(store.New())
	if err != nil {
		return nil, fmt.Errorf("finding the kind of %s in %s: %w", path, gv, err)
	}
	for _, k := range kinds {
		if k.Group == gv.Group {
			e.kind = gv.WithKind(k.Kind)
			return e, nil
		}
	}
	e.kind = kinds[0]
	return e, nil
}
