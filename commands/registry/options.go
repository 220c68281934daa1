package registry

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	apistorage "k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"github.com/shiplog/shiplog/commands/storage"
	"github.com/shiplog/shiplog/domain"
)

// deleteWorkers is how many objects of a collection are deleted at once. The appends of concurrent deletions share a flush.
const deleteWorkers = 16

func scheme() *runtime.Scheme { return legacyscheme.Scheme }

// restOptions gives upstream's REST stores our storage.
type restOptions struct {
	engine *storage.Engine
	kinds  *domain.Set
}

var _ generic.RESTOptionsGetter = (*restOptions)(nil)

// GetRESTOptions implements generic.RESTOptionsGetter.
func (o *restOptions) GetRESTOptions(gr schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	k, ok := o.kinds.ByResource(gr)
	if !ok {
		return generic.RESTOptions{}, fmt.Errorf("no kind is described for the resource %s", gr)
	}
	gv := k.GroupVersionKind().GroupVersion()
	config := storagebackend.Config{
		Codec:           legacyscheme.Codecs.LegacyCodec(gv),
		EncodeVersioner: runtime.NewMultiGroupVersioner(gv, schema.GroupKind{Group: k.Group}),
	}
	return generic.RESTOptions{
		StorageConfig:           config.ForResource(gr),
		Decorator:               o.decorator(k),
		EnableGarbageCollection: true,
		DeleteCollectionWorkers: deleteWorkers,
		ResourcePrefix:          "/" + gr.String(),
		CountMetricPollPeriod:   time.Duration(0),
	}, nil
}

func (o *restOptions) decorator(k *domain.Kind) generic.StorageDecorator {
	return func(_ *storagebackend.ConfigForResource, prefix string, _ func(runtime.Object) (string, error),
		newFunc, newListFunc func() runtime.Object, _ apistorage.AttrFunc, _ apistorage.IndexerFuncs, _ *cache.Indexers,
	) (apistorage.Interface, factory.DestroyFunc, error) {
		s, err := o.engine.Store(storage.Options{Kind: k, Scheme: scheme(), New: newFunc, NewList: newListFunc, Prefix: prefix})
		return s, func() {}, err
	}
}
