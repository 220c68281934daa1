package domain

import (
	"reflect"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func rbacKinds() []Kind {
	const group = "rbac.authorization.k8s.io"
	const rules, subjects = "What the role allows changed.", "Who has the role changed."
	return []Kind{
		{
			Group: group, Version: "v1", Kind: "Role", Resource: "roles", Namespaced: true,
			New: func() runtime.Object { return &rbacv1.Role{} },
			Words: []Word{
				changed("RoleRulesChanged", rules, func(b, a *rbacv1.Role) bool { return !reflect.DeepEqual(b.Rules, a.Rules) }),
			},
		},
		{
			Group: group, Version: "v1", Kind: "RoleBinding", Resource: "rolebindings", Namespaced: true,
			New: func() runtime.Object { return &rbacv1.RoleBinding{} },
			Words: []Word{
				changed("RoleBindingSubjectsChanged", subjects, func(b, a *rbacv1.RoleBinding) bool { return !reflect.DeepEqual(b.Subjects, a.Subjects) }),
			},
		},
		{
			Group: group, Version: "v1", Kind: "ClusterRole", Resource: "clusterroles",
			New: func() runtime.Object { return &rbacv1.ClusterRole{} },
			Words: []Word{
				changed("ClusterRoleRulesChanged", rules, func(b, a *rbacv1.ClusterRole) bool {
					return !reflect.DeepEqual(b.Rules, a.Rules) || !reflect.DeepEqual(b.AggregationRule, a.AggregationRule)
				}),
			},
		},
		{
			Group: group, Version: "v1", Kind: "ClusterRoleBinding", Resource: "clusterrolebindings",
			New: func() runtime.Object { return &rbacv1.ClusterRoleBinding{} },
			Words: []Word{
				changed("ClusterRoleBindingSubjectsChanged", subjects, func(b, a *rbacv1.ClusterRoleBinding) bool { return !reflect.DeepEqual(b.Subjects, a.Subjects) }),
			},
		},
	}
}
