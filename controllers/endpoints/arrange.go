package endpoints

import (
	"maps"
	"slices"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/shiplog/shiplog/commands"
	"github.com/shiplog/shiplog/controllers"
	"github.com/shiplog/shiplog/controllers/resources"
	"github.com/shiplog/shiplog/projections"
)

// maxPerSlice is how many endpoints a slice holds.
const maxPerSlice = 100

// group is the endpoints of one address family that have the same ports.
type group struct {
	family    discoveryv1.AddressType
	ports     []discoveryv1.EndpointPort
	endpoints []discoveryv1.Endpoint
}

// arrangement spreads endpoints over slices so that little is written when little changes: an endpoint stays in its slice and
// at its place, new ones go where there is room, and a slice that is not needed is used again before one is created.
type arrangement struct {
	view      projections.Reader
	namespace string
	prefix    string // of names of new slices
	uid       types.UID
	position  uint64
	owner     metav1.OwnerReference
	labels    map[string]string
	existing  []*discoveryv1.EndpointSlice
	groups    []*group
}

// draft is a slice as it shall be; was is nil for a new one.
type draft struct {
	was       *discoveryv1.EndpointSlice
	family    discoveryv1.AddressType
	ports     []discoveryv1.EndpointPort
	endpoints []discoveryv1.Endpoint
}

func (a *arrangement) commands() []commands.Command {
	var drafts, fresh []*draft
	used := map[*discoveryv1.EndpointSlice]bool{}
	for _, g := range a.groups {
		kept, overflow := a.fill(g, used)
		drafts = append(drafts, kept...)
		for chunk := range slices.Chunk(overflow, maxPerSlice) {
			fresh = append(fresh, &draft{family: g.family, ports: g.ports, endpoints: chunk})
		}
		if len(kept) == 0 && len(overflow) == 0 { // the placeholder of a service without endpoints
			fresh = append(fresh, &draft{family: g.family, ports: g.ports})
		}
	}
	var free []*discoveryv1.EndpointSlice
	for _, s := range a.existing {
		if !used[s] {
			free = append(free, s)
		}
	}
	for _, d := range fresh {
		i := slices.IndexFunc(free, func(s *discoveryv1.EndpointSlice) bool { return s.AddressType == d.family })
		if i >= 0 {
			d.was = free[i]
			free = slices.Delete(free, i, i+1)
		}
		drafts = append(drafts, d)
	}
	var out []commands.Command
	next := controllers.Names(a.prefix, a.uid, a.position, func(name string) bool {
		_, taken := a.view.Get(slicesGR, a.namespace, name)
		return taken
	})
	for _, d := range drafts {
		if c, ok := a.write(d, next); ok {
			out = append(out, c)
		}
	}
	for _, s := range free {
		out = append(out, controllers.Delete(resources.EndpointSlices, s))
	}
	return out
}

// fill keeps a group's endpoints in the slices that hold them, puts new ones where there is room, and returns those for which
// there is none.
func (a *arrangement) fill(g *group, used map[*discoveryv1.EndpointSlice]bool) (kept []*draft, overflow []discoveryv1.Endpoint) {
	key := portsKey(g.ports)
	wanted := make(map[types.UID]discoveryv1.Endpoint, len(g.endpoints))
	for _, e := range g.endpoints {
		wanted[identity(e)] = e
	}
	for _, s := range a.existing {
		if used[s] || s.AddressType != g.family || portsKey(s.Ports) != key {
			continue
		}
		d := &draft{was: s, family: g.family, ports: g.ports}
		for _, e := range s.Endpoints {
			if e, ok := wanted[identity(e)]; ok && len(d.endpoints) < maxPerSlice {
				d.endpoints = append(d.endpoints, e)
				delete(wanted, identity(e))
			}
		}
		if len(d.endpoints) > 0 {
			used[s] = true
			kept = append(kept, d)
		}
	}
	for _, e := range g.endpoints {
		if _, homeless := wanted[identity(e)]; homeless {
			overflow = append(overflow, e)
		}
	}
	// The fullest slice with room first, so that the others may become empty.
	for _, d := range slices.SortedStableFunc(slices.Values(kept), func(x, y *draft) int { return len(y.endpoints) - len(x.endpoints) }) {
		n := min(maxPerSlice-len(d.endpoints), len(overflow))
		d.endpoints = append(d.endpoints, overflow[:n]...)
		overflow = overflow[n:]
	}
	return kept, overflow
}

// identity tells endpoints apart: by the pod, or by the address for those that are no pods.
func identity(e discoveryv1.Endpoint) types.UID {
	if e.TargetRef != nil && e.TargetRef.UID != "" {
		return e.TargetRef.UID
	}
	if len(e.Addresses) > 0 {
		return types.UID(e.Addresses[0])
	}
	return ""
}

// write returns the command that makes a slice what its draft says, if it is not.
func (a *arrangement) write(d *draft, next func() string) (commands.Command, bool) {
	if d.was == nil {
		return controllers.Create(resources.EndpointSlices, &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: a.namespace, Name: next(), GenerateName: a.prefix, Labels: maps.Clone(a.labels), OwnerReferences: []metav1.OwnerReference{a.owner},
			},
			AddressType: d.family, Ports: d.ports, Endpoints: d.endpoints,
		}), true
	}
	owned := slices.ContainsFunc(d.was.OwnerReferences, func(r metav1.OwnerReference) bool { return r.UID == a.owner.UID })
	if owned && maps.Equal(d.was.Labels, a.labels) && portsKey(d.was.Ports) == portsKey(d.ports) && slices.EqualFunc(d.was.Endpoints, d.endpoints, sameEndpoint) {
		return commands.Command{}, false
	}
	changed := d.was.DeepCopy()
	changed.Labels, changed.Ports, changed.Endpoints = maps.Clone(a.labels), d.ports, d.endpoints
	if !owned {
		changed.OwnerReferences = []metav1.OwnerReference{a.owner}
	}
	return controllers.Update(resources.EndpointSlices, changed), true
}
