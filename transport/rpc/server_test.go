package rpc

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"iter"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"

	"github.com/parley-chat/parley"
	parleyv1 "github.com/parley-chat/parley/api/parley/v1"
	"github.com/parley-chat/parley/certs"
	"github.com/parley-chat/parley/parleytest"
	"github.com/parley-chat/parley/transport"
)

// bomb is a service with a bug.
type bomb struct{ parley.Service }

func (bomb) Get(context.Context, parley.Query) (parley.Result, error) { panic("planted") }

func (bomb) Watch(context.Context, string, parley.Cursor) iter.Seq2[parley.Message, error] {
	panic("planted")
}

// TestPanic: a panic costs its call, not the node and not the connection.
func TestPanic(t *testing.T) {
	reg := prometheus.NewRegistry()
	fake := parleytest.NewFake()
	defer fake.Close()
	w := newWorld(t, Config{Service: bomb{fake}, Metrics: reg})
	chat := w.chat()
	for range 2 {
		_, err := chat.ListUsers(w.ctx, &parleyv1.ListUsersRequest{})
		w.want(err, codes.Internal, "")
		watch, err := chat.Watch(w.ctx, &parleyv1.WatchRequest{})
		if err == nil {
			_, err = watch.Recv()
		}
		w.want(err, codes.Internal, "")
	}
	if _, err := chat.OpenSession(w.ctx, &parleyv1.OpenSessionRequest{}); err != nil {
		t.Error(err)
	}
	w.stop()
	want := map[string]float64{"parley_rpc_panics_total": 4, "parley_rpc_connections_total": 1, "parley_rpc_calls_open": 0}
	for name, value := range want {
		if got := metric(t, reg, name); got != value {
			t.Errorf("%s is %v, want %v", name, got, value)
		}
	}
	if got := metric(t, reg, "parley_rpc_calls_total"); got != 5 {
		t.Errorf("%v calls counted, want 5", got)
	}
}

// metric returns the sum of a metric's values.
func metric(t *testing.T, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// TestDrain: what is under way is finished, watches are told, nothing new begins.
func TestDrain(t *testing.T) {
	w := newWorld(t, Config{})
	w.run(parley.CreateUser{Name: "ann"})
	chat := w.chat()
	watch, err := chat.Watch(w.ctx, &parleyv1.WatchRequest{User: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	health, err := healthpb.NewHealthClient(w.dial()).Watch(w.ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	reflection, err := reflectionpb.NewServerReflectionClient(w.dial()).ServerReflectionInfo(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := reflection.Send(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	if _, err := reflection.Recv(); err != nil { // and then it stays open
		t.Fatal(err)
	}
	hold := make(chan struct{})
	started := make(chan struct{}, 1)
	w.fake.OnStart(func(r parley.Request) (f parleytest.Fault) {
		if _, ok := r.Command.(parley.Send); ok {
			f.Hold = hold
			started <- struct{}{}
		}
		return f
	})
	sent := make(chan error, 1)
	go func() {
		_, err := chat.Send(w.ctx, &parleyv1.SendRequest{To: "ann", Body: "x"})
		sent <- err
	}()
	<-started
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		w.stop()
	}()
	for err == nil {
		_, err = watch.Recv()
	}
	w.want(err, codes.Unavailable, "SHUTTING_DOWN")
	for err = nil; err == nil; {
		_, err = health.Recv()
	}
	_, err = reflection.Recv()
	if err == nil {
		t.Error("the reflection goes on")
	}
	select {
	case <-stopped:
		t.Error("the gateway did not wait")
	default:
	}
	close(hold)
	if err := <-sent; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	<-stopped
}

// TestDrainByForce: a client that does not come to an end does not hold up the node.
func TestDrainByForce(t *testing.T) {
	w := newDraining(t, Config{CommandTimeout: time.Minute}, 50*time.Millisecond)
	stream, err := w.dial().NewStream(w.ctx, &grpc.StreamDesc{}, parleyv1.ChatService_Send_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	nc, err := net.Dial("tcp", w.addr) // in the middle of its preface
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	io.WriteString(nc, "PRI * HTTP/2.0\r\n")
	w.stop() // fails if it takes long
	if err := stream.RecvMsg(&parleyv1.SendResponse{}); err == nil {
		t.Error("the call is answered")
	}
}

// TestUnfinishedRequests: a client that does not finish its request does not keep it.
func TestUnfinishedRequests(t *testing.T) {
	w := newWorld(t, Config{CommandTimeout: 50 * time.Millisecond, HandshakeTimeout: 2 * time.Second})
	conn := w.dial()
	for _, method := range []string{parleyv1.ChatService_Send_FullMethodName, parleyv1.ChatService_Watch_FullMethodName, healthpb.Health_Watch_FullMethodName} {
		desc := &grpc.StreamDesc{ServerStreams: strings.HasSuffix(method, "Watch")}
		stream, err := conn.NewStream(t.Context(), desc, method)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(&parleyv1.SendResponse{}); err == nil {
			t.Errorf("%s: answered", method)
		}
	}
	nc, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(patience))
	io.WriteString(nc, "PRI * HTTP/2.0\r\n\r\n")
	if _, err := io.Copy(io.Discard, nc); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Errorf("the connection stays: %v", err)
	}
}

// TestMaxStreams: no more calls than allowed are under way on a connection.
func TestMaxStreams(t *testing.T) {
	w := newWorld(t, Config{MaxStreams: 4})
	w.run(parley.CreateUser{Name: "ann"})
	chat := w.chat()
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	var watches atomic.Int32
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			watch, err := chat.Watch(ctx, &parleyv1.WatchRequest{User: "ann"})
			if err != nil {
				return
			}
			if _, err := watch.Header(); err == nil {
				watches.Add(1)
			}
			watch.Recv()
		})
	}
	w.eventually("four watches are there", func() bool { return w.fake.Watches() == 4 })
	if _, err := w.chat().ListUsers(w.ctx, &parleyv1.ListUsersRequest{}); err != nil { // on a connection of its own
		t.Error(err)
	}
	if n := watches.Load(); n > 4 {
		t.Errorf("%d watches", n)
	}
	cancel()
	calls.Wait()
}

// TestHealth: a node is healthy while it knows who leads.
func TestHealth(t *testing.T) {
	var mu sync.Mutex
	leader, changed := Leader{}, make(chan struct{})
	w := newWorld(t, Config{Leadership: func() (Leader, <-chan struct{}) {
		mu.Lock()
		defer mu.Unlock()
		return leader, changed
	}})
	client := healthpb.NewHealthClient(w.dial())
	for _, step := range []struct {
		leader string
		want   healthpb.HealthCheckResponse_ServingStatus
	}{{"", healthpb.HealthCheckResponse_NOT_SERVING}, {"n2", healthpb.HealthCheckResponse_SERVING}, {"", healthpb.HealthCheckResponse_NOT_SERVING}} {
		mu.Lock()
		leader.ID = step.leader
		close(changed)
		changed = make(chan struct{})
		mu.Unlock()
		for _, service := range []string{"", "parley.v1.ChatService", "helloworld.Chat"} {
			w.eventually(fmt.Sprintf("%q is %v", service, step.want), func() bool {
				out, err := client.Check(w.ctx, &healthpb.HealthCheckRequest{Service: service})
				return err == nil && out.GetStatus() == step.want
			})
		}
	}
}

// TestTLS: the way to the gateway as in a node, with TLS.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	if err := certs.Init(dir); err != nil {
		t.Fatal(err)
	}
	if err := certs.Issue(dir, "n1", "127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	files, err := certs.Load(dir, "n1")
	if err != nil {
		t.Fatal(err)
	}
	source, err := certs.NewSource(files, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := source.Server()
	cfg.NextProtos = []string{"h2"}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fake := parleytest.NewFake()
	t.Cleanup(fake.Close)
	g := New(Config{Service: fake, NodeID: "n1"})
	sniff := &transport.Sniff{HTTP2: g.Handle, Others: func(context.Context, net.Conn) { t.Error("taken for another protocol") }, Timeout: patience}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- transport.New(transport.Config{}).Serve(ctx, tls.NewListener(ln, cfg), sniff.Handle) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		g.Close()
	})
	client, err := certs.ClientConfig(files.CA)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+ln.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(client)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	out, err := parleyv1.NewChatServiceClient(conn).ClusterStatus(t.Context(), &parleyv1.ClusterStatusRequest{})
	if err != nil || out.GetNode() != "n1" || len(out.GetMembers()) != 1 {
		t.Errorf("%v, %v", out, err)
	}
}

// TestLanesAreBounded: sessions that nobody has heard of leave little behind.
func TestLanesAreBounded(t *testing.T) {
	w := newWorld(t, Config{})
	chat := w.chat()
	for i := range maxLanes + 100 {
		once := &parleyv1.Once{SessionId: uint64(i + 1e9), Sequence: 1}
		_, err := chat.Send(w.ctx, &parleyv1.SendRequest{To: "ann", Once: once})
		w.want(err, codes.FailedPrecondition, "SESSION_EXPIRED")
	}
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Millisecond)
	defer cancel()
	once := &parleyv1.Once{SessionId: 1e9 + maxLanes, Sequence: 1 << 40}
	_, err := chat.Send(ctx, &parleyv1.SendRequest{To: "ann", Once: once})
	if err == nil {
		t.Error("answered")
	}
	w.stop()
	l := &w.gateway.lanes
	if len(l.all) > maxLanes {
		t.Errorf("%d lanes", len(l.all))
	}
	for id, ln := range l.all {
		if ln.users != 0 || len(ln.here) != 0 || len(ln.turns) != 0 {
			t.Fatalf("session %d: %+v", id, ln)
		}
	}
}

// FuzzLax: the second decoder reads what the first one reads, and what it makes
// of the rest is no worse than an error.
func FuzzLax(f *testing.F) {
	for _, m := range []proto.Message{
		&parleyv1.SendRequest{From: "a", To: "b", Body: "c", Once: &parleyv1.Once{SessionId: 1, Sequence: 2, Answered: 1}},
		&parleyv1.InboxResponse{Messages: []*parleyv1.Message{{Body: "x"}}, Cursor: &parleyv1.Cursor{MessageId: 3}},
		&parleyv1.ListUsersResponse{Names: []string{"a", "b"}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("\x0a\x02\xff\xfe"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range []proto.Message{&parleyv1.SendRequest{}, &parleyv1.InboxResponse{}, &parleyv1.ListUsersResponse{}} {
			want := proto.Clone(m)
			strict := proto.Unmarshal(b, want)
			if err := lax(b, m.ProtoReflect(), maxDepth); strict == nil && (err != nil || !proto.Equal(m, want)) {
				t.Errorf("%T: got %v, %v, want %v", m, m, err, want)
			}
		}
	})
}
