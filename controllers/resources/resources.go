// Package resources names the resources that controllers read and write, with the version in which the log keeps them.
package resources

import "k8s.io/apimachinery/pkg/runtime/schema"

// The resources, by group.
var (
	Pods                   = core("pods")
	Nodes                  = core("nodes")
	Namespaces             = core("namespaces")
	Services               = core("services")
	Endpoints              = core("endpoints")
	Events                 = core("events")
	ServiceAccounts        = core("serviceaccounts")
	ConfigMaps             = core("configmaps")
	ReplicationControllers = core("replicationcontrollers")
	PersistentVolumeClaims = core("persistentvolumeclaims")
	ResourceQuotas         = core("resourcequotas")

	ReplicaSets         = apps("replicasets")
	Deployments         = apps("deployments")
	DaemonSets          = apps("daemonsets")
	StatefulSets        = apps("statefulsets")
	ControllerRevisions = apps("controllerrevisions")

	Jobs     = schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}
	CronJobs = schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "cronjobs"}

	EndpointSlices       = schema.GroupVersionResource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}
	Leases               = schema.GroupVersionResource{Group: "coordination.k8s.io", Version: "v1", Resource: "leases"}
	PodDisruptionBudgets = schema.GroupVersionResource{Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"}
)

func core(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Version: "v1", Resource: resource}
}

func apps(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: resource}
}
