package registry

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	apistorage "k8s.io/apiserver/pkg/storage"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/commands/origin"
	"github.com/shiplog/shiplog/commands/storage"
	"github.com/shiplog/shiplog/domain"
)

// Bus returns the bus for the components of this process.
func (r *Registry) Bus() commands.Bus { return &bus{r} }

// bus carries commands out: admission, the resource's own rules, storage, as an HTTP request would, without HTTP.
type bus struct{ *Registry }

// call is a command on its way.
type call struct {
	commands.Command
	*endpoint
	user   user.Info
	dryRun []string
}

// Do implements commands.Bus.
func (b *bus) Do(ctx context.Context, c commands.Command) (commands.Result, error) {
	if err := storage.RefusePast(ctx); err != nil {
		return commands.Result{}, err
	}
	e, ok := b.stores[key(c.Resource, c.Subresource)]
	if !ok {
		return commands.Result{}, apierrors.NewNotFound(c.Resource.GroupResource(), c.Name)
	}
	x := &call{Command: c, endpoint: e, user: &user.DefaultInfo{Name: c.Actor.User, UID: c.Actor.UID, Groups: c.Actor.Groups}}
	if c.DryRun {
		x.dryRun = []string{metav1.DryRunAll}
	}
	if e.namespaced && c.Namespace == "" {
		return commands.Result{}, apierrors.NewBadRequest(fmt.Sprintf("a command for %s needs a namespace", c.Resource.GroupResource()))
	}
	ctx = x.context(ctx)
	var obj runtime.Object
	var err error
	switch c.Verb {
	case commands.Create:
		obj, err = b.create(ctx, x)
	case commands.Update:
		obj, err = b.update(ctx, x, nil)
	case commands.Patch:
		obj, err = b.patch(ctx, x)
	case commands.Delete:
		obj, err = b.delete(ctx, x)
	default:
		err = apierrors.NewMethodNotSupported(c.Resource.GroupResource(), string(c.Verb))
	}
	if err != nil {
		return commands.Result{}, err
	}
	return b.result(x, obj)
}

// context tells what an API request would tell: who asks for what, and why.
func (x *call) context(ctx context.Context) context.Context {
	ctx = trusted(ctx)
	ctx = request.WithUser(ctx, x.user)
	ctx = request.WithNamespace(ctx, x.Namespace)
	ctx = request.WithRequestInfo(ctx, &request.RequestInfo{
		IsResourceRequest: true, Verb: string(x.Verb), APIGroup: x.Resource.Group, APIVersion: x.Resource.Version,
		Namespace: x.Namespace, Resource: x.Resource.Resource, Subresource: x.Subresource, Name: x.Name,
	})
	if _, ok := audit.AuditIDFrom(ctx); !ok {
		ctx = audit.WithAuditContext(ctx)
		audit.WithAuditID(ctx, origin.NewRequestID())
	}
	return origin.With(ctx, origin.Origin{
		Actor: x.Actor, Cause: x.Cause, Correlation: x.Correlation, Evidence: x.Evidence,
		Command: domain.CommandInfo{Verb: string(x.Verb), Subresource: x.Subresource, DryRun: x.DryRun},
	})
}

// attributes tell the admission chain what is being done.
func (x *call) attributes(obj, old runtime.Object, op admission.Operation, opts runtime.Object) admission.Attributes {
	return admission.NewAttributesRecord(obj, old, x.kind, x.Namespace, x.Name, x.gvr, x.Subresource, op, opts, x.DryRun, x.user)
}

func (b *bus) create(ctx context.Context, x *call) (runtime.Object, error) {
	obj, err := internal(x.Object)
	if err != nil {
		return nil, err
	}
	if m, err := meta.Accessor(obj); err == nil {
		rest.WipeObjectMetaSystemFields(m)
		if err := rest.EnsureObjectNamespaceMatchesRequestNamespace(rest.ExpectedNamespaceForResource(x.Namespace, x.gvr), m); err != nil {
			return nil, err
		}
		if x.Name == "" {
			x.Name = m.GetName()
		}
		if x.gvr.Resource == "namespaces" && x.gvr.Group == "" && x.Namespace == "" {
			x.Namespace = x.Name
			ctx = request.WithNamespace(ctx, x.Name)
		}
	}
	opts := &metav1.CreateOptions{DryRun: x.dryRun, FieldManager: x.FieldManager}
	opts.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("CreateOptions"))
	attrs := x.attributes(obj, nil, admission.Create, opts)
	if err := b.admission.Admit(ctx, attrs, b.objects); err != nil {
		return nil, err
	}
	validate := rest.AdmissionToValidateObjectFunc(b.admission, attrs, b.objects)
	switch s := x.store.(type) {
	case rest.NamedCreater:
		return s.Create(ctx, x.Name, obj, validate, opts)
	case rest.Creater:
		return s.Create(ctx, obj, validate, opts)
	}
	return nil, apierrors.NewMethodNotSupported(x.gvr.GroupResource(), "create")
}

// update carries out an update to the command's object or, when change is given, to what that makes of the current object.
func (b *bus) update(ctx context.Context, x *call, change rest.TransformFunc) (runtime.Object, error) {
	s, ok := x.store.(rest.Updater)
	if !ok {
		return nil, apierrors.NewMethodNotSupported(x.gvr.GroupResource(), "update")
	}
	opts := &metav1.UpdateOptions{DryRun: x.dryRun, FieldManager: x.FieldManager}
	opts.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("UpdateOptions"))
	admit := func(ctx context.Context, obj, old runtime.Object) (runtime.Object, error) {
		return obj, b.admission.Admit(ctx, x.attributes(obj, old, admission.Update, opts), b.objects)
	}
	var wanted runtime.Object
	transform := []rest.TransformFunc{admit}
	if change != nil {
		transform = []rest.TransformFunc{change, admit}
	} else {
		var err error
		if wanted, err = internal(x.Object); err != nil {
			return nil, err
		}
		if m, err := meta.Accessor(wanted); err == nil {
			if err := rest.EnsureObjectNamespaceMatchesRequestNamespace(rest.ExpectedNamespaceForResource(x.Namespace, x.gvr), m); err != nil {
				return nil, err
			}
			if x.Name == "" {
				x.Name = m.GetName()
			}
		}
	}
	validateCreate := rest.AdmissionToValidateObjectFunc(b.admission, x.attributes(nil, nil, admission.Create, opts), b.objects)
	validateUpdate := rest.AdmissionToValidateObjectUpdateFunc(b.admission, x.attributes(nil, nil, admission.Update, opts), b.objects)
	obj, _, err := s.Update(ctx, x.Name, rest.DefaultUpdatedObjectInfo(wanted, transform...), validateCreate, validateUpdate, false, opts)
	return obj, err
}

func (b *bus) delete(ctx context.Context, x *call) (runtime.Object, error) {
	s, ok := x.store.(rest.GracefulDeleter)
	if !ok {
		return nil, apierrors.NewMethodNotSupported(x.gvr.GroupResource(), "delete")
	}
	opts := &metav1.DeleteOptions{}
	if x.DeleteOptions != nil {
		opts = x.DeleteOptions.DeepCopy()
	}
	if x.DryRun {
		opts.DryRun = x.dryRun
	}
	opts.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("DeleteOptions"))
	attrs := x.attributes(nil, nil, admission.Delete, opts)
	// Upstream answers most deletions with a status; the object itself is what the validation sees.
	var last runtime.Object
	validate := rest.AdmissionToValidateObjectDeleteFunc(b.admission, attrs, b.objects)
	obj, _, err := s.Delete(ctx, x.Name, func(ctx context.Context, o runtime.Object) error {
		last = o
		return validate(ctx, o)
	}, opts)
	if err != nil {
		return nil, err
	}
	if _, isStatus := obj.(*metav1.Status); isStatus && last != nil {
		obj = last
	}
	return obj, nil
}

// result turns the registry's answer into the bus's: the object in the version that was asked for.
func (b *bus) result(x *call, obj runtime.Object) (commands.Result, error) {
	if _, ok := obj.(*metav1.Status); ok || obj == nil {
		return commands.Result{Object: obj, Position: b.cfg.Engine.Live().Snapshot().Position()}, nil
	}
	out, err := scheme().UnsafeConvertToVersion(obj, versions(x.kind.GroupVersion()))
	if err != nil {
		return commands.Result{}, apierrors.NewInternalError(fmt.Errorf("converting the result to %s: %w", x.kind, err))
	}
	res := commands.Result{Object: out}
	if v, err := (apistorage.APIObjectVersioner{}).ObjectResourceVersion(obj); err == nil {
		res.Position = v
	}
	return res, nil
}

// versions prefers a version, and takes another for kinds that do not have it (a Scale in apps/v1 is autoscaling/v1).
func versions(gv schema.GroupVersion) runtime.GroupVersioner {
	return runtime.GroupVersioner(schema.GroupVersions{
		gv,
		{Group: "autoscaling", Version: "v1"},
		{Group: "policy", Version: "v1"},
		{Group: "authentication.k8s.io", Version: "v1"},
		{Version: "v1"},
	})
}

// internal converts a typed object to the form that the API machinery works on: a copy, with defaults set.
func internal(obj runtime.Object) (runtime.Object, error) {
	if obj == nil {
		return nil, apierrors.NewBadRequest("the command has no object")
	}
	kinds, _, err := scheme().ObjectKinds(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the command's object: %v", err))
	}
	in := obj.DeepCopyObject()
	scheme().Default(in)
	out, err := scheme().UnsafeConvertToVersion(in, schema.GroupVersion{Group: kinds[0].Group, Version: runtime.APIVersionInternal})
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the command's object: %v", err))
	}
	return out, nil
}
