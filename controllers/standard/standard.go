// Package standard lists the controllers of a cluster.
package standard

import (
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/deployment"
	"github.com/shiplog/shiplog/controllers/replicaset"
	"github.com/shiplog/shiplog/controllers/replication"
	"github.com/shiplog/shiplog/domain"
)

// Options of the standard controllers.
type Options struct {
	// Kinds of the cluster; needed.
	Kinds *domain.Set
	// RootCA is the PEM bundle that pods trust the API server by; it is published in every namespace.
	RootCA []byte
}

// Controllers makes all controllers of a cluster.
func Controllers(o Options) []controllers.Controller {
	return []controllers.Controller{
		replication.New(),
		replicaset.New(),
		deployment.New(),
	}
}

// Registry makes the registry of all controllers.
func Registry(o Options) (*controllers.Registry, error) {
	return controllers.NewRegistry(Controllers(o)...)
}
