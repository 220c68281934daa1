package domain

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func leaseKinds() []Kind {
	holder := func(l *coordinationv1.Lease) string {
		if l.Spec.HolderIdentity == nil {
			return ""
		}
		return *l.Spec.HolderIdentity
	}
	return []Kind{{
		Group: "coordination.k8s.io", Version: "v1", Kind: "Lease", Resource: "leases", Namespaced: true,
		New: func() runtime.Object { return &coordinationv1.Lease{} },
		Words: []Word{
			changed("LeaseAcquired", "Another holder took the lease.", func(b, a *coordinationv1.Lease) bool {
				return holder(a) != "" && holder(a) != holder(b)
			}),
			changed("LeaseReleased", "The holder gave the lease back.", func(b, a *coordinationv1.Lease) bool {
				return holder(a) == "" && holder(b) != ""
			}),
			changed("LeaseRenewed", "The holder is alive.", func(b, a *coordinationv1.Lease) bool {
				return !b.Spec.RenewTime.Equal(a.Spec.RenewTime)
			}),
		},
		Retention: Retention{MaxCount: 2},
	}}
}
