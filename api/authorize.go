package api

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/shiplog/shiplog/domain"
)

// Authorize says whether the user of a request that the server has let through to an extra handler may do something with a
// resource: nil, or an error that says who may not do what. Namespace "" means all.
func (s *Server) Authorize(ctx context.Context, gr domain.Resource, namespace, verb string) error {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return apierrors.NewUnauthorized("the request names no user")
	}
	decision, reason, err := s.generic.Authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: u, Verb: verb, Namespace: namespace, APIGroup: gr.Group, APIVersion: "*", Resource: gr.Resource, ResourceRequest: true,
	})
	if err != nil {
		return fmt.Errorf("asking whether %s may %s %s: %w", u.GetName(), verb, gr, err)
	}
	if decision != authorizer.DecisionAllow {
		return apierrors.NewForbidden(gr, "", fmt.Errorf("user %q cannot %s it in namespace %q: %s", u.GetName(), verb, namespace, reason))
	}
	return nil
}
