package node

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/account"
	"github.com/parley-chat/parley/api/helloworld"
	parleyv1 "github.com/parley-chat/parley/api/parley/v1"
	"github.com/parley-chat/parley/mux"
	"github.com/parley-chat/parley/transport"
	"github.com/parley-chat/parley/transport/rpc"
	"github.com/parley-chat/parley/transport/tcp"
	"github.com/parley-chat/parley/wire"
)

// guarded is all that clients meet, put together as the program does: gateways, a
// guard and a node, which is the only one.
type guarded struct {
	addr  string
	guard *account.Guard
	reg   *prometheus.Registry
	token parley.Secret // ann's
	calls *grpc.ClientConn
}

func newGuarded(t testing.TB) *guarded {
	n := newCluster(t, 1, nil).leader()
	g := &guarded{reg: prometheus.NewRegistry()}
	g.guard = account.New(account.Config{Cluster: n, MaxDelay: time.Millisecond, Sends: 1000, Sessions: 100, Metrics: g.reg})
	must(t, g.guard.Admin(), parley.CreateUser{Name: "ann", Password: "ann's password"})
	must(t, g.guard.Admin(), parley.CreateUser{Name: "bob"})
	var hash parley.Hash
	g.token, hash = parley.NewToken("ann")
	must(t, g.guard.Admin(), parley.AddToken{User: "ann", Token: parley.Token{Hash: hash}})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.addr = ln.Addr().String()
	leader := func() (mux.Leader, <-chan struct{}) { return n.Leadership() }
	gateway := tcp.New(tcp.Config{
		Service: g.guard.Anybody(), Login: g.guard.Login, NodeID: "n1", Leadership: leader, CommandTimeout: patience, WriteTimeout: time.Second,
	})
	calls := rpc.New(rpc.Config{Service: g.guard.Anybody(), Login: g.guard.Login, NodeID: "n1", Metrics: g.reg, CommandTimeout: time.Second})
	sniff := &transport.Sniff{HTTP2: calls.Handle, Others: gateway.Handle, Timeout: time.Minute}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { transport.New(transport.Config{}).Serve(ctx, ln, sniff.Handle) }) //nolint:errcheck // the listener is ours
	g.calls, err = grpc.NewClient("passthrough:///"+g.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.calls.Close()
		cancel()
		wg.Wait()
		calls.Close()
	})
	return g
}

// well looks whether the node still answers, has met no panic, and has no call under
// way that its client has given up.
func (g *guarded) well(t *testing.T) {
	t.Helper()
	if _, err := g.guard.Admin().Get(deadline(t, patience), parley.Users{}); err != nil {
		t.Fatal("the node does not answer any more:", err)
	}
	value := func(name string) (v float64) {
		families, err := g.reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == name {
				v += f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
			}
		}
		return v
	}
	if value("parley_rpc_panics_total") != 0 {
		t.Fatal("a call has ended by a panic")
	}
	eventually(t, patience, "the end of all calls", func() bool { return value("parley_rpc_calls_open") == 0 })
}

// dice makes choices of bytes; when they are used up, the first of all.
type dice struct {
	b []byte
	g *guarded
}

func (d *dice) roll(n int) int {
	if len(d.b) == 0 {
		return 0
	}
	v := int(d.b[0]) % n
	d.b = d.b[1:]
	return v
}

func pick[T any](d *dice, all ...T) T { return all[d.roll(len(all))] }

func (d *dice) number() uint64 {
	const top = ^uint64(0)
	switch d.roll(4) {
	case 0:
		return uint64(d.roll(8))
	case 1:
		return top - uint64(d.roll(6))
	case 2: // likely a session, or an incarnation
		return uint64(d.roll(64))<<16 | uint64(d.roll(3))
	}
	return pick[uint64](d, 1<<31-1, 1<<31, 1<<32-1, 1<<32, 1<<63-1, 1<<63, 4096, 4097, 1<<53)
}

func (d *dice) text() string {
	switch d.roll(3) {
	case 0:
		return pick(d, "ann", "bob", "eve", "ANN", "", "Zoë")
	case 1:
		return pick(d, "ann's password", "other password", string(d.g.token), "1", "MWFubg", "0000000000000000", "ann,ann's password", "list", "connect ann", "send bob x", "create eve")
	}
	return pick(d, " ", ",", "\x00", "\xff", "\uff0c", "a\nb", "ı", "ǰ", "\u202e\u05d0", strings.Repeat("n", 65), strings.Repeat("x", 70000), "(", "^B", "(a{1000}){1000}",
		"(?i)^ann$", `\pL{999}`, "^ǰ", string(d.b[:min(len(d.b), 5)]), d.g.addr)
}

func (d *dice) cursor() parley.Cursor {
	return parley.Cursor{Incarnation: parley.Incarnation(d.number()), ID: parley.MessageID(d.number())}
}

func (d *dice) secret() parley.Secret { return parley.Secret(d.text()) }

func (d *dice) command() parley.Command {
	expires := time.Unix(0, int64(d.number()>>1))
	switch d.roll(16) {
	case 0:
		return parley.Send{From: d.text(), To: d.text(), Body: d.text()}
	case 1:
		return parley.Ack{User: d.text(), UpTo: d.cursor()}
	case 2:
		return parley.CreateUser{Name: d.text()}
	case 3:
		return parley.DeleteUser{Name: pick(d, "eve", "", "bob", d.text())}
	case 4:
		return parley.OpenSession{}
	case 5:
		return parley.CloseSession{Session: parley.SessionID(d.number())}
	case 6:
		return parley.CreateUser{Name: d.text(), Password: d.secret(), Invite: d.secret()}
	case 7:
		return parley.SetPassword{User: d.text(), Current: d.secret(), New: d.secret()}
	case 8:
		return parley.AddToken{User: d.text(), Token: parley.Token{Scope: parley.Scope(d.number()), Label: d.text(), Expires: expires}}
	case 9:
		return parley.RevokeToken{User: d.text(), ID: parley.TokenID(d.number())}
	case 10:
		return parley.SetPolicy{Policy: parley.Policy{Auth: parley.AuthMode(d.number()), Tokens: uint32(d.number())}}
	case 11:
		return parley.AddInvite{Invite: parley.Invite{Uses: uint32(d.number()), Expires: expires}}
	case 12:
		return parley.RevokeInvite{ID: parley.TokenID(d.number())}
	case 13:
		return parley.StoreUser{Name: d.text(), Verifier: d.text()}
	case 14:
		return parley.StorePassword{User: d.text(), Verifier: d.text(), Was: d.number(), Rehash: d.roll(2) == 1}
	}
	return parley.Send{From: "bob", To: "ann", Body: "hello"}
}

func (d *dice) query() parley.Query {
	switch d.roll(6) {
	case 0:
		return parley.Inbox{User: d.text(), After: d.cursor(), Limit: int(d.number())}
	case 1:
		return parley.Users{Pattern: d.text(), After: d.text(), Limit: int(d.number())}
	case 2:
		return parley.Status{}
	case 3:
		return parley.GetPolicy{}
	case 4:
		return parley.Tokens{User: d.text()}
	}
	return parley.Invites{After: parley.TokenID(d.number())}
}

func (d *dice) frame() *wire.Frame {
	f := &wire.Frame{ID: pick(d, 1, 2, 3, 4, d.number()|1)}
	switch d.roll(9) {
	case 0, 1:
		f.Kind, f.Request = wire.KindDo, parley.Request{Session: parley.SessionID(d.number()), Seq: d.number(), Answered: d.number(), Command: d.command()}
		if d.roll(3) > 0 {
			f.Request.Session, f.Request.Seq, f.Request.Answered = 0, 0, 0
		}
		if d.roll(4) == 1 {
			f.Request.As = &parley.Actor{User: d.text(), Incarnation: d.cursor().Incarnation, Admin: d.roll(2) == 1}
		}
	case 2:
		f.Kind, f.Query = wire.KindGet, d.query()
	case 3:
		f.Kind, f.User, f.After, f.Credit = wire.KindWatch, d.text(), d.cursor(), d.number()
		if d.roll(2) == 1 {
			f.After = parley.Cursor{}
		}
	case 4:
		f.Kind, f.Credit = wire.KindCredit, d.number()
	case 5:
		f.Kind = wire.KindCancel
	case 6:
		f.Kind, f.Method, f.Body = wire.KindCall, pick(d, "identify", "join", "remove", ""), []byte(d.text())
	case 7:
		f.Kind, f.Login = wire.KindLogin, parley.Credentials{User: d.text(), Password: d.secret(), Token: d.secret()}
		if d.roll(2) == 1 {
			f.Login = parley.Credentials{Token: d.g.token}
		}
	case 8:
		f.Kind, f.Err = pick(d, wire.KindPing, wire.KindPong, wire.KindPing, wire.KindPong, wire.Kind(d.number())), &parley.Error{}
	}
	return f
}

// stream is what a framed or a classic client sends.
func (d *dice) stream(framed bool) (out []byte) {
	if !framed {
		for len(d.b) > 0 {
			out = wire.AppendClassic(out, pick(d, "send", "connect", "create", "delete", "list", "hello", "x"), pick(d, "", d.text()+",")+d.text())
		}
		return out
	}
	out = wire.AppendHello(out, wire.Hello{Mode: pick(d, wire.ModeAny, wire.ModeLeader)})
	for len(d.b) > 0 {
		if b, err := wire.AppendFrame(out, d.frame()); err == nil {
			out = b
		}
	}
	return out
}

// speak sends what a client of the wire protocols does, and reads until the node has
// answered all of it.
func (g *guarded) speak(t *testing.T, out []byte) {
	nc, err := net.Dial("tcp", g.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(patience))
	go func() {
		nc.Write(out) //nolint:errcheck // the node may have had enough
		nc.(*net.TCPConn).CloseWrite()
	}()
	if _, err := io.Copy(io.Discard, nc); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Fatal("the node does not end the conversation")
	}
}

// raw sends and receives messages as they are on the wire.
type raw struct{}

func (raw) Name() string { return "proto" }
func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}
func (raw) Unmarshal(b mem.BufferSlice, v any) error {
	*v.(*[]byte) = b.Materialize()
	return nil
}

var _ encoding.CodecV2 = raw{}

// message is a message of a kind, on the wire.
func (d *dice) message(m protoreflect.MessageDescriptor) (b []byte) {
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		switch {
		case d.roll(5) == 4: // is not there
		case f.Kind() == protoreflect.StringKind:
			b = protowire.AppendString(protowire.AppendTag(b, f.Number(), protowire.BytesType), d.text())
		case f.Kind() == protoreflect.MessageKind:
			b = protowire.AppendBytes(protowire.AppendTag(b, f.Number(), protowire.BytesType), d.message(f.Message()))
		default:
			b = protowire.AppendVarint(protowire.AppendTag(b, f.Number(), protowire.VarintType), d.number())
		}
	}
	return b
}

// call makes a call.
func (d *dice) call() func(context.Context, *grpc.ClientConn) {
	services := []protoreflect.ServiceDescriptor{
		parleyv1.File_parley_v1_chat_proto.Services().Get(0), parleyv1.File_parley_v1_chat_proto.Services().Get(0), helloworld.File_helloworld_helloworld_proto.Services().Get(0),
	}
	s := pick(d, services...)
	m := s.Methods().Get(d.roll(s.Methods().Len()))
	in := d.message(m.Input())
	md := pick(d, nil, nil, metadata.Pairs("authorization", "Bearer "+string(d.g.token)), metadata.Pairs("authorization", "Basic "+pick(d, "Ym9iOg==", "Og==", "OmE=")))
	return func(ctx context.Context, conn *grpc.ClientConn) {
		out, err := conn.NewStream(metadata.NewOutgoingContext(ctx, md), &grpc.StreamDesc{ServerStreams: true}, fmt.Sprintf("/%s/%s", s.FullName(), m.Name()), grpc.ForceCodecV2(raw{}))
		if err != nil {
			return
		}
		if out.SendMsg(&in) == nil && out.CloseSend() == nil {
			for b := []byte(nil); err == nil; {
				err = out.RecvMsg(&b)
			}
		}
	}
}

// FuzzGuarded: whatever clients say, in whatever protocol, the node goes on.
func FuzzGuarded(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x03\x00\x04\x00\x00\x00\x00\x00\x01\x01")) // a watch of nobody's mailbox
	random := rand.New(rand.NewPCG(1, 2))
	for protocol := range 3 {
		in := make([]byte, 300)
		for i := range in {
			in[i] = byte(random.Uint32())
		}
		in[2] = byte(protocol)
		f.Add(in)
	}
	g := newGuarded(f)
	f.Fuzz(g.play)
}

// play lets clients say what the bytes make of it, and looks how the node is then.
func (g *guarded) play(t *testing.T, in []byte) {
	d := &dice{b: in[:min(len(in), 400)], g: g}
	policy := parley.Policy{Auth: pick(d, parley.AuthOpen, parley.AuthOpen, parley.AuthRequired), Registration: pick(d, parley.RegistrationOpen, parley.RegistrationInvite)}
	must(t, g.guard.Admin(), parley.SetPolicy{Policy: policy})
	switch protocol := d.roll(3); protocol {
	case 2:
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		for len(d.b) > 0 {
			call := d.call()
			wg.Go(func() { call(ctx, g.calls) })
		}
		wg.Wait()
	default:
		g.speak(t, d.stream(protocol == 0))
	}
	g.well(t)
}
