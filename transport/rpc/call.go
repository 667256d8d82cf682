package rpc

import (
	"context"
	"runtime/debug"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/fair"
)

// call is what the gateway keeps about a call. Only the call's own goroutine
// uses it once the call's handler has begun.
type call struct {
	method string
	caller *caller // who makes it
	cancel context.CancelCauseFunc
	limit  *time.Timer // ends the call
	// after is called once the outcome has been handed to the transport, with
	// whether that was a response; nil: nobody need know.
	after func(ctx context.Context, responded bool)
}

// longest is how long a call may take whatever its deadline, a watch excepted.
const longest = time.Minute

type callKey struct{}

// callOf returns the call that ctx is the context of.
func callOf(ctx context.Context) *call {
	c, ok := ctx.Value(callKey{}).(*call)
	if !ok { // as there is no way around begin
		panic("rpc: a call without a beginning")
	}
	return c
}

// begin is the server's tap: it sees a call before anything is read of its
// message, and limits the time that the message, and a unary call as a whole,
// may take. It must not block.
func (g *Gateway) begin(ctx context.Context, info *tap.Info) (context.Context, error) {
	limit := g.cfg.CommandTimeout
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(time.Until(deadline), longest) + time.Second // the deadline comes first
	}
	c := &call{method: info.FullMethodName}
	ctx, c.cancel = context.WithCancelCause(ctx) // its parent is ended by the server
	c.limit = time.AfterFunc(limit, func() { c.cancel(errPatience) })
	return context.WithValue(ctx, callKey{}, c), nil
}

// unary is the interceptor of all unary calls.
func (g *Gateway) unary(ctx context.Context, in any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (out any, err error) {
	c := callOf(ctx)
	defer c.limit.Stop()
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, g.panicked(c, p)
		}
		grpc.SetTrailer(ctx, g.trailer(err)) // fails only if the call has ended
	}()
	if err := g.identify(ctx, c); err != nil {
		return nil, err
	}
	return handle(ctx, in)
}

// stream is the interceptor of all streams. They have no limit in time once the
// request has come.
func (g *Gateway) stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	c := callOf(ss.Context())
	stop := context.AfterFunc(g.draining, func() { c.cancel(errDraining) })
	defer stop()
	defer c.limit.Stop()
	defer func() {
		if p := recover(); p != nil {
			err = g.panicked(c, p)
		}
		ss.SetTrailer(g.trailer(err))
	}()
	if err := g.identify(ss.Context(), c); err != nil {
		return err
	}
	return handle(srv, requested{ss, c})
}

// requested is a stream whose limit in time ends with the first message.
type requested struct {
	grpc.ServerStream
	call *call
}

func (r requested) RecvMsg(m any) error {
	err := r.ServerStream.RecvMsg(m)
	if err == nil {
		r.call.limit.Stop()
	}
	return err
}

// panicked makes an error of a panic, which costs its call, not the node.
func (g *Gateway) panicked(c *call, p any) error {
	g.metrics.panics.Inc()
	g.log.Error("panic while serving a gRPC call", "method", c.method, "panic", p, "stack", string(debug.Stack()))
	return status.Error(codes.Internal, "the node has met a bug; its log says more")
}

// trailer is what every call ends with.
func (g *Gateway) trailer(err error) metadata.MD {
	md := metadata.Pairs("parley-node", g.cfg.NodeID)
	if reason := reasonOf(err); reason != "" {
		md.Append("parley-reason", reason)
	}
	if g.cfg.Leadership == nil {
		return md
	}
	switch leader, _ := g.cfg.Leadership(); {
	case leader.ID == "":
	case leader.Client == "":
		md.Append("parley-leader", leader.ID)
	default:
		md.Append("parley-leader", leader.ID)
		md.Append("parley-leader-address", leader.Client)
	}
	return md
}

type flowKey struct{}

// flow is what there is to know about a connection's demands.
type flow struct {
	fair.Flow
	under atomic.Int32 // calls that wait for their turn or have it
	ended atomic.Int64 // the last of them, nanoseconds since 1970
}

// flowOf is that of the connection that a call came on.
func flowOf(ctx context.Context) *flow {
	if f, ok := ctx.Value(flowKey{}).(*flow); ok {
		return f
	}
	return new(flow)
}

// begin takes note of a call, and reports whether it came with another one or
// right behind it.
func (f *flow) begin() (backlog bool) {
	return f.under.Add(1) > 1 || time.Now().UnixNano()-f.ended.Load() < int64(fair.Idle)
}

func (f *flow) end() {
	f.ended.Store(time.Now().UnixNano())
	f.under.Add(-1)
}

// turn waits until a call may ask something. The error is a status.
func (g *Gateway) turn(ctx context.Context) error {
	f := flowOf(ctx)
	defer f.end()
	if err := g.cfg.Gate.Turn(ctx, &f.Flow, f.begin()); err != nil {
		return waited(ctx, err)
	}
	return nil
}

// waited is the status of a call that was given up before it was its turn.
func waited(ctx context.Context, err error) error {
	return failure(ctx, parley.Errorf(parley.CodeOverloaded, "given up while it waited for its turn: %v", err))
}

// follower is told by the server how calls fare.
type follower struct{ g *Gateway }

func (f follower) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// TagConn gives a connection its place to be remembered.
func (f follower) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	ctx = context.WithValue(ctx, connectionKey{}, &connection{})
	return context.WithValue(ctx, flowKey{}, new(flow))
}
func (f follower) HandleConn(context.Context, stats.ConnStats) {}

// HandleRPC is called with the end of a call on the goroutine of its handler,
// behind everything else.
func (f follower) HandleRPC(ctx context.Context, s stats.RPCStats) {
	switch s := s.(type) {
	case *stats.Begin:
		f.g.metrics.open.Inc()
	case *stats.End:
		c := callOf(ctx)
		f.g.metrics.open.Dec()
		f.g.metrics.calls.WithLabelValues(c.method, status.Code(s.Error).String()).Inc()
		if c.after != nil {
			c.after(ctx, s.Error == nil)
		}
	}
}
