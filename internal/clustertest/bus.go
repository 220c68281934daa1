package clustertest

import (
	"context"
	"fmt"
	"strconv"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

// Do implements commands.Bus.
func (c *Cluster) Do(ctx context.Context, cmd commands.Command) (commands.Result, error) {
	if err := ctx.Err(); err != nil {
		return commands.Result{}, err
	}
	c.mu.Lock()
	refuse := c.refuse
	c.mu.Unlock()
	if refuse != nil {
		if err := refuse(cmd); err != nil {
			return commands.Result{}, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.Kinds.ByResource(cmd.Resource.GroupResource())
	if !ok {
		return commands.Result{}, apierrors.NewNotFound(cmd.Resource.GroupResource(), cmd.Name)
	}
	var r commands.Result
	var err error
	switch {
	case cmd.Verb == commands.Create && cmd.Subresource == "binding":
		r, err = c.bind(k, cmd)
	case cmd.Verb == commands.Create && cmd.Subresource == "":
		r, err = c.create(k, cmd)
	case cmd.Verb == commands.Update:
		r, err = c.update(k, cmd)
	case cmd.Verb == commands.Patch && cmd.PatchType == types.StrategicMergePatchType:
		r, err = c.patch(k, cmd)
	case cmd.Verb == commands.Delete:
		r, err = c.remove(k, cmd)
	default:
		err = apierrors.NewMethodNotSupported(k.GroupResource(), string(cmd.Verb))
	}
	if err != nil {
		return commands.Result{}, err
	}
	c.done = append(c.done, cmd)
	return r, nil
}

func result(o *projections.Object) commands.Result {
	typed, _ := o.Typed()
	return commands.Result{Object: typed, Position: o.Position}
}

func (c *Cluster) create(k *domain.Kind, cmd commands.Command) (commands.Result, error) {
	obj := cmd.Object.DeepCopyObject()
	m, err := meta.Accessor(obj)
	if err != nil {
		return commands.Result{}, err
	}
	if m.GetName() == "" {
		m.SetName(m.GetGenerateName() + uuid.NewString()[:5])
	}
	if _, there := c.store.Get(k.GroupResource(), m.GetNamespace(), m.GetName()); there {
		return commands.Result{}, apierrors.NewAlreadyExists(k.GroupResource(), m.GetName())
	}
	m.SetUID(types.UID(uuid.NewString()))
	m.SetCreationTimestamp(metav1.NewTime(c.now()))
	return result(c.write(k, obj, domain.Created, cmd)), nil
}

// current returns the object that a command is about, and a copy of its typed form.
func (c *Cluster) current(k *domain.Kind, cmd commands.Command) (*projections.Object, runtime.Object, metav1.Object, error) {
	o, ok := c.store.Get(k.GroupResource(), cmd.Namespace, cmd.Name)
	if !ok {
		return nil, nil, nil, apierrors.NewNotFound(k.GroupResource(), cmd.Name)
	}
	typed, err := o.Typed()
	if err != nil {
		return nil, nil, nil, err
	}
	typed = typed.DeepCopyObject()
	m, err := meta.Accessor(typed)
	return o, typed, m, err
}

func conflict(k *domain.Kind, name, format string, args ...any) error {
	return apierrors.NewConflict(k.GroupResource(), name, fmt.Errorf(format, args...))
}

func (c *Cluster) bind(k *domain.Kind, cmd commands.Command) (commands.Result, error) {
	_, typed, m, err := c.current(k, cmd)
	if err != nil {
		return commands.Result{}, err
	}
	b, pod := cmd.Object.(*corev1.Binding), typed.(*corev1.Pod)
	switch {
	case b.UID != "" && b.UID != m.GetUID():
		return commands.Result{}, conflict(k, cmd.Name, "the pod is another one")
	case pod.Spec.NodeName != "":
		return commands.Result{}, conflict(k, cmd.Name, "the pod is already assigned to node %q", pod.Spec.NodeName)
	case pod.DeletionTimestamp != nil:
		return commands.Result{}, conflict(k, cmd.Name, "the pod is being deleted")
	}
	pod.Spec.NodeName = b.Target.Name
	cond := corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(c.now())}
	found := false
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == corev1.PodScheduled {
			pod.Status.Conditions[i], found = cond, true
		}
	}
	if !found {
		pod.Status.Conditions = append(pod.Status.Conditions, cond)
	}
	return result(c.write(k, pod, domain.Changed, cmd)), nil
}

func (c *Cluster) update(k *domain.Kind, cmd commands.Command) (commands.Result, error) {
	old, typed, m, err := c.current(k, cmd)
	if err != nil {
		return commands.Result{}, err
	}
	obj := cmd.Object.DeepCopyObject()
	n, err := meta.Accessor(obj)
	if err != nil {
		return commands.Result{}, err
	}
	if rv := n.GetResourceVersion(); rv != "" && rv != strconv.FormatUint(old.Position, 10) {
		return commands.Result{}, conflict(k, cmd.Name, "the object has been modified")
	}
	switch was := typed.(type) {
	case *corev1.Pod:
		is := obj.(*corev1.Pod)
		if cmd.Subresource == "status" {
			was.Status = is.Status
			obj = was
		} else {
			is.Status = was.Status
		}
	case *corev1.Node:
		is := obj.(*corev1.Node)
		if cmd.Subresource == "status" {
			was.Status = is.Status
			obj = was
		} else {
			is.Status = was.Status
		}
	}
	if n, err = meta.Accessor(obj); err != nil {
		return commands.Result{}, err
	}
	n.SetUID(m.GetUID())
	n.SetCreationTimestamp(m.GetCreationTimestamp())
	if n.GetDeletionTimestamp() != nil && len(n.GetFinalizers()) == 0 && grace(n) == 0 {
		c.erase(old, cmd)
		return commands.Result{Object: obj, Position: c.position}, nil
	}
	return result(c.write(k, obj, domain.Changed, cmd)), nil
}

func (c *Cluster) patch(k *domain.Kind, cmd commands.Command) (commands.Result, error) {
	old, typed, m, err := c.current(k, cmd)
	if err != nil {
		return commands.Result{}, err
	}
	data, err := strategicpatch.StrategicMergePatch(old.JSON, cmd.Patch, k.New())
	if err != nil {
		return commands.Result{}, apierrors.NewBadRequest(err.Error())
	}
	patched, err := domain.Decode(k, data, 0)
	if err != nil {
		return commands.Result{}, apierrors.NewBadRequest(err.Error())
	}
	n, err := meta.Accessor(patched)
	if err != nil {
		return commands.Result{}, err
	}
	if n.GetUID() != m.GetUID() {
		return commands.Result{}, conflict(k, cmd.Name, "the uid is another one than that of %T", typed)
	}
	cmd.Object = patched
	return c.update(k, cmd)
}

func grace(m metav1.Object) int64 {
	if g := m.GetDeletionGracePeriodSeconds(); g != nil {
		return *g
	}
	return 0
}

func (c *Cluster) remove(k *domain.Kind, cmd commands.Command) (commands.Result, error) {
	old, typed, m, err := c.current(k, cmd)
	if err != nil {
		return commands.Result{}, err
	}
	o := cmd.DeleteOptions
	if o == nil {
		o = &metav1.DeleteOptions{}
	}
	if p := o.Preconditions; p != nil && p.UID != nil && *p.UID != m.GetUID() {
		return commands.Result{}, conflict(k, cmd.Name, "the uid is another one")
	}
	var seconds int64
	if pod, ok := typed.(*corev1.Pod); ok && pod.Spec.NodeName != "" && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
		seconds = corev1.DefaultTerminationGracePeriodSeconds
		if pod.Spec.TerminationGracePeriodSeconds != nil {
			seconds = *pod.Spec.TerminationGracePeriodSeconds
		}
	}
	if o.GracePeriodSeconds != nil {
		seconds = *o.GracePeriodSeconds
	}
	if seconds == 0 && len(m.GetFinalizers()) == 0 {
		c.erase(old, cmd)
		return commands.Result{Object: typed, Position: c.position}, nil
	}
	if m.GetDeletionTimestamp() == nil {
		now := metav1.NewTime(c.now())
		m.SetDeletionTimestamp(&now)
	}
	m.SetDeletionGracePeriodSeconds(&seconds)
	return result(c.write(k, typed, domain.Changed, cmd)), nil
}
