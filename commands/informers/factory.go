// Package informers lends the live view to libraries that want client-go's shared informers. It looks like an informer factory,
// but nothing is listed, watched or cached: a lister reads the live view, and an event handler follows it. So admission plugins,
// authorizers and allocators cost no memory of their own, and what they see is never older than what the API answers.
package informers

import (
	"context"
	"fmt"
	"reflect"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientinformers "k8s.io/client-go/informers"
	"k8s.io/client-go/informers/admissionregistration"
	"k8s.io/client-go/informers/apiserverinternal"
	"k8s.io/client-go/informers/apps"
	"k8s.io/client-go/informers/autoscaling"
	"k8s.io/client-go/informers/batch"
	"k8s.io/client-go/informers/certificates"
	"k8s.io/client-go/informers/coordination"
	"k8s.io/client-go/informers/core"
	"k8s.io/client-go/informers/discovery"
	"k8s.io/client-go/informers/events"
	"k8s.io/client-go/informers/extensions"
	"k8s.io/client-go/informers/flowcontrol"
	"k8s.io/client-go/informers/internalinterfaces"
	"k8s.io/client-go/informers/lifecycle"
	"k8s.io/client-go/informers/networking"
	"k8s.io/client-go/informers/node"
	"k8s.io/client-go/informers/policy"
	"k8s.io/client-go/informers/rbac"
	"k8s.io/client-go/informers/resource"
	"k8s.io/client-go/informers/scheduling"
	"k8s.io/client-go/informers/storage"
	"k8s.io/client-go/informers/storagemigration"
	"k8s.io/client-go/tools/cache"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Factory implements client-go's SharedInformerFactory over the live view.
type Factory struct {
	live  projections.Live
	kinds *domain.Set
	types map[reflect.Type]*domain.Kind

	mu        sync.Mutex
	informers map[reflect.Type]*informer
	ctx       context.Context
	cancel    context.CancelFunc
	wg        sync.WaitGroup
}

var _ clientinformers.SharedInformerFactory = (*Factory)(nil)

// New makes a factory. Handlers run until Shutdown.
func New(live projections.Live, kinds *domain.Set) *Factory {
	f := &Factory{live: live, kinds: kinds, types: map[reflect.Type]*domain.Kind{}, informers: map[reflect.Type]*informer{}}
	for _, k := range kinds.All() {
		f.types[reflect.TypeOf(k.New())] = k
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

// InformerFor implements client-go's factory. Of a type that is not stored there are no objects.
func (f *Factory) InformerFor(obj runtime.Object, _ internalinterfaces.NewInformerFunc) cache.SharedIndexInformer {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := reflect.TypeOf(obj)
	i := f.informers[t]
	if i == nil {
		i = &informer{factory: f, kind: f.types[t]}
		f.informers[t] = i
	}
	return i
}

// InformerName implements client-go's factory.
func (f *Factory) InformerName() *cache.InformerName { return nil }

// Start implements client-go's factory: there is nothing to start.
func (f *Factory) Start(<-chan struct{}) {}

// StartWithContext implements client-go's factory: there is nothing to start.
func (f *Factory) StartWithContext(context.Context) {}

// Shutdown ends all event handlers and waits for them.
func (f *Factory) Shutdown() {
	f.cancel()
	f.wg.Wait()
}

// WaitForCacheSync implements client-go's factory: there is nothing to wait for.
func (f *Factory) WaitForCacheSync(<-chan struct{}) map[reflect.Type]bool {
	return f.WaitForCacheSyncWithContext(context.Background()).Synced
}

// WaitForCacheSyncWithContext implements client-go's factory.
func (f *Factory) WaitForCacheSyncWithContext(context.Context) cache.SyncResult {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := cache.SyncResult{Synced: map[reflect.Type]bool{}}
	for t := range f.informers {
		r.Synced[t] = true
	}
	return r
}

// ForResource implements client-go's factory.
func (f *Factory) ForResource(gvr schema.GroupVersionResource) (clientinformers.GenericInformer, error) {
	k, ok := f.kinds.ByResource(gvr.GroupResource())
	if !ok || k.Version != gvr.Version {
		return nil, fmt.Errorf("no informer for %v", gvr)
	}
	return &generic{informer: f.InformerFor(k.New(), nil), gr: gvr.GroupResource()}, nil
}

type generic struct {
	informer cache.SharedIndexInformer
	gr       schema.GroupResource
}

func (g *generic) Informer() cache.SharedIndexInformer { return g.informer }
func (g *generic) Lister() cache.GenericLister {
	return cache.NewGenericLister(g.informer.GetIndexer(), g.gr)
}

// The groups.

func (f *Factory) Admissionregistration() admissionregistration.Interface {
	return admissionregistration.New(f, "", nil)
}

func (f *Factory) Internal() apiserverinternal.Interface { return apiserverinternal.New(f, "", nil) }
func (f *Factory) Apps() apps.Interface                  { return apps.New(f, "", nil) }
func (f *Factory) Autoscaling() autoscaling.Interface    { return autoscaling.New(f, "", nil) }
func (f *Factory) Batch() batch.Interface                { return batch.New(f, "", nil) }
func (f *Factory) Certificates() certificates.Interface  { return certificates.New(f, "", nil) }
func (f *Factory) Coordination() coordination.Interface  { return coordination.New(f, "", nil) }
func (f *Factory) Core() core.Interface                  { return core.New(f, "", nil) }
func (f *Factory) Discovery() discovery.Interface        { return discovery.New(f, "", nil) }
func (f *Factory) Events() events.Interface              { return events.New(f, "", nil) }
func (f *Factory) Extensions() extensions.Interface      { return extensions.New(f, "", nil) }
func (f *Factory) Flowcontrol() flowcontrol.Interface    { return flowcontrol.New(f, "", nil) }
func (f *Factory) Lifecycle() lifecycle.Interface        { return lifecycle.New(f, "", nil) }
func (f *Factory) Networking() networking.Interface      { return networking.New(f, "", nil) }
func (f *Factory) Node() node.Interface                  { return node.New(f, "", nil) }
func (f *Factory) Policy() policy.Interface              { return policy.New(f, "", nil) }
func (f *Factory) Rbac() rbac.Interface                  { return rbac.New(f, "", nil) }
func (f *Factory) Resource() resource.Interface          { return resource.New(f, "", nil) }
func (f *Factory) Scheduling() scheduling.Interface      { return scheduling.New(f, "", nil) }
func (f *Factory) Storage() storage.Interface            { return storage.New(f, "", nil) }
func (f *Factory) Storagemigration() storagemigration.Interface {
	return storagemigration.New(f, "", nil)
}
