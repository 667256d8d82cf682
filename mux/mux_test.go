package mux

import (
	"bufio"
	"context"
	"iter"
	"net"
	"sync"
	"testing"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/wire"
)

// fake is a service made of functions. Those that are nil answer at once.
type fake struct {
	start func(ctx context.Context, r parley.Request, done func(parley.Result, error))
	get   func(ctx context.Context, q parley.Query) (parley.Result, error)
	watch func(ctx context.Context, user string, after parley.Cursor) iter.Seq2[parley.Message, error]
}

var _ parley.Service = (*fake)(nil)

func (f *fake) Start(ctx context.Context, r parley.Request, done func(parley.Result, error)) {
	if f.start == nil {
		done(parley.Result{Message: parley.MessageID(r.Seq)}, nil)
		return
	}
	f.start(ctx, r, done)
}

func (f *fake) Get(ctx context.Context, q parley.Query) (parley.Result, error) {
	if f.get == nil {
		return parley.Result{Names: []string{"ann"}}, nil
	}
	return f.get(ctx, q)
}

func (f *fake) Watch(ctx context.Context, user string, after parley.Cursor) iter.Seq2[parley.Message, error] {
	if f.watch == nil {
		return func(yield func(parley.Message, error) bool) {
			<-ctx.Done()
			yield(parley.Message{}, context.Cause(ctx))
		}
	}
	return f.watch(ctx, user, after)
}

// shelf is a service that keeps the commands it is given until told to answer.
type shelf struct {
	fake
	mu   sync.Mutex
	kept []func(parley.Result, error)
	seen []parley.Request
}

func newShelf() *shelf {
	s := &shelf{}
	s.start = func(_ context.Context, r parley.Request, done func(parley.Result, error)) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.kept = append(s.kept, done)
		s.seen = append(s.seen, r)
	}
	return s
}

func (s *shelf) started() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen)
}

// answer answers all kept commands but the last n.
func (s *shelf) answer(but int) {
	s.mu.Lock()
	n := len(s.kept) - but
	answer := s.kept[:n]
	s.kept = s.kept[n:]
	s.mu.Unlock()
	for _, done := range answer {
		done(parley.Result{}, nil)
	}
}

// flood yields messages without end.
func flood(body string, yielded func(n int)) func(context.Context, string, parley.Cursor) iter.Seq2[parley.Message, error] {
	return func(ctx context.Context, _ string, after parley.Cursor) iter.Seq2[parley.Message, error] {
		return func(yield func(parley.Message, error) bool) {
			for n := 1; ctx.Err() == nil; n++ {
				yielded(n)
				cur := parley.Cursor{Incarnation: 1, ID: after.ID + parley.MessageID(n)}
				if !yield(parley.Message{Cursor: cur, Body: body}, nil) {
					return
				}
			}
			yield(parley.Message{}, context.Cause(ctx))
		}
	}
}

// ends are both ends of a connection.
type ends struct {
	*Conn
	stop  context.CancelFunc // drains the server
	serve <-chan error       // what Serve returned
}

// connect connects a client to svc by a pipe without any buffer.
func connect(t testing.TB, svc parley.Service, sc ServerConfig, cc ConnConfig) ends {
	near, far := net.Pipe()
	stop, serve := serving(t, far, svc, sc)
	c := NewConn(near, bufio.NewReader(near), cc)
	t.Cleanup(func() { c.Close() }) //nolint:errcheck // always nil
	return ends{c, stop, serve}
}

// serving serves a connection until the end of the test.
func serving(t testing.TB, nc net.Conn, svc parley.Service, cfg ServerConfig) (context.CancelFunc, <-chan error) {
	cfg.Service = svc
	ctx, stop := context.WithCancel(context.Background())
	ended, serve := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(ended)
		serve <- Serve(ctx, nc, reader(nc), cfg)
	}()
	t.Cleanup(func() {
		nc.Close() //nolint:errcheck // perhaps once more
		<-ended
		stop()
	})
	return stop, serve
}

// raw is a client that says what it likes.
type raw struct {
	t  testing.TB
	nc net.Conn
	in *wire.FrameReader
}

func connectRaw(t testing.TB, svc parley.Service, cfg ServerConfig) (*raw, <-chan error) {
	near, far := net.Pipe()
	_, serve := serving(t, far, svc, cfg)
	t.Cleanup(func() { near.Close() }) //nolint:errcheck // perhaps once more
	return &raw{t, near, wire.NewFrameReader(bufio.NewReader(near), 0)}, serve
}

func (r *raw) send(frames ...wire.Frame) {
	r.t.Helper()
	var b []byte
	for i := range frames {
		var err error
		if b, err = wire.AppendFrame(b, &frames[i]); err != nil {
			r.t.Fatal(err)
		}
	}
	if _, err := r.nc.Write(b); err != nil {
		r.t.Fatal(err)
	}
}

func (r *raw) expect(kind wire.Kind, id uint64) wire.Frame {
	r.t.Helper()
	var f wire.Frame
	if err := r.in.Read(&f); err != nil {
		r.t.Fatalf("%v instead of kind %d for %d", err, kind, id)
	}
	if f.Kind != kind || f.ID != id {
		r.t.Fatalf("kind %d for %d (%+v), want kind %d for %d", f.Kind, f.ID, f.Err, kind, id)
	}
	return f
}

// outcome is what a done callback was given.
type outcome struct {
	result parley.Result
	err    error
}

func (e ends) do(r parley.Request) <-chan outcome {
	ch := make(chan outcome, 1)
	e.Do(r, func(r parley.Result, err error) { ch <- outcome{r, err} })
	return ch
}

func send(seq uint64, body string) parley.Request {
	return parley.Request{Session: 1, Seq: seq, Command: parley.Send{From: "ann", To: "bob", Body: body}}
}
