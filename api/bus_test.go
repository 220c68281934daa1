package api_test

import (
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/api/apitest"
	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
)

// A lease may be created by an update; a patch of a lease that is not there has nothing to patch all the same.
func TestPatchOfWhatIsNotThere(t *testing.T) {
	c := apitest.Start(t)
	_, err := c.Server.Bus().Do(timeout(t), commands.Command{
		Verb: commands.Patch, Resource: coordinationv1.SchemeGroupVersion.WithResource("leases"), Namespace: "default", Name: "nobody",
		Patch: []byte(`{"spec":{"leaseDurationSeconds":40}}`), PatchType: types.MergePatchType, Actor: domain.Actor{User: "system:node:n"},
	})
	if !apierrors.IsNotFound(err) {
		t.Fatalf("got %v, want NotFound", err)
	}
}
