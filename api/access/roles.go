package access

import (
	"context"
	"fmt"
	"reflect"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/union"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

const rbacGroup = "rbac.authorization.k8s.io"

// Authorizer makes the authorizer of requests: the administrators' group may everything, nodes what concerns them, everybody what
// their roles say. It returns the resolver of rules too, which answers "what may I do?".
func Authorizer(live projections.Live) (authorizer.Authorizer, authorizer.RuleResolver, error) {
	r := roles{live}
	byRole := rbac.New(r, r, r, r)
	all, err := union.New(
		union.NamedAuthorizer{AuthorizerName: "administrators", Authorizer: authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)},
		union.NamedAuthorizer{AuthorizerName: "nodes", Authorizer: nodes{live}.authorizer()},
		union.NamedAuthorizer{AuthorizerName: "roles", Authorizer: byRole},
	)
	if err != nil {
		return nil, nil, fmt.Errorf("making the authorizer: %w", err)
	}
	return all, byRole, nil
}

// roles finds roles and bindings.
type roles struct{ live projections.Live }

func (r roles) GetRole(_ context.Context, namespace, name string) (*rbacv1.Role, error) {
	return find[*rbacv1.Role](r.live, rbacGroup, "roles", namespace, name)
}

func (r roles) ListRoleBindings(_ context.Context, namespace string) ([]*rbacv1.RoleBinding, error) {
	var out []*rbacv1.RoleBinding
	for b := range projections.List[*rbacv1.RoleBinding](r.live.Snapshot(), domain.Resource{Group: rbacGroup, Resource: "rolebindings"}, namespace) {
		out = append(out, b)
	}
	return out, nil
}

func (r roles) ListClusterRoleBindings(context.Context) ([]*rbacv1.ClusterRoleBinding, error) {
	var out []*rbacv1.ClusterRoleBinding
	for b := range projections.List[*rbacv1.ClusterRoleBinding](r.live.Snapshot(), domain.Resource{Group: rbacGroup, Resource: "clusterrolebindings"}, "") {
		out = append(out, b)
	}
	return out, nil
}

// GetClusterRole returns a role; one that is the sum of others is summed up here, so that it is never behind.
func (r roles) GetClusterRole(_ context.Context, name string) (*rbacv1.ClusterRole, error) {
	snap := r.live.Snapshot()
	gr := domain.Resource{Group: rbacGroup, Resource: "clusterroles"}
	role, ok := projections.Get[*rbacv1.ClusterRole](snap, gr, "", name)
	if !ok {
		return nil, apierrors.NewNotFound(gr, name)
	}
	if role.AggregationRule == nil {
		return role, nil
	}
	sum := *role
	sum.Rules = Aggregate(role, projections.List[*rbacv1.ClusterRole](snap, gr, ""))
	return &sum, nil
}

// Aggregate sums up the rules of the roles that an aggregated role selects, each rule once. A role that it selects may be a sum
// itself.
func Aggregate(role *rbacv1.ClusterRole, all func(yield func(*rbacv1.ClusterRole) bool)) []rbacv1.PolicyRule {
	s := summer{all: slices.Collect(all), done: map[string]bool{}}
	s.add(role)
	return s.rules
}

type summer struct {
	all   []*rbacv1.ClusterRole
	done  map[string]bool
	rules []rbacv1.PolicyRule
}

func (s *summer) add(role *rbacv1.ClusterRole) {
	s.done[role.Name] = true
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			continue
		}
		for _, other := range s.all {
			switch {
			case s.done[other.Name] || !selector.Matches(labels.Set(other.Labels)):
			case other.AggregationRule != nil:
				s.add(other)
			default:
				s.done[other.Name] = true
				for _, rule := range other.Rules {
					if !slices.ContainsFunc(s.rules, func(have rbacv1.PolicyRule) bool { return reflect.DeepEqual(have, rule) }) {
						s.rules = append(s.rules, rule)
					}
				}
			}
		}
	}
}
