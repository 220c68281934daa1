package domain

import (
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func policyKinds() []Kind {
	return []Kind{{
		Group: "policy", Version: "v1", Kind: "PodDisruptionBudget", Resource: "poddisruptionbudgets", ShortNames: []string{"pdb"}, Namespaced: true,
		New: func() runtime.Object { return &policyv1.PodDisruptionBudget{} },
		Words: []Word{
			changed("DisruptionAllowanceChanged", "Another number of pods may be evicted now.", func(b, a *policyv1.PodDisruptionBudget) bool {
				return b.Status.DisruptionsAllowed != a.Status.DisruptionsAllowed
			}),
		},
	}}
}
