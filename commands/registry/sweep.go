package registry

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	"k8s.io/utils/ptr"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/projections"
)

const (
	sweepEvery = 3 * time.Minute
	// sweepAfter is how old a reservation without a service must be: the service may still be on its way.
	sweepAfter = time.Minute
)

// SweepAddresses releases service addresses whose services never came to be, or are gone: a process that died between the two writes
// leaves such behind. It runs until the context ends.
func (r *Registry) SweepAddresses(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		for _, ip := range Leaked(r.cfg.Engine.Live().Snapshot(), r.cfg.Engine.Now()) {
			_, err := r.Bus().Do(ctx, commands.Command{
				Verb: commands.Delete, Resource: ipAddresses, Name: ip.Name, Actor: addressManager,
				DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: ptr.To(ip.UID)}},
			})
			if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				continue // the next sweep finds it again
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Leaked returns the reserved addresses that no service has.
func Leaked(view projections.Reader, now time.Time) []*networkingv1.IPAddress {
	var out []*networkingv1.IPAddress
	gr := domain.Resource{Group: ipAddresses.Group, Resource: ipAddresses.Resource}
	for ip := range projections.List[*networkingv1.IPAddress](view, gr, "") {
		if ip.Labels[networkingv1.LabelManagedBy] != ipallocator.ControllerName || now.Sub(ip.CreationTimestamp.Time) < sweepAfter {
			continue
		}
		p := ip.Spec.ParentRef
		if p == nil || p.Resource != "services" {
			continue
		}
		svc, ok := projections.Get[*corev1.Service](view, servicesOf, p.Namespace, p.Name)
		if !ok || !hasAddress(svc, ip.Name) {
			out = append(out, ip)
		}
	}
	return out
}

func hasAddress(svc *corev1.Service, ip string) bool {
	for _, have := range svc.Spec.ClusterIPs {
		if have == ip {
			return true
		}
	}
	return svc.Spec.ClusterIP == ip
}
