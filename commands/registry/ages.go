package registry

import (
	"context"
	"reflect"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/shiplog/shiplog/commands/storage"
)

// plainTables is the type of the tables of kinds for which upstream has no printer.
var plainTables = reflect.TypeOf(rest.NewDefaultTableConvertor(schema.GroupResource{}))

// tellAgesAsOf makes a store print the past as it was printed then.
func tellAgesAsOf(store rest.Storage) { tellAges(reflect.ValueOf(store)) }

// tellAges looks for the store in a REST type of upstream's, which embeds it, or keeps it to itself, or embeds another that does.
func tellAges(v reflect.Value) {
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return
	}
	for i := range v.NumField() {
		switch field := v.Field(i); {
		case field.Type() == reflect.TypeFor[*genericregistry.Store]() && !field.IsNil():
			tellAgesOf((*genericregistry.Store)(field.UnsafePointer()))
		case v.Type().Field(i).Anonymous:
			tellAges(field)
		}
	}
}

func tellAgesOf(s *genericregistry.Store) {
	switch reflect.TypeOf(s.TableConvertor) {
	case nil, plainTables: // tells when an object was created, not how long ago
	case reflect.TypeFor[asOfTables](): // a resource and its subresources may share a store
	default:
		s.TableConvertor = asOfTables{s.TableConvertor}
	}
}

// asOfTables tells ages in tables of the past as of the moment that is looked at. Upstream's printers tell all of them, restarts and
// schedules included, as of now: a pod that was two minutes old when it failed would be shown as hours old.
type asOfTables struct{ rest.TableConvertor }

// ConvertToTable implements rest.TableConvertor.
func (t asOfTables) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	moment, err := storage.Moment(ctx)
	if err != nil {
		return nil, err
	}
	if moment.IsZero() {
		return t.TableConvertor.ConvertToTable(ctx, object, options)
	}
	// The printers ask the clock, so everything is printed as if it had happened that much later.
	since := time.Since(moment)
	later := object.DeepCopyObject()
	shift(reflect.ValueOf(later), since)
	table, err := t.TableConvertor.ConvertToTable(ctx, later, options)
	if err != nil {
		return nil, err
	}
	for i := range table.Rows { // whose objects are those of the copy
		if o := table.Rows[i].Object.Object; o != nil {
			shift(reflect.ValueOf(o), -since)
		}
	}
	return table, nil
}

var (
	timeType  = reflect.TypeFor[metav1.Time]()
	microType = reflect.TypeFor[metav1.MicroTime]()
)

// shift moves every time that an object of a Go type holds.
func shift(v reflect.Value, by time.Duration) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			shift(v.Elem(), by)
		}
	case reflect.Slice, reflect.Array:
		if v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8 {
			return
		}
		for i := range v.Len() {
			shift(v.Index(i), by)
		}
	case reflect.Struct:
		switch {
		case !v.CanSet():
		case v.Type() == timeType:
			t := v.Addr().Interface().(*metav1.Time)
			if !t.IsZero() {
				t.Time = t.Add(by)
			}
			return
		case v.Type() == microType:
			t := v.Addr().Interface().(*metav1.MicroTime)
			if !t.IsZero() {
				t.Time = t.Add(by)
			}
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				shift(v.Field(i), by)
			}
		}
	default: // no map of the API's types holds times
	}
}
