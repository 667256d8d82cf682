package lab

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/node"
)

// Port is one process's end of the network: a member's, in which case it is a
// node.Network, or a client's. When the process dies, so do its connections.
type Port struct {
	net  *Net
	name string

	consumer chan raft.RPC
	crashed  chan string
	gone     chan struct{} // closed when the process has died
	dark     atomic.Bool   // the machine has lost its power: nothing that it has sent arrives any more
	leads    func(member string, term uint64)

	mu     sync.Mutex
	node   *node.Node // nil for clients, and before it is set
	conns  map[string]*conn
	writes chan struct{} // if somebody waits: closed when log entries come or go
}

var (
	_ node.Network     = (*Port)(nil)
	_ raft.Transport   = (*Port)(nil)
	_ raft.WithPreVote = (*Port)(nil)
)

var (
	errRefused = errors.New("connection refused")
	errReset   = errors.New("connection reset by peer")
	errTimeout = errors.New("i/o timeout")
)

// Listen makes the port of a process that starts on a host. leads is told who
// acts as a leader.
func (n *Net) Listen(host string, leads func(member string, term uint64)) *Port {
	p := &Port{
		net: n, name: host, leads: leads, consumer: make(chan raft.RPC), crashed: make(chan string, 64),
		gone: make(chan struct{}), conns: make(map[string]*conn),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports[host] = p
	return p
}

// Serve says which node answers here.
func (p *Port) Serve(n *node.Node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.node = n
}

func (p *Port) served() *node.Node {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.node
}

// Kill ends the process's connections. Nothing gets in or out any more.
func (p *Port) Kill() {
	p.net.mu.Lock()
	if p.net.ports[p.name] == p {
		delete(p.net.ports, p.name)
	}
	p.net.mu.Unlock()
	close(p.gone)
}

// nextWrite is closed when log entries come or go the next time.
func (p *Port) nextWrite() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.writes == nil {
		p.writes = make(chan struct{})
	}
	return p.writes
}

// wrote tells those who wait if a message has log entries.
func (p *Port) wrote(command any) {
	a, ok := command.(*raft.AppendEntriesRequest)
	if !ok || len(a.Entries) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.writes != nil {
		close(p.writes)
		p.writes = nil
	}
}

func (p *Port) dead() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

// TellCrash gives the hint that a member's process is dead.
func (p *Port) TellCrash(member string) {
	select {
	case p.crashed <- member:
	default:
	}
}

// Transport implements node.Network.
func (p *Port) Transport() raft.Transport { return p }

// Peer implements node.Network.
func (p *Port) Peer(name string) node.Peer { return peer{p, name} }

// Crashed implements node.Network.
func (p *Port) Crashed() <-chan string { return p.crashed }

// Learn implements node.Network. Names are addresses here.
func (p *Port) Learn(string, string) {}

// Consumer implements raft.Transport.
func (p *Port) Consumer() <-chan raft.RPC { return p.consumer }

// LocalAddr implements raft.Transport.
func (p *Port) LocalAddr() raft.ServerAddress { return raft.ServerAddress(p.name) }

// EncodePeer implements raft.Transport.
func (p *Port) EncodePeer(_ raft.ServerID, a raft.ServerAddress) []byte { return []byte(a) }

// DecodePeer implements raft.Transport.
func (p *Port) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler implements raft.Transport.
func (p *Port) SetHeartbeatHandler(func(raft.RPC)) {}

// AppendEntriesPipeline implements raft.Transport. The real one is used without
// pipelines, too.
func (p *Port) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// AppendEntries implements raft.Transport.
func (p *Port) AppendEntries(_ raft.ServerID, to raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	p.leads(p.name, args.Term)
	p.wrote(args)
	return rpc(p, to, func() raft.RPC {
		copied := *args
		copied.Entries = make([]*raft.Log, len(args.Entries))
		for i, e := range args.Entries {
			c := *e
			copied.Entries[i] = &c
		}
		return raft.RPC{Command: &copied}
	}, resp)
}

// RequestVote implements raft.Transport.
func (p *Port) RequestVote(_ raft.ServerID, to raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return rpc(p, to, copied(args), resp)
}

// RequestPreVote implements raft.WithPreVote.
func (p *Port) RequestPreVote(_ raft.ServerID, to raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return rpc(p, to, copied(args), resp)
}

// InstallSnapshot implements raft.Transport.
func (p *Port) InstallSnapshot(_ raft.ServerID, to raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	all, err := io.ReadAll(data)
	if err != nil {
		return err
	}
	p.net.count("snapshots")
	return rpc(p, to, func() raft.RPC {
		copied := *args
		return raft.RPC{Command: &copied, Reader: bytes.NewReader(all)}
	}, resp)
}

// TimeoutNow implements raft.Transport.
func (p *Port) TimeoutNow(_ raft.ServerID, to raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return rpc(p, to, copied(args), resp)
}

// copied makes copies of a message.
func copied[T any](args *T) func() raft.RPC {
	return func() raft.RPC {
		c := *args
		return raft.RPC{Command: &c}
	}
}

// rpc sends one of Raft's messages on a connection of its own and waits for the
// answer. One that is to be repeated arrives another time, like one whose sender
// has lost its connection and not known whether it had arrived; nobody waits for
// the other answer.
func rpc[T any](p *Port, to raft.ServerAddress, message func() raft.RPC, resp *T) error {
	answer := make(chan raft.RPCResponse, 1)
	broken := p.net.broken(p.name, string(to))
	go p.send(string(to), message(), answer)
	if after, again := p.net.repeats(p.name, string(to)); again {
		m := message()
		go func() {
			time.Sleep(after)
			p.send(string(to), m, make(chan raft.RPCResponse, 1))
		}()
	}
	limit := time.NewTimer(rpcBreaks)
	defer limit.Stop()
	select {
	case r := <-answer:
		if r.Error != nil {
			return r.Error
		}
		*resp = *r.Response.(*T)
		return nil
	case <-p.gone:
		return errReset
	case <-broken:
		return errReset
	case <-limit.C:
		return errTimeout
	}
}

// send carries a message to a member and the answer back.
func (p *Port) send(to string, rpc raft.RPC, answer chan<- raft.RPCResponse) {
	if p.net.carry(p.name, to) == lost || p.dark.Load() {
		return
	}
	q := p.net.port(to)
	if q == nil || p.dead() && q.name == p.name {
		answer <- raft.RPCResponse{Error: errRefused}
		return
	}
	back := make(chan raft.RPCResponse, 1)
	rpc.RespChan = back
	var r raft.RPCResponse
	select {
	case q.consumer <- rpc:
		q.wrote(rpc.Command)
		select {
		case r = <-back:
		case <-q.gone:
			r.Error = errReset
		}
	case <-q.gone:
		r.Error = errReset
	}
	if p.net.carry(to, p.name) != lost && !q.dark.Load() {
		answer <- r
	}
}

// peer is a node.Peer.
type peer struct {
	p  *Port
	to string
}

func (w peer) Start(ctx context.Context, r parley.Request, done func(parley.Result, error)) {
	c, err := w.p.dial(w.to)
	if err != nil {
		done(parley.Result{}, err)
		return
	}
	c.start(r, true, done)
}

func (w peer) Call(ctx context.Context, method string, body []byte) ([]byte, error) {
	c, err := w.p.dial(w.to)
	if err != nil {
		return nil, err
	}
	return ask(ctx, c, func(ctx context.Context) ([]byte, error) {
		return c.target().HandleCall(ctx, w.p.name, method, body)
	})
}
