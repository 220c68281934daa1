package access

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"

	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// nodes authorizes node agents: of the things that pods refer to, a node may read those that pods bound to it refer to, and of
// nodes, leases and CSI nodes it may change its own. What else a node may do in general is upstream's list.
type nodes struct{ live projections.Live }

// NodeName returns the name of the node that a user is, if it is one.
func NodeName(u user.Info) (string, bool) {
	name, ok := strings.CutPrefix(u.GetName(), "system:node:")
	return name, ok && name != "" && slices.Contains(u.GetGroups(), user.NodesGroup)
}

func (n nodes) authorizer() authorizer.Authorizer {
	rules := bootstrappolicy.NodeRules()
	return authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		if a.GetUser() == nil {
			return authorizer.DecisionNoOpinion, "", nil
		}
		node, ok := NodeName(a.GetUser())
		if !ok {
			return authorizer.DecisionNoOpinion, "", nil
		}
		if reason := n.refuse(node, a, rules); reason != "" {
			return authorizer.DecisionNoOpinion, reason, nil
		}
		return authorizer.DecisionAllow, "", nil
	})
}

// refuse returns why a node may not do something, "" when it may.
func (n nodes) refuse(node string, a authorizer.Attributes, rules []rbacv1.PolicyRule) string {
	if a.IsResourceRequest() {
		switch a.GetAPIGroup() + "/" + a.GetResource() {
		case "/secrets", "/configmaps", "/persistentvolumeclaims":
			return n.read(node, a)
		case "/serviceaccounts":
			if a.GetVerb() != "create" || a.GetSubresource() != "token" {
				return "a node may only ask for tokens of service accounts"
			}
			return n.refers(node, a)
		case "/nodes", "storage.k8s.io/csinodes":
			if !own(node, a) {
				return "a node may only change itself"
			}
		case "coordination.k8s.io/leases":
			if a.GetNamespace() != corev1.NamespaceNodeLease || (a.GetVerb() != "create" && a.GetName() != node) {
				return "a node may only hold its own lease"
			}
		case "/pods":
			if reason := n.pods(node, a); reason != "" {
				return reason
			}
		}
	}
	if rbac.RulesAllow(a, rules...) {
		return ""
	}
	return "not among what a node may do"
}

func own(node string, a authorizer.Attributes) bool {
	switch a.GetVerb() {
	case "get", "list", "watch", "create":
		return true
	}
	return a.GetName() == node
}

// read admits reading one object that a pod of the node refers to.
func (n nodes) read(node string, a authorizer.Attributes) string {
	switch a.GetVerb() {
	case "get", "list", "watch":
	default:
		return "a node may only read this"
	}
	if a.GetSubresource() != "" {
		return "a node may not read this subresource"
	}
	return n.refers(node, a)
}

func (n nodes) refers(node string, a authorizer.Attributes) string {
	if a.GetName() == "" {
		return "a node may only ask for one by its name"
	}
	gr := domain.Resource{Resource: "pods"}
	want := a.GetResource() + "/" + a.GetName()
	for o := range n.live.Snapshot().Index(gr, domain.NodeIndex, node) {
		if o.Ref.Namespace != a.GetNamespace() {
			continue
		}
		typed, err := o.Typed()
		if err != nil {
			continue
		}
		for _, idx := range o.Kind.Indexes {
			if idx.Name == domain.RefersIndex && slices.Contains(idx.Values(typed), want) {
				return ""
			}
		}
	}
	return "no pod of the node refers to it"
}

// pods admits what a node does with pods: read and delete its own, report their status.
func (n nodes) pods(node string, a authorizer.Attributes) string {
	switch a.GetVerb() {
	case "list", "watch":
		reqs, err := a.GetFieldSelector()
		if err != nil {
			return "the field selector cannot be read"
		}
		for _, r := range reqs {
			if r.Field == "spec.nodeName" && r.Value == node {
				return ""
			}
		}
		if a.GetName() == "" {
			return "a node may only list the pods bound to it (fieldSelector spec.nodeName)"
		}
	case "create":
		if a.GetSubresource() == "eviction" || a.GetSubresource() == "" {
			return ""
		}
		return "a node may not do this to pods"
	}
	pod, ok := projections.Get[*corev1.Pod](n.live.Snapshot(), domain.Resource{Resource: "pods"}, a.GetNamespace(), a.GetName())
	if ok && pod.Spec.NodeName != node {
		return "the pod is not bound to this node"
	}
	return ""
}
