package registry

import (
	"context"
	"encoding/json"
	"fmt"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"

	"github.com/shiplog/shiplog/commands"
)

// patch carries out a patch: an update to what the patch makes of the current object. Server-side apply, whose bookkeeping lives in
// the HTTP handlers, goes through those.
func (b *bus) patch(ctx context.Context, x *call) (runtime.Object, error) {
	if x.PatchType == types.ApplyPatchType {
		return b.apply(ctx, x)
	}
	return b.update(ctx, x, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
		// Kinds that an update may create, as leases are, come here with an empty object: there is nothing to patch.
		if m, err := meta.Accessor(old); err != nil {
			return nil, apierrors.NewInternalError(fmt.Errorf("reading the object to be patched: %w", err))
		} else if m.GetResourceVersion() == "" {
			return nil, apierrors.NewNotFound(x.gvr.GroupResource(), x.Name)
		}
		before, err := scheme().ConvertToVersion(old, versions(x.kind.GroupVersion()))
		if err != nil {
			return nil, apierrors.NewInternalError(fmt.Errorf("converting the object to be patched: %w", err))
		}
		was, err := json.Marshal(before)
		if err != nil {
			return nil, apierrors.NewInternalError(fmt.Errorf("encoding the object to be patched: %w", err))
		}
		is, err := patched(was, x.Command, before)
		if err != nil {
			return nil, err
		}
		after, err := scheme().New(before.GetObjectKind().GroupVersionKind())
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		if err := json.Unmarshal(is, after); err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("the patched object: %v", err))
		}
		return internal(after)
	})
}

// patched applies a patch to an object in JSON.
func patched(was []byte, c commands.Command, schema runtime.Object) ([]byte, error) {
	var is []byte
	var err error
	switch c.PatchType {
	case types.JSONPatchType:
		var p jsonpatch.Patch
		if p, err = jsonpatch.DecodePatch(c.Patch); err == nil {
			is, err = p.Apply(was)
		}
	case types.MergePatchType:
		is, err = jsonpatch.MergePatch(was, c.Patch)
	case types.StrategicMergePatchType:
		is, err = strategicpatch.StrategicMergePatch(was, c.Patch, schema)
	default:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("unknown patch type %q", c.PatchType))
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the patch cannot be applied: %v", err))
	}
	return is, nil
}

// apply sends a server-side apply through the API of this process, on behalf of the command's actor.
func (b *bus) apply(ctx context.Context, x *call) (runtime.Object, error) {
	conf := restclient.CopyConfig(b.cfg.Loopback)
	client, err := kubernetes.NewForConfig(conf)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	prefix := []string{"/apis", x.gvr.Group, x.gvr.Version}
	if x.gvr.Group == "" {
		prefix = []string{"/api", x.gvr.Version}
	}
	req := client.CoreV1().RESTClient().Patch(types.ApplyYAMLPatchType).AbsPath(prefix...).
		NamespaceIfScoped(x.Namespace, x.namespaced).Resource(x.gvr.Resource).Name(x.Name).
		Param("fieldManager", x.FieldManager).Param("force", fmt.Sprint(x.Force)).Body(x.Patch)
	if x.Subresource != "" {
		req = req.SubResource(x.Subresource)
	}
	if x.DryRun {
		req = req.Param("dryRun", "All")
	}
	out, err := scheme().New(x.kind)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if err := req.Do(ctx).Into(out); err != nil {
		return nil, err
	}
	return out, nil
}
