// Package replicaset keeps the pods of ReplicaSets.
package replicaset

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/replicas"
	"github.com/shiplog/shiplog/controllers/resources"
)

// New makes the controller.
func New() controllers.Controller {
	return replicas.New(replicas.Kind{
		ControllerName:    "replicaset-controller",
		Resource:          resources.ReplicaSets,
		Kind:              appsv1.SchemeGroupVersion.WithKind("ReplicaSet"),
		CountsTerminating: true,
		AsReplicaSet: func(o runtime.Object) (*appsv1.ReplicaSet, bool) {
			rs, ok := o.(*appsv1.ReplicaSet)
			return rs, ok
		},
		WithStatus: func(o runtime.Object, status appsv1.ReplicaSetStatus) controllers.Object {
			rs := o.DeepCopyObject().(*appsv1.ReplicaSet)
			rs.Status = status
			return rs
		},
	})
}
