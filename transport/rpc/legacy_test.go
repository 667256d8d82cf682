package rpc

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/api/helloworld"
	"github.com/parley-chat/parley/parleytest"
)

// typed has a client type a line and returns the answer.
func (w *world) typed(c helloworld.ChatClient, line string) *helloworld.Response {
	w.Helper()
	out, err := c.TryCommand(w.ctx, &helloworld.Command{Command: line})
	if err != nil {
		w.Fatalf("%q: %v", line, err)
	}
	return out
}

func (w *world) listen(c helloworld.ChatClient, user string) string {
	w.Helper()
	out, err := c.Listen(w.ctx, &helloworld.User{Name: user})
	if err != nil {
		w.Fatalf("listen %s: %v", user, err)
	}
	return out.GetMessage()
}

func TestTryCommand(t *testing.T) {
	w := newWorld(t, Config{})
	c := helloworld.NewChatClient(w.dial(grpc.WithDefaultCallOptions(carelessly())))
	for _, step := range []struct{ line, message, name string }{
		{"create user2", "User user2 created", ""},
		{"create user2", "Cannot create user2: name taken*", ""},
		{"  create \tuser3 \r\n", "User user3 created", ""},
		{"create", "Cannot create: say create NAME*", ""},
		{"create a b", "Cannot create: say create NAME*", ""},
		{"create a,b", "Cannot create a,b: bad name*", ""},
		{"list", "user2\nuser3", ""},
		{"list 3$", "user3", ""},
		{"list nobody", "", ""},
		{"list (", "Cannot list: bad pattern*", ""},
		{"connect user2", "Connection successful for user user2", "user2"},
		{"connect nobody", "Cannot connect as nobody: no such user*", ""},
		{"connect", "Cannot connect: say connect NAME*", ""},
		{"send user3 hello there", "Message sent to user3", ""},
		{"send user3  two  spaces, commas ", "Message sent to user3", ""},
		{"send user3", "Cannot send: say send NAME TEXT", ""},
		{"send user3 ", "Cannot send: say send NAME TEXT", ""},
		{"send nobody x", "Cannot send to nobody: no such user*", ""},
		{"delete nobody", "Cannot delete nobody: no such user*", ""},
		{"", "No command; known commands: *", ""},
		{"fly away", "Unknown command \"fly\"; known commands: *", ""},
		{"send user3 \xff", "The command is not valid UTF-8.", ""},
		{"create Connection successful for user x", "Cannot create: say create NAME*", ""},
		{"send user3 " + strings.Repeat("x", 64<<10+1), "Cannot send to user3: body too large*", ""},
	} {
		got := w.typed(c, step.line)
		want, prefix := strings.CutSuffix(step.message, "*")
		if got.GetName() != step.name || prefix && !strings.HasPrefix(got.GetMessage(), want) || !prefix && got.GetMessage() != want {
			t.Errorf("%.80q: %q, %q, want %q, %q", step.line, got.GetMessage(), got.GetName(), step.message, step.name)
		}
	}
	w.wantUnread("user3", "hello there", " two  spaces, commas ")
	w.typed(c, "delete user3")
	if got := w.typed(c, "list").GetMessage(); got != "user2" {
		t.Errorf("list: %q", got)
	}
}

// TestListLong: a list that does not fit ends at a name, and says so.
func TestListLong(t *testing.T) {
	w := newWorld(t, Config{})
	for i := range 1500 {
		w.run(parley.CreateUser{Name: fmt.Sprintf("u%04d%s", i, strings.Repeat("x", 59))})
	}
	names := strings.Split(w.typed(w.legacy(), "list").GetMessage(), "\n")
	for i, name := range names[:len(names)-1] {
		if !strings.HasPrefix(name, fmt.Sprintf("u%04dx", i)) || len(name) != 64 {
			t.Fatalf("name %d: %q", i, name)
		}
	}
	if n := len(names); n < 900 || !strings.Contains(names[n-1], "and more") {
		t.Errorf("%d lines, the last %q", n, names[n-1])
	}
}

func TestListen(t *testing.T) {
	w := newWorld(t, Config{})
	w.run(parley.CreateUser{Name: "ann"})
	c := w.legacy()
	for _, user := range []string{"", "nobody", "ann", "a,b"} {
		if got := w.listen(c, user); got != "" {
			t.Errorf("%q: %q", user, got)
		}
	}
	w.run(parley.Send{To: "ann", Body: "one"})
	w.run(parley.Send{From: "bob", To: "ann", Body: "two\nlines"})
	if got := w.listen(c, "ANN"); got != "Message: one\n\nMessage: two\nlines\n\n" {
		t.Errorf("got %q", got)
	}
	if got := w.listen(c, "ann"); got != "" { // at once, whether acknowledged by now or not
		t.Errorf("again: %q", got)
	}
	w.eventually("the mail is acknowledged", func() bool { return len(w.unread("ann")) == 0 })
	w.run(parley.DeleteUser{Name: "ann"})
	w.run(parley.CreateUser{Name: "ann"})
	w.run(parley.Send{To: "ann", Body: "new"})
	if got := w.listen(c, "ann"); got != "Message: new\n\n" {
		t.Errorf("after re-creation: %q", got)
	}
}

// TestListenLong: what does not fit waits for the next call.
func TestListenLong(t *testing.T) {
	w := newWorld(t, Config{})
	w.run(parley.CreateUser{Name: "ann"})
	var want strings.Builder
	for i := range 400 {
		body := fmt.Sprint(i, strings.Repeat("x", i%7*1000))
		if i == 200 {
			body = strings.Repeat("y", 64<<10) // more than fits, but there is no other way
		}
		w.run(parley.Send{To: "ann", Body: body})
		fmt.Fprintf(&want, "Message: %s\n\n", body)
	}
	c := w.legacy()
	var got strings.Builder
	for {
		text := w.listen(c, "ann")
		if text == "" {
			break
		}
		if len(text) > 70<<10 {
			t.Errorf("%d bytes", len(text))
		}
		got.WriteString(text)
	}
	if got.String() != want.String() {
		t.Errorf("%d bytes, want %d", got.Len(), want.Len())
	}
}

// TestListenUnsent: a response that reaches nobody leaves the mail where it is.
func TestListenUnsent(t *testing.T) {
	reg := prometheus.NewRegistry()
	w := newWorld(t, Config{Metrics: reg})
	w.run(parley.CreateUser{Name: "ann"})
	w.run(parley.Send{To: "ann", Body: "one"})
	ctx, cancel := context.WithCancel(w.ctx)
	asked := make(chan struct{}, 10)
	w.fake.OnGet(func(q parley.Query) error {
		if q, ok := q.(parley.Inbox); ok && q.Limit == 0 {
			asked <- struct{}{}
			cancel() // the client goes while its mail is being fetched
			return parley.Errorf(parley.CodeInterrupted, "planted")
		}
		return nil
	})
	c := w.legacy()
	_, err := c.Listen(ctx, &helloworld.User{Name: "ann"})
	w.want(err, codes.Canceled, "")
	<-asked
	w.eventually("the node knows", func() bool { return metric(t, reg, "parley_rpc_calls_open") == 0 })
	w.fake.OnGet(nil)
	if got := w.listen(c, "ann"); got != "Message: one\n\n" {
		t.Errorf("got %q", got)
	}
}

// late is a service that has mail to give only once the client has gone.
type late struct {
	parley.Service
	asked chan struct{}
}

func (l late) Get(ctx context.Context, q parley.Query) (parley.Result, error) {
	if q, ok := q.(parley.Inbox); ok && q.Limit == 0 {
		close(l.asked)
		<-ctx.Done()
	}
	return l.Service.Get(context.WithoutCancel(ctx), q)
}

// TestListenTooLate: the response is there, but nobody to send it to.
func TestListenTooLate(t *testing.T) {
	reg := prometheus.NewRegistry()
	fake := parleytest.NewFake()
	t.Cleanup(fake.Close)
	service := late{fake, make(chan struct{})}
	w := newWorld(t, Config{Service: service, Metrics: reg})
	w.fake = fake
	w.run(parley.CreateUser{Name: "ann"})
	w.run(parley.Send{To: "ann", Body: "one"})
	ctx, cancel := context.WithCancel(w.ctx)
	go func() {
		<-service.asked
		cancel()
	}()
	_, err := w.legacy().Listen(ctx, &helloworld.User{Name: "ann"})
	w.want(err, codes.Canceled, "")
	w.stop() // which waits for what is under way
	w.wantUnread("ann", "one")
}

// TestListenUnacknowledged: mail that was sent but could not be acknowledged does
// not come again from the same node.
func TestListenUnacknowledged(t *testing.T) {
	w := newWorld(t, Config{CommandTimeout: 300 * time.Millisecond})
	w.run(parley.CreateUser{Name: "ann"})
	w.run(parley.Send{To: "ann", Body: "one"})
	w.fake.OnStart(func(r parley.Request) (f parleytest.Fault) {
		if _, ok := r.Command.(parley.Ack); ok {
			f.Err = parley.Errorf(parley.CodeNoQuorum, "planted")
		}
		return f
	})
	c := w.legacy()
	for i, want := range []string{"Message: one\n\n", "", "Message: two\n\n", ""} {
		if i == 2 {
			w.run(parley.Send{To: "ann", Body: "two"})
		}
		if got := w.listen(c, "ann"); got != want {
			t.Errorf("call %d: %q, want %q", i, got, want)
		}
	}
	w.wantUnread("ann", "one", "two")
	w.fake.OnStart(nil)
	if got := w.listen(c, "ann"); got != "" {
		t.Errorf("got %q", got)
	}
	w.eventually("the mail is acknowledged", func() bool { return len(w.unread("ann")) == 0 })
}

// TestListenTogether: each message comes once, however many listen.
func TestListenTogether(t *testing.T) {
	w := newWorld(t, Config{})
	w.run(parley.CreateUser{Name: "ann"})
	const n = 200
	var mu sync.Mutex
	got := make(map[string]int)
	var readers sync.WaitGroup
	ctx, stop := context.WithCancel(w.ctx)
	defer stop()
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(got)
	}
	for range 4 {
		c := w.legacy()
		readers.Go(func() {
			for ctx.Err() == nil {
				out, err := c.Listen(w.ctx, &helloworld.User{Name: "ann"})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for _, m := range strings.Split(out.GetMessage(), "\n\n") {
					if m != "" {
						got[m]++
					}
				}
				mu.Unlock()
			}
		})
	}
	for i := range n {
		w.run(parley.Send{To: "ann", Body: fmt.Sprint(i)})
	}
	w.eventually("all mail has come", func() bool { return count() == n })
	stop()
	readers.Wait()
	for m, times := range got {
		if times != 1 {
			t.Errorf("%q came %d times", m, times)
		}
	}
}

// TestLegacyUnavailable: only that the cluster cannot answer is an error.
func TestLegacyUnavailable(t *testing.T) {
	w := newWorld(t, Config{CommandTimeout: 300 * time.Millisecond})
	w.fake.OnStart(func(parley.Request) parleytest.Fault {
		return parleytest.Fault{Err: parley.Errorf(parley.CodeNoQuorum, "planted")}
	})
	w.fake.OnGet(func(parley.Query) error { return parley.Errorf(parley.CodeNoQuorum, "planted") })
	c := w.legacy()
	for _, line := range []string{"create ann", "connect ann", "list", "send ann x", "delete ann"} {
		_, err := c.TryCommand(t.Context(), &helloworld.Command{Command: line})
		w.want(err, codes.Unavailable, "NO_QUORUM")
	}
	_, err := c.Listen(t.Context(), &helloworld.User{Name: "ann"})
	w.want(err, codes.Unavailable, "NO_QUORUM")
	w.typed(c, "fly") // needs no cluster
}
