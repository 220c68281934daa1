package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/kubernetes/pkg/registry/core/service/portallocator"

	"github.com/shiplog/shiplog/commands/storage"
	"github.com/shiplog/shiplog/domain"
	"github.com/shiplog/shiplog/eventstore"
	"github.com/shiplog/shiplog/projections"
)

const (
	// portStream begins the names of the streams that node ports are reserved in, one a port.
	portStream = "nodeport-"
	// portGrace is how long a reserved port waits for the service that it was reserved for. A process that died in between
	// leaves no port behind: after this time the reservation counts for nothing.
	portGrace = time.Minute
)

// The words of reservations in the log.
const (
	NodePortReserved = "NodePortReserved"
	NodePortReleased = "NodePortReleased"
)

// ports hands out node ports. A port is taken when a service in the live view has it, or when its stream ends with a fresh
// reservation; a reservation is one append with the exact revision that the stream was read at, so of two that race for a port,
// in this process or in any other over the same log, one gets it.
type ports struct {
	within utilnet.PortRange
	engine *storage.Engine
}

var _ portallocator.Interface = (*ports)(nil)

func newPorts(within utilnet.PortRange, e *storage.Engine) *ports {
	return &ports{within: within, engine: e}
}

// Allocate implements portallocator.Interface.
func (p *ports) Allocate(port int) error {
	if !p.within.Contains(port) {
		return &portallocator.ErrNotInRange{ValidPorts: p.within.String()}
	}
	if p.used()[port] {
		return portallocator.ErrAllocated
	}
	return p.reserve(context.Background(), port)
}

// AllocateNext implements portallocator.Interface. Ports that are given out come from the upper part of the range first, so that
// the lower part stays free for those who ask for a port of their choice, as upstream does.
func (p *ports) AllocateNext() (int, error) {
	used := p.used()
	low := staticPart(p.within.Size)
	for _, part := range [][2]int{{low, p.within.Size}, {0, low}} {
		n := part[1] - part[0]
		if n <= 0 {
			continue
		}
		start := rand.IntN(n)
		for i := range n {
			port := p.within.Base + part[0] + (start+i)%n
			if used[port] {
				continue
			}
			switch err := p.reserve(context.Background(), port); {
			case err == nil:
				return port, nil
			case !errors.Is(err, portallocator.ErrAllocated):
				return 0, err
			}
		}
	}
	return 0, portallocator.ErrFull
}

// staticPart is how many ports at the range's beginning are kept for those who choose their port; the rule is upstream's.
func staticPart(size int) int {
	if size <= 16 {
		return 0
	}
	return min(max(size/32, 16), 128)
}

// Release implements portallocator.Interface.
func (p *ports) Release(port int) error {
	if !p.within.Contains(port) {
		return nil
	}
	ctx := context.Background()
	last, expected, err := p.last(ctx, port)
	if err != nil || last == nil || last.Type != NodePortReserved {
		return err
	}
	err = p.append(ctx, port, NodePortReleased, expected)
	if errors.Is(err, eventstore.ErrWrongExpectedRevision) {
		return nil // somebody else has released it, or has it already
	}
	return err
}

// ForEach implements portallocator.Interface.
func (p *ports) ForEach(visit func(int)) {
	for port := range p.used() {
		if p.within.Contains(port) {
			visit(port)
		}
	}
}

// Has implements portallocator.Interface.
func (p *ports) Has(port int) bool {
	if p.used()[port] {
		return true
	}
	last, _, err := p.last(context.Background(), port)
	return err == nil && p.fresh(last)
}

// Destroy implements portallocator.Interface.
func (p *ports) Destroy() {}

// EnableMetrics implements portallocator.Interface.
func (p *ports) EnableMetrics() {}

// used returns the ports that services have.
func (p *ports) used() map[int]bool {
	used := map[int]bool{}
	for svc := range projections.List[*corev1.Service](p.engine.Live().Snapshot(), servicesOf, "") {
		for i := range svc.Spec.Ports {
			if n := svc.Spec.Ports[i].NodePort; n != 0 {
				used[int(n)] = true
			}
		}
		if n := svc.Spec.HealthCheckNodePort; n != 0 {
			used[int(n)] = true
		}
	}
	return used
}

func (p *ports) reserve(ctx context.Context, port int) error {
	last, expected, err := p.last(ctx, port)
	if err != nil {
		return err
	}
	if p.fresh(last) {
		return portallocator.ErrAllocated
	}
	err = p.append(ctx, port, NodePortReserved, expected)
	if errors.Is(err, eventstore.ErrWrongExpectedRevision) {
		return portallocator.ErrAllocated
	}
	return err
}

// fresh says whether a stream's last event still reserves its port.
func (p *ports) fresh(last *eventstore.Recorded) bool {
	return last != nil && last.Type == NodePortReserved && p.engine.Now().Sub(last.Created) < portGrace
}

func (p *ports) last(ctx context.Context, port int) (*eventstore.Recorded, eventstore.Expected, error) {
	opts := eventstore.ReadStream{Direction: eventstore.Backwards, FromEnd: true, Limit: 1}
	for rec, err := range p.engine.Log().ReadStream(ctx, portStream+strconv.Itoa(port), opts) {
		if errors.Is(err, eventstore.ErrStreamNotFound) {
			break
		}
		if err != nil {
			return nil, 0, fmt.Errorf("reading the reservation of node port %d: %w", port, err)
		}
		return &rec, eventstore.Exact(rec.Revision), nil
	}
	return nil, eventstore.NoStream, nil
}

func (p *ports) append(ctx context.Context, port int, word string, expected eventstore.Expected) error {
	evidence, err := json.Marshal(map[string]int{"port": port})
	if err != nil {
		return fmt.Errorf("encoding a reservation: %w", err)
	}
	ev := domain.Event{
		ID: uuid.NewString(), Type: word, Ref: domain.Ref{Resource: "services", Name: strconv.Itoa(port)},
		Actor: domain.Actor{User: "system:node-ports"}, Correlation: uuid.NewString(), Evidence: evidence,
		Time: p.engine.Now().UTC(), Version: domain.SchemaVersion,
	}
	if _, err := p.engine.AppendFact(ctx, portStream+strconv.Itoa(port), expected, ev); err != nil {
		return fmt.Errorf("reserving node port %d: %w", port, err)
	}
	return nil
}
