package domain

import (
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func migrationKinds() []Kind {
	return []Kind{{
		Group: "storagemigration.k8s.io", Version: "v1", Kind: "StorageVersionMigration", Resource: "storageversionmigrations",
		New: func() runtime.Object { return &storagemigrationv1.StorageVersionMigration{} },
	}}
}
