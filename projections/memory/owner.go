package memory

import (
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/shiplog/shiplog/domain"
)

// ownerIndex serves kinds that bring no index of their own: custom resources.
var ownerIndex = domain.Index{Name: domain.OwnerIndex, Values: func(obj runtime.Object) []string {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil
	}
	var out []string
	for _, r := range m.GetOwnerReferences() {
		out = append(out, string(r.UID))
	}
	return out
}}
