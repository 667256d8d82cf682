package node

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
)

// fabric connects the members of a cluster in memory. Links are cut and healed
// by name; what is under way on a link that is cut fails.
type fabric struct {
	mu    sync.Mutex
	ports map[string]*port
	cut   map[[2]string]bool
}

// port is one member's Network.
type port struct {
	f       *fabric
	name    string
	trans   *raft.InmemTransport
	crashed chan string

	node *Node // guarded by f.mu; nil: not running
}

// unpiped is a transport without pipelines, as the real one is used.
type unpiped struct{ *raft.InmemTransport }

func (unpiped) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

func newFabric() *fabric {
	return &fabric{ports: make(map[string]*port), cut: make(map[[2]string]bool)}
}

// port makes the network of a member that starts.
func (f *fabric) port(name string) *port {
	_, trans := raft.NewInmemTransportWithTimeout(raft.ServerAddress(name), 300*time.Millisecond)
	p := &port{f: f, name: name, trans: trans, crashed: make(chan string, 8)}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ports[name] = p
	f.wire()
	return p
}

// wire makes the transports agree with ports and cut. mu is held.
func (f *fabric) wire() {
	for a, p := range f.ports {
		for b, q := range f.ports {
			if a == b {
				continue
			}
			if f.up(a, b) {
				p.trans.Connect(raft.ServerAddress(b), q.trans)
			} else {
				p.trans.Disconnect(raft.ServerAddress(b))
			}
		}
	}
}

func (f *fabric) up(a, b string) bool {
	return !f.cut[[2]string{a, b}] && !f.cut[[2]string{b, a}] && f.ports[a].node != nil && f.ports[b].node != nil
}

func (f *fabric) setNode(name string, n *Node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ports[name].node = n
	f.wire()
}

// isolate cuts or heals all links of a member.
func (f *fabric) isolate(name string, cut bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for other := range f.ports {
		f.cut[[2]string{name, other}] = cut
		f.cut[[2]string{other, name}] = cut
	}
	f.wire()
}

// heal mends the link between two members.
func (f *fabric) heal(a, b string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.cut, [2]string{a, b})
	delete(f.cut, [2]string{b, a})
	f.wire()
}

// tellCrash does what the real network does when a member's port refuses.
func (f *fabric) tellCrash(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for other, p := range f.ports {
		if other != name {
			select {
			case p.crashed <- name:
			default:
			}
		}
	}
}

func (p *port) Transport() raft.Transport { return unpiped{p.trans} }
func (p *port) Crashed() <-chan string    { return p.crashed }
func (p *port) Learn(string, string)      {}
func (p *port) Peer(name string) Peer     { return wirePeer{p.f, p.name, name} }

// wirePeer is the link from one member to another.
type wirePeer struct {
	f        *fabric
	from, to string
}

func (w wirePeer) target() (*Node, bool) {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	if w.f.ports[w.to] == nil || !w.f.up(w.from, w.to) {
		return nil, false
	}
	return w.f.ports[w.to].node, true
}

func (w wirePeer) Start(ctx context.Context, r parley.Request, done func(parley.Result, error)) {
	n, ok := w.target()
	if !ok {
		done(parley.Result{}, parley.Errorf(parley.CodeInterrupted, "no link to %s", w.to))
		return
	}
	n.Local().Start(ctx, r, func(r parley.Result, err error) {
		if _, ok := w.target(); !ok {
			r, err = parley.Result{}, parley.Errorf(parley.CodeInterrupted, "link to %s cut", w.to)
		}
		done(r, err)
	})
}

func (w wirePeer) Call(ctx context.Context, method string, body []byte) ([]byte, error) {
	n, ok := w.target()
	if !ok {
		return nil, parley.Errorf(parley.CodeInterrupted, "no link to %s", w.to)
	}
	b, err := n.HandleCall(ctx, w.from, method, body)
	if _, ok := w.target(); !ok {
		return nil, parley.Errorf(parley.CodeInterrupted, "link to %s cut", w.to)
	}
	return b, err
}

var _ Network = (*port)(nil)

// eventually polls until ok, or fails the test.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
