package history

import (
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/shiplog/shiplog/domain"
)

// ErrBadTarget says that arguments name no object.
var ErrBadTarget = errors.New("not an object")

// DefaultNamespace is where objects are looked for when no namespace is given.
const DefaultNamespace = "default"

// ParseTarget reads which object is meant, as kubectl does: "TYPE/NAME" or "TYPE NAME" with any name of the type (deploy, Deployment,
// deployments.apps). A custom resource is named in full ("widgets.example.com/w1"); it is taken to be in the namespace unless that
// is "". It returns the arguments that are left. Errors are ErrBadTarget.
func ParseTarget(kinds *domain.Set, namespace string, args []string) (domain.Ref, []string, error) {
	if len(args) == 0 {
		return domain.Ref{}, nil, fmt.Errorf("%w: name one, as in deployment/web", ErrBadTarget)
	}
	typ, name, slash := strings.Cut(args[0], "/")
	rest := args[1:]
	if !slash {
		if len(rest) == 0 {
			return domain.Ref{}, nil, fmt.Errorf("%w: %q: add the object's name, as in %s/web", ErrBadTarget, args[0], args[0])
		}
		name, rest = rest[0], rest[1:]
	}
	if typ == "" || name == "" || strings.Contains(name, "/") {
		return domain.Ref{}, nil, fmt.Errorf("%w: %q: write TYPE/NAME, as in deployment/web", ErrBadTarget, args[0])
	}
	if namespace == "" {
		namespace = DefaultNamespace
	}
	if k, ok := kinds.Lookup(typ); ok {
		if !k.Namespaced {
			namespace = ""
		}
		return k.Ref(namespace, name), rest, nil
	}
	gr := schema.ParseGroupResource(typ)
	if gr.Group == "" {
		return domain.Ref{}, nil, fmt.Errorf("%w: there is no type %q (a custom resource is named in full, as in widgets.example.com/w1)", ErrBadTarget, typ)
	}
	return domain.Ref{Group: gr.Group, Resource: gr.Resource, Namespace: namespace, Name: name}, rest, nil
}

// short is how an object is named to people: "deployment/web", and with its namespace unless that is the one they look at.
func short(kinds *domain.Set, ref domain.Ref, namespace string) string {
	name := ref.GroupResource().String()
	if k, ok := kinds.ByResource(ref.GroupResource()); ok {
		name = strings.ToLower(k.Kind)
	}
	name += "/" + ref.Name
	if ref.Namespace != "" && ref.Namespace != namespace {
		name += " in " + ref.Namespace
	}
	return name
}
