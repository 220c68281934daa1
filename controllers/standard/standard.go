// Package standard lists the controllers of a cluster.
package standard

import (
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/daemonset"
	"github.com/shiplog/shiplog/controllers/deployment"
	"github.com/shiplog/shiplog/controllers/disruption"
	"github.com/shiplog/shiplog/controllers/endpoints"
	"github.com/shiplog/shiplog/controllers/garbage"
	"github.com/shiplog/shiplog/controllers/job"
	"github.com/shiplog/shiplog/controllers/namespaces"
	"github.com/shiplog/shiplog/controllers/nodes"
	"github.com/shiplog/shiplog/controllers/podgc"
	"github.com/shiplog/shiplog/controllers/quota"
	"github.com/shiplog/shiplog/controllers/replicaset"
	"github.com/shiplog/shiplog/controllers/replication"
	"github.com/shiplog/shiplog/controllers/serviceaccounts"
	"github.com/shiplog/shiplog/controllers/statefulset"
	"github.com/shiplog/shiplog/domain"
)

// Options of the standard controllers.
type Options struct {
	// Kinds of the cluster; needed.
	Kinds *domain.Set
	// RootCA is the PEM bundle that pods trust the API server by; it is published in every namespace.
	RootCA []byte
	// Nodes says how long nodes may be silent.
	Nodes nodes.Options
	// Pods says how long pods that nobody will end are kept.
	Pods podgc.Options
}

// Controllers makes all controllers of a cluster.
func Controllers(o Options) []controllers.Controller {
	return []controllers.Controller{
		replication.New(),
		replicaset.New(),
		deployment.New(),
		daemonset.New(),
		statefulset.New(),
		job.New(),
		job.NewTTL(),
		endpoints.NewEndpoints(),
		endpoints.NewSlices(),
		endpoints.NewMirror(),
		namespaces.New(),
		garbage.New(o.Kinds),
		nodes.NewLifecycle(o.Nodes),
		nodes.NewEviction(),
		podgc.New(o.Pods),
		disruption.New(),
		quota.New(),
		serviceaccounts.NewDefault(),
		serviceaccounts.NewRootCA(o.RootCA),
	}
}

// Registry makes the registry of all controllers.
func Registry(o Options) (*controllers.Registry, error) {
	return controllers.NewRegistry(Controllers(o)...)
}
