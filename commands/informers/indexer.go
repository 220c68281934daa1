package informers

import (
	"errors"
	"fmt"
	"strconv"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"

	"github.com/shiplog/shiplog/projections"
)

// errReadOnly is the answer to all attempts to write to the live view.
var errReadOnly = errors.New("the live view is changed by events only")

// indexer implements client-go's Indexer by reading the live view.
type indexer informer

var _ cache.Indexer = (*indexer)(nil)

func (x *indexer) Add(any) error               { return errReadOnly }
func (x *indexer) Update(any) error            { return errReadOnly }
func (x *indexer) Delete(any) error            { return errReadOnly }
func (x *indexer) Replace([]any, string) error { return errReadOnly }
func (x *indexer) Resync() error               { return nil }
func (x *indexer) Bookmark(string)             {}
func (x *indexer) LastStoreSyncResourceVersion() string {
	return strconv.FormatUint(x.factory.live.Snapshot().Position(), 10)
}

func (x *indexer) each(namespace string, visit func(o *projections.Object, typed any)) {
	if x.kind == nil {
		return
	}
	for o := range x.factory.live.Snapshot().List(x.kind.GroupResource(), namespace) {
		if typed, err := o.Typed(); err == nil {
			visit(o, typed)
		}
	}
}

func (x *indexer) List() []any { return x.inNamespace("") }

func (x *indexer) inNamespace(namespace string) []any {
	var out []any
	x.each(namespace, func(_ *projections.Object, typed any) { out = append(out, typed) })
	return out
}

func (x *indexer) ListKeys() []string {
	var out []string
	x.each("", func(o *projections.Object, _ any) { out = append(out, keyOf(o)) })
	return out
}

func keyOf(o *projections.Object) string {
	return cache.ObjectName{Namespace: o.Ref.Namespace, Name: o.Ref.Name}.String()
}

func (x *indexer) Get(obj any) (any, bool, error) {
	key, err := cache.MetaNamespaceKeyFunc(obj)
	if err != nil {
		return nil, false, err
	}
	return x.GetByKey(key)
}

func (x *indexer) GetByKey(key string) (any, bool, error) {
	if x.kind == nil {
		return nil, false, nil
	}
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil, false, err
	}
	o, ok := x.factory.live.Snapshot().Get(x.kind.GroupResource(), namespace, name)
	if !ok {
		return nil, false, nil
	}
	typed, err := o.Typed()
	if err != nil {
		return nil, false, fmt.Errorf("reading %s: %w", o.Ref, err)
	}
	return typed, true, nil
}

func (x *indexer) Index(name string, obj any) ([]any, error) {
	if name == cache.NamespaceIndex {
		m, err := meta.Accessor(obj)
		if err != nil {
			return nil, err
		}
		return x.inNamespace(m.GetNamespace()), nil
	}
	f, err := x.indexFunc(name)
	if err != nil {
		return nil, err
	}
	values, err := f(obj)
	if err != nil {
		return nil, err
	}
	var out []any
	seen := map[string]bool{}
	for _, v := range values {
		err := x.byIndex(f, v, func(o *projections.Object, typed any) {
			if key := keyOf(o); !seen[key] {
				seen[key] = true
				out = append(out, typed)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (x *indexer) ByIndex(name, value string) ([]any, error) {
	if name == cache.NamespaceIndex {
		return x.inNamespace(value), nil
	}
	f, err := x.indexFunc(name)
	if err != nil {
		return nil, err
	}
	var out []any
	err = x.byIndex(f, value, func(_ *projections.Object, typed any) { out = append(out, typed) })
	return out, err
}

func (x *indexer) IndexKeys(name, value string) ([]string, error) {
	var out []string
	if name == cache.NamespaceIndex {
		x.each(value, func(o *projections.Object, _ any) { out = append(out, keyOf(o)) })
		return out, nil
	}
	f, err := x.indexFunc(name)
	if err != nil {
		return nil, err
	}
	err = x.byIndex(f, value, func(o *projections.Object, _ any) { out = append(out, keyOf(o)) })
	return out, err
}

func (x *indexer) ListIndexFuncValues(name string) []string {
	f, err := x.indexFunc(name)
	if err != nil {
		return nil
	}
	var out []string
	seen := map[string]bool{}
	x.each("", func(_ *projections.Object, typed any) {
		values, err := f(typed)
		if err != nil {
			return
		}
		for _, v := range values {
			if !seen[v] {
				seen[v] = true
				out = append(out, v)
			}
		}
	})
	return out
}

// byIndex visits the objects that an index function files under a value. It looks at all of them: the indexes that libraries ask
// for are few and over small collections.
func (x *indexer) byIndex(f cache.IndexFunc, value string, visit func(o *projections.Object, typed any)) error {
	var failed error
	x.each("", func(o *projections.Object, typed any) {
		values, err := f(typed)
		if err != nil {
			failed = err
			return
		}
		for _, v := range values {
			if v == value {
				visit(o, typed)
				return
			}
		}
	})
	return failed
}

func (x *indexer) indexFunc(name string) (cache.IndexFunc, error) {
	if name == cache.NamespaceIndex {
		return cache.MetaNamespaceIndexFunc, nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	f, ok := x.indexers[name]
	if !ok {
		return nil, fmt.Errorf("index with name %s does not exist", name)
	}
	return f, nil
}

func (x *indexer) GetIndexers() cache.Indexers {
	x.mu.Lock()
	defer x.mu.Unlock()
	out := cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}
	for name, f := range x.indexers {
		out[name] = f
	}
	return out
}

func (x *indexer) AddIndexers(more cache.Indexers) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.indexers == nil {
		x.indexers = cache.Indexers{}
	}
	for name, f := range more {
		x.indexers[name] = f
	}
	return nil
}
