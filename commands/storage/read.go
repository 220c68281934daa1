package storage

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Get implements storage.Interface.
func (s *Store) Get(ctx context.Context, key string, opts storage.GetOptions, out runtime.Object) error {
	ref, err := s.object(key)
	if err != nil {
		return err
	}
	o, err := s.find(ctx, ref, opts.ResourceVersion)
	if err != nil {
		return err
	}
	if o == nil {
		if opts.IgnoreNotFound {
			return runtime.SetZeroValue(out)
		}
		return storage.NewKeyNotFoundError(key, 0)
	}
	return s.into(o, out)
}

// find returns an object as of now, or as of the moment that the request is bound to; nil when it is not there.
func (s *Store) find(ctx context.Context, ref domain.Ref, rv string) (*projections.Object, error) {
	if at, ok := AsOf(ctx); ok {
		if s.history == nil {
			return nil, expired(at, errNoHistory)
		}
		o, err := s.history.GetAt(ctx, ref, at)
		if errors.Is(err, projections.ErrNotFound) {
			return nil, nil
		}
		return o, pastError(at, err)
	}
	snap, err := s.notOlder(ctx, rv)
	if err != nil {
		return nil, err
	}
	o, _ := snap.Get(s.gr, ref.Namespace, ref.Name)
	return o, nil
}

// notOlder returns a state not older than a resourceVersion, and of everything committed when that is unset. Where 0 would allow any
// state, it is the same: the live view is never far behind.
func (s *Store) notOlder(ctx context.Context, rv string) (projections.Reader, error) {
	if rv == "" || rv == "0" {
		return s.Current(ctx)
	}
	n, err := s.parseVersion(rv)
	if err != nil {
		return nil, err
	}
	return s.atLeast(ctx, n)
}

// GetList implements storage.Interface.
func (s *Store) GetList(ctx context.Context, key string, opts storage.ListOptions, listObj runtime.Object) error {
	at, err := s.collection(key, opts.Recursive)
	if err != nil {
		return err
	}
	prefix, err := s.prepare(key, opts.Recursive)
	if err != nil {
		return err
	}
	exact, from, err := storage.ValidateListOptions(prefix, s.ver, opts)
	if err != nil {
		return err
	}
	items, err := itemsOf(listObj)
	if err != nil {
		return err
	}
	source, err := s.source(ctx, opts, uint64(max(exact, 0)), from != "")
	if err != nil {
		return err
	}
	page := pageOf{limit: int(opts.Predicate.Limit)}
	if from != "" {
		page.after(s, from)
	}
	err = s.collect(ctx, source, at, opts.Predicate, items, &page)
	if apierrors.IsResourceExpired(err) && from != "" {
		return inconsistent(from, prefix)
	}
	if err != nil {
		return err
	}
	var next string
	var remaining *int64
	if page.more {
		if next, err = storage.EncodeContinue(s.key(page.last)+"\x00", prefix, int64(source.position)); err != nil {
			return err
		}
		if opts.Predicate.Empty() {
			n := int64(page.left)
			remaining = &n
		}
		s.pages.keep(source)
	}
	if items.IsNil() {
		items.Set(reflect.MakeSlice(items.Type(), 0, 0))
	}
	return s.ver.UpdateList(listObj, source.position, next, remaining)
}

// source is where a list reads from.
type source struct {
	position uint64
	reader   projections.Reader // nil for a moment of the past that only history knows
}

// source finds the state that a list is about.
func (s *Store) source(ctx context.Context, opts storage.ListOptions, exact uint64, continued bool) (source, error) {
	if at, ok := AsOf(ctx); ok {
		if exact > 0 && exact < at {
			at = exact
		}
		return source{position: at}, nil
	}
	if exact == 0 {
		rv := opts.ResourceVersion
		if continued { // the rest of a list whose moment is gone: as things are now
			rv = ""
		}
		snap, err := s.notOlder(ctx, rv)
		if err != nil {
			return source{}, err
		}
		return source{position: snap.Position(), reader: snap}, nil
	}
	snap, err := s.atLeast(ctx, exact)
	if err != nil {
		return source{}, err
	}
	switch {
	case snap.Position() == exact:
		return source{position: exact, reader: snap}, nil
	case continued:
		if kept := s.pages.find(exact); kept != nil {
			return source{position: exact, reader: kept}, nil
		}
	}
	return source{position: exact}, nil
}

// pageOf is the part of a list that was asked for, and what there is after it.
type pageOf struct {
	limit           int
	namespace, name string // the first item at or after this
	bounded         bool
	last            domain.Ref
	more            bool
	left            int
}

func (p *pageOf) after(s *Store, from string) {
	rest := strings.TrimPrefix(strings.TrimPrefix(from, s.prefix), "/")
	p.bounded = true
	if !s.kind.Namespaced {
		p.name = rest
		return
	}
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		p.namespace, p.name = rest[:i], rest[i+1:]
	} else {
		p.namespace = rest
	}
}

func (p *pageOf) before(ref domain.Ref) bool {
	if !p.bounded {
		return false
	}
	if c := strings.Compare(ref.Namespace, p.namespace); c != 0 {
		return c < 0
	}
	return ref.Name < p.name
}

// collect appends what the predicate selects to a list's items.
func (s *Store) collect(ctx context.Context, src source, at place, pred storage.SelectionPredicate, items reflect.Value, page *pageOf) error {
	objects, size, err := s.candidates(ctx, src, at, pred)
	if err != nil {
		return err
	}
	if page.limit > 0 {
		size = min(size, page.limit)
	}
	if pred.Empty() && size > 0 {
		items.Set(reflect.MakeSlice(items.Type(), 0, size))
	}
	n := 0
	for o := range objects {
		if page.before(o.Ref) {
			continue
		}
		if page.limit > 0 && n >= page.limit {
			page.more = true
			page.left++
			if pred.Empty() {
				continue
			}
			return nil
		}
		ok, err := s.add(o, pred, items)
		if err != nil {
			s.logger.Error("leaving an unreadable object out of a list", "object", o.Ref.String(), "error", err)
			continue
		}
		page.last = o.Ref
		if ok {
			n++
		}
		if n&255 == 255 && ctx.Err() != nil {
			return storage.NewTimeoutError(s.prefix, "request did not complete within requested timeout")
		}
	}
	return nil
}

// add appends an object to a list's items if the predicate selects it.
func (s *Store) add(o *projections.Object, pred storage.SelectionPredicate, items reflect.Value) (bool, error) {
	typed, err := o.Typed()
	if err != nil {
		return false, err
	}
	if !labelled(pred.Label, typed) {
		return false, nil
	}
	n := items.Len()
	items.Grow(1)
	items.SetLen(n + 1)
	item := items.Index(n)
	item.SetZero()
	out, ok := item.Addr().Interface().(runtime.Object)
	if !ok {
		items.SetLen(n)
		return false, fmt.Errorf("the items of a list of %s are no objects but %s", s.gr, item.Type())
	}
	if err := s.convert(typed, out); err != nil {
		items.SetLen(n)
		return false, err
	}
	if !pred.Empty() {
		if match, err := pred.Matches(out); err != nil || !match {
			items.SetLen(n)
			return false, err
		}
	}
	return true, nil
}

// labelled is a cheap test before the conversion.
func labelled(sel labels.Selector, typed runtime.Object) bool {
	if sel == nil || sel.Empty() {
		return true
	}
	m, err := meta.Accessor(typed)
	return err != nil || sel.Matches(labels.Set(m.GetLabels()))
}

// candidates yields the objects that a list has to look at, in the order of namespace and name, and about how many they are.
func (s *Store) candidates(ctx context.Context, src source, at place, pred storage.SelectionPredicate) (iter.Seq[*projections.Object], int, error) {
	if at.nowhere {
		return func(func(*projections.Object) bool) {}, 0, nil
	}
	if src.reader == nil {
		return s.past(ctx, src.position, at)
	}
	if at.name != "" {
		o, ok := src.reader.Get(s.gr, at.namespace, at.name)
		if !ok {
			return func(func(*projections.Object) bool) {}, 0, nil
		}
		return slices.Values([]*projections.Object{o}), 1, nil
	}
	if node, ok := s.onNode(pred.Field); ok {
		var found []*projections.Object
		for o := range src.reader.Index(s.gr, domain.NodeIndex, node) {
			if at.namespace == "" || o.Ref.Namespace == at.namespace {
				found = append(found, o)
			}
		}
		sortObjects(found)
		return slices.Values(found), len(found), nil
	}
	size := 0
	if pred.Empty() {
		for range src.reader.List(s.gr, at.namespace) {
			size++
		}
	}
	return src.reader.List(s.gr, at.namespace), size, nil
}

// onNode says whether a selector asks for the pods of one node.
func (s *Store) onNode(sel fields.Selector) (string, bool) {
	if sel == nil || s.gr != (domain.Resource{Resource: "pods"}) {
		return "", false
	}
	return sel.RequiresExactMatch("spec.nodeName")
}

func (s *Store) past(ctx context.Context, position uint64, at place) (iter.Seq[*projections.Object], int, error) {
	if s.history == nil {
		return nil, 0, expired(position, errNoHistory)
	}
	if at.name != "" {
		o, err := s.history.GetAt(ctx, s.kind.Ref(at.namespace, at.name), position)
		if errors.Is(err, projections.ErrNotFound) {
			return func(func(*projections.Object) bool) {}, 0, nil
		}
		if err != nil {
			return nil, 0, pastError(position, err)
		}
		return slices.Values([]*projections.Object{o}), 1, nil
	}
	objects, err := s.history.ListAt(ctx, s.gr, at.namespace, position)
	if err != nil {
		return nil, 0, pastError(position, err)
	}
	objects = slices.Clone(objects)
	sortObjects(objects)
	return slices.Values(objects), len(objects), nil
}

func sortObjects(objects []*projections.Object) {
	slices.SortFunc(objects, func(a, b *projections.Object) int {
		if c := strings.Compare(a.Ref.Namespace, b.Ref.Namespace); c != 0 {
			return c
		}
		return strings.Compare(a.Ref.Name, b.Ref.Name)
	})
}

func itemsOf(listObj runtime.Object) (reflect.Value, error) {
	ptr, err := meta.GetItemsPtr(listObj)
	if err != nil {
		return reflect.Value{}, err
	}
	v, err := conversion.EnforcePtr(ptr)
	if err != nil || v.Kind() != reflect.Slice {
		return reflect.Value{}, fmt.Errorf("need ptr to slice: %w", err)
	}
	return v, nil
}

// pastError turns an error of History into the API's words.
func pastError(position uint64, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, projections.ErrTooOld):
		return expired(position, err)
	case errors.Is(err, projections.ErrFuture):
		return apierrors.NewBadRequest(fmt.Sprintf("position %d lies in the future: %v", position, err))
	case errors.Is(err, projections.ErrUnavailable):
		return apierrors.NewServiceUnavailable(fmt.Sprintf("the past cannot be read now, try again later: %v", err))
	}
	return fmt.Errorf("reading the past at position %d: %w", position, err)
}

// inconsistent tells the reader of a list in pages, whose moment is no longer kept, how to go on with the present.
func inconsistent(from, prefix string) error {
	err := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. You can start a new " +
		"list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. " +
		"Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between " +
		"the time the first chunk was returned and now may show up in the list.")
	if token, tokenErr := storage.EncodeContinue(from, prefix, -1); tokenErr == nil {
		err.ErrStatus.ListMeta.Continue = token
	}
	return err
}

func expired(position uint64, cause error) error {
	return apierrors.NewResourceExpired(fmt.Sprintf("The resourceVersion for the provided list is too old: %d: %v. Start again from a new list.", position, cause))
}
