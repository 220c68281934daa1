package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/component-helpers/auth/rbac/validation"

	"github.com/shiplog/shiplog/api/access"
	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// atOnce is how many objects are made at the same time; their appends share flushes.
const atOnce = 32

var actor = domain.Actor{User: "system:bootstrap", Groups: []string{"system:masters"}}

// Maker puts objects into a cluster.
type Maker struct {
	Bus   commands.Bus
	Live  projections.Live
	Kinds *domain.Set
}

// Ensure makes what is missing, adds to roles what they lack, and lets the service "kubernetes" point at this server.
func (m Maker) Ensure(ctx context.Context, c Cluster) error {
	for _, stage := range c.Stages() {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(atOnce)
		for _, obj := range stage {
			g.Go(func() error { return m.ensure(ctx, obj) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	if err := m.aggregate(ctx); err != nil {
		return err
	}
	ep, slice := c.Endpoints()
	for _, obj := range []runtime.Object{ep, slice} {
		if err := m.replace(ctx, obj); err != nil {
			return err
		}
	}
	return nil
}

func (m Maker) command(verb commands.Verb, obj runtime.Object) (commands.Command, *projections.Object, error) {
	k, err := m.kindOf(obj)
	if err != nil {
		return commands.Command{}, nil, err
	}
	a, err := meta.Accessor(obj)
	if err != nil {
		return commands.Command{}, nil, fmt.Errorf("reading a %s: %w", k.Kind, err)
	}
	current, _ := m.Live.Snapshot().Get(k.GroupResource(), a.GetNamespace(), a.GetName())
	return commands.Command{
		Verb: verb, Resource: k.GroupVersionResource(), Namespace: a.GetNamespace(), Name: a.GetName(), Object: obj, Actor: actor,
	}, current, nil
}

func (m Maker) kindOf(obj runtime.Object) (*domain.Kind, error) {
	for _, k := range m.Kinds.All() {
		if reflect.TypeOf(k.New()) == reflect.TypeOf(obj) {
			return k, nil
		}
	}
	return nil, fmt.Errorf("no kind is a %T", obj)
}

// ensure makes an object if it is missing.
func (m Maker) ensure(ctx context.Context, obj runtime.Object) error {
	c, current, err := m.command(commands.Create, obj)
	if err != nil {
		return err
	}
	if current != nil {
		return m.complete(ctx, c, current)
	}
	for {
		_, err = m.Bus.Do(ctx, c)
		switch {
		case err == nil, apierrors.IsAlreadyExists(err):
			return nil
		case apierrors.IsInternalError(err) || apierrors.IsServiceUnavailable(err) || notReady(err):
			// The allocator of addresses has not heard of the range yet.
			select {
			case <-time.After(5 * time.Millisecond):
				continue
			case <-ctx.Done():
				return fmt.Errorf("making %s %s/%s: %w", c.Resource.Resource, c.Namespace, c.Name, errors.Join(ctx.Err(), err))
			}
		}
		return fmt.Errorf("making %s %s/%s: %w", c.Resource.Resource, c.Namespace, c.Name, err)
	}
}

// notReady says that services cannot get addresses yet.
func notReady(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return false
	}
	for _, cause := range status.Status().Details.Causes {
		if cause.Field == "spec.clusterIPs" {
			return true
		}
	}
	return false
}

// complete adds to a role what it should allow and does not, unless somebody has asked to leave it alone.
func (m Maker) complete(ctx context.Context, c commands.Command, current *projections.Object) error {
	want, ok := c.Object.(*rbacv1.ClusterRole)
	if !ok || want.AggregationRule != nil {
		return nil
	}
	have, ok := projections.As[*rbacv1.ClusterRole](current)
	if !ok || have.Annotations[rbacv1.AutoUpdateAnnotationKey] == "false" {
		return nil
	}
	covered, missing := validation.Covers(have.Rules, want.Rules)
	if covered {
		return nil
	}
	updated := have.DeepCopy()
	updated.Rules = append(updated.Rules, missing...)
	c.Verb, c.Object = commands.Update, updated
	if _, err := m.Bus.Do(ctx, c); err != nil && !apierrors.IsConflict(err) {
		return fmt.Errorf("completing the role %s: %w", c.Name, err)
	}
	return nil
}

// aggregate writes the sums of roles into the roles that are made of others, for those who read them; the authorizer sums up anew.
func (m Maker) aggregate(ctx context.Context) error {
	snap := m.Live.Snapshot()
	gr := domain.Resource{Group: rbacv1.GroupName, Resource: "clusterroles"}
	for role := range projections.List[*rbacv1.ClusterRole](snap, gr, "") {
		if role.AggregationRule == nil {
			continue
		}
		rules := access.Aggregate(role, projections.List[*rbacv1.ClusterRole](snap, gr, ""))
		if reflect.DeepEqual(rules, role.Rules) {
			continue
		}
		updated := role.DeepCopy()
		updated.Rules = rules
		c, _, err := m.command(commands.Update, updated)
		if err != nil {
			return err
		}
		if _, err := m.Bus.Do(ctx, c); err != nil && !apierrors.IsConflict(err) {
			return fmt.Errorf("summing up the role %s: %w", role.Name, err)
		}
	}
	return nil
}

// replace makes an object as it should be, whatever it was before.
func (m Maker) replace(ctx context.Context, obj runtime.Object) error {
	for {
		c, current, err := m.command(commands.Create, obj)
		if err != nil {
			return err
		}
		if current != nil {
			c.Verb = commands.Update
		}
		_, err = m.Bus.Do(ctx, c)
		switch {
		case err == nil:
			return nil
		case apierrors.IsAlreadyExists(err), apierrors.IsConflict(err), apierrors.IsNotFound(err):
			continue
		}
		return fmt.Errorf("writing %s %s/%s: %w", c.Resource.Resource, c.Namespace, c.Name, err)
	}
}
