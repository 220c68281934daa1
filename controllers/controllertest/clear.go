package controllertest

import (
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
)

// clearInto makes an object empty, so that decoding into it leaves nothing of what it was.
func clearInto(obj runtime.Object) {
	v := reflect.ValueOf(obj).Elem()
	v.Set(reflect.Zero(v.Type()))
}
