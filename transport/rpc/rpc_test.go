package rpc

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/api/helloworld"
	parleyv1 "github.com/parley-chat/parley/api/parley/v1"
	"github.com/parley-chat/parley/parleytest"
	"github.com/parley-chat/parley/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// world is a gateway on a loopback port in front of a fake cluster.
type world struct {
	*testing.T
	ctx     context.Context
	fake    *parleytest.Fake
	gateway *Gateway
	addr    string
	stop    func() // drains the gateway and waits for it
}

func newWorld(t *testing.T, cfg Config) *world { return newDraining(t, cfg, patience) }

// newDraining is newWorld with a time for the drain.
func newDraining(t *testing.T, cfg Config, drain time.Duration) *world {
	t.Helper()
	fake := parleytest.NewFake()
	t.Cleanup(fake.Close)
	if cfg.Service == nil {
		cfg.Service = fake
	}
	cfg.NodeID = "n1"
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	timeout, cancelTimeout := context.WithTimeout(t.Context(), 3*patience)
	t.Cleanup(cancelTimeout)
	w := &world{T: t, ctx: timeout, fake: fake, gateway: New(cfg), addr: ln.Addr().String()}
	done := make(chan error, 1)
	go func() { done <- transport.New(transport.Config{DrainTimeout: drain}).Serve(ctx, ln, w.gateway.Handle) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(2 * patience):
			t.Error("the gateway does not stop")
		}
		w.gateway.Close()
	})
	t.Cleanup(w.stop)
	return w
}

// dial returns a connection of a client.
func (w *world) dial(options ...grpc.DialOption) *grpc.ClientConn {
	w.Helper()
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))
	conn, err := grpc.NewClient("passthrough:///"+w.addr, options...)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { conn.Close() })
	return conn
}

func (w *world) chat() parleyv1.ChatServiceClient { return parleyv1.NewChatServiceClient(w.dial()) }
func (w *world) legacy() helloworld.ChatClient    { return helloworld.NewChatClient(w.dial()) }

// run runs a command at the service itself.
func (w *world) run(c parley.Command) parley.Result {
	w.Helper()
	r, err := parley.Do(w.Context(), w.fake, parley.Request{Command: c})
	if err = errors.Join(err, r.Err()); err != nil {
		w.Fatalf("%#v: %v", c, err)
	}
	return r
}

// unread returns the texts that user has not read.
func (w *world) unread(user string) []string {
	w.Helper()
	r, err := w.fake.Get(w.Context(), parley.Inbox{User: user})
	if err = errors.Join(err, r.Err()); err != nil {
		w.Fatal(err)
	}
	var texts []string
	for _, m := range r.Messages {
		texts = append(texts, m.Body)
	}
	return texts
}

func (w *world) wantUnread(user string, want ...string) {
	w.Helper()
	if got := w.unread(user); !slices.Equal(got, want) {
		w.Errorf("unread mail of %s: %q, want %q", user, got, want)
	}
}

// eventually polls until ok is true.
func (w *world) eventually(what string, ok func() bool) {
	w.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.Fatalf("never: %s", what)
		}
	}
}

// want checks an error's status and, unless it is "", its reason.
func (w *world) want(err error, code codes.Code, reason string) {
	w.Helper()
	if status.Code(err) != code || reason != "" && reasonOf(err) != reason {
		w.Errorf("got %v with reason %q, want %v with %q", err, reasonOf(err), code, reason)
	}
}

func TestConformance(t *testing.T) {
	parleytest.Run(t, func(t *testing.T) parley.Service {
		w := newWorld(t, Config{})
		return newAdapter(w.dial(grpc.WithDefaultCallOptions(carelessly())))
	})
}

func TestConformanceLimits(t *testing.T) {
	limits := parleytest.Limits{BodyBytes: 1000, MailboxMessages: 20, MailboxBytes: 5000, Users: 20, Sessions: 20}
	parleytest.RunLimits(t, limits, func(t *testing.T) parley.Service {
		w := newWorld(t, Config{})
		w.fake.SetLimits(limits)
		return newAdapter(w.dial())
	})
}
