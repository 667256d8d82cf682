package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/parleytest"
)

func TestConfig(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{Servers: []string{"localhost"}},
		{Servers: []string{"a:1"}, Window: -1},
		{Servers: []string{"a:1"}, Window: maxWindow + 1},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("no error for %+v", cfg)
		}
	}
}

func TestFollowsRedirect(t *testing.T) {
	cl := newCluster(t, 3)
	cl.lead(2)
	for i := range cl.nodes { // any one address is enough
		var ev events
		c := open(t, Config{Servers: cl.addrs(i), Events: ev.add})
		must(t, c.Session(), parley.CreateUser{Name: fmt.Sprint("u", i)})
		if id, addr := c.Node(); id != "n3" || addr != cl.nodes[2].addr {
			t.Errorf("through %d: on %s (%s)", i, id, addr)
		}
		c.mu.Lock()
		if c.book.leader != "n3" {
			t.Errorf("through %d: %q is taken for the leader", i, c.book.leader)
		}
		c.mu.Unlock()
		if want := min(1, 2-i); ev.count(Redirected) != want {
			t.Errorf("through %d: %d redirects, want %d", i, ev.count(Redirected), want)
		}
	}
}

func TestAnyStaysOnFollower(t *testing.T) {
	cl := newCluster(t, 3)
	c := open(t, Config{Servers: cl.addrs(1), Any: true})
	must(t, c.Session(), parley.CreateUser{Name: "bob"})
	cl.lead(2)
	must(t, c.Session(), parley.CreateUser{Name: "ann"})
	if id, _ := c.Node(); id != "n2" {
		t.Errorf("on %s", id)
	}
}

// Behind port mappings the addresses that the cluster names lead nowhere, or
// elsewhere.
func TestPortMappings(t *testing.T) {
	cl := newCluster(t, 3)
	for i, n := range cl.nodes {
		n.advertised = cl.nodes[(i+1)%3].addr // worse than nowhere: another node
	}
	c := open(t, Config{Servers: cl.addrs()})
	s := c.Session()
	for i, leader := range []int{0, 2, 1, 0, 1, 2} {
		cl.lead(leader)
		onNode(t, c, cl.nodes[leader].id)
		must(t, s, parley.CreateUser{Name: fmt.Sprint("u", i)})
	}
}

// The only configured node redirects to where nobody can go: it has to do.
func TestUnreachableLeader(t *testing.T) {
	cl := newCluster(t, 2)
	cl.nodes[0].advertised = "127.0.0.1:1"
	c := open(t, Config{Servers: cl.addrs(1)})
	must(t, c.Session(), parley.CreateUser{Name: "bob"})
	if id, _ := c.Node(); id != "n2" {
		t.Errorf("on %s", id)
	}
}

// Where the cluster says the leader is, another cluster may be found from here.
func TestForeignCluster(t *testing.T) {
	cl, foreign := newCluster(t, 2), newCluster(t, 1)
	foreign.nodes[0].id = "x1"
	cl.nodes[0].advertised = foreign.nodes[0].addr
	c := open(t, Config{Servers: cl.addrs(1), Events: func(e Event) {
		if e.Kind == Connected && e.Node != "n2" {
			t.Errorf("%v", e)
		}
	}})
	must(t, c.Session(), parley.CreateUser{Name: "bob"})
	if r, err := foreign.fake.Get(testContext(t), parley.Users{}); err != nil || len(r.Names) > 0 {
		t.Errorf("the foreign cluster has %v, %v", r.Names, err)
	}
}

func TestSurvivesDeathOfOnlyConfiguredNode(t *testing.T) {
	cl := newCluster(t, 3)
	cl.fake.SetMembers(cl.members())
	c := open(t, Config{Servers: cl.addrs(0)})
	s := c.Session()
	must(t, s, parley.CreateUser{Name: "bob"})
	eventually(t, "members learnt", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.book.advertised) == 3
	})
	cl.nodes[0].kill()
	cl.lead(1)
	must(t, s, parley.CreateUser{Name: "ann"})
	onNode(t, c, "n2")
}

// TestFailover sends through a series of failures and wants every message, once
// and in order.
func TestFailover(t *testing.T) {
	const n = 3000
	cl := newCluster(t, 3)
	c := open(t, Config{Servers: cl.addrs(), Window: 200})
	s := c.Session()
	must(t, s, parley.CreateUser{Name: "bob"})

	received := make(chan []string, 1)
	go func() {
		var got []string
		for m, err := range c.Receive(testContext(t), "bob", parley.Cursor{}) {
			if err != nil {
				break
			}
			if got = append(got, m.Body); len(got) == n {
				break
			}
		}
		received <- got
	}()

	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for leader := 0; ; {
			next := (leader + 1) % 3
			cl.nodes[leader].kill()
			cl.lead(-1)
			time.Sleep(5 * time.Millisecond) // the election
			cl.lead(next)
			cl.nodes[leader].restart()
			leader = next
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()

	var wg sync.WaitGroup
	var mu sync.Mutex
	var failures []error
	for _, body := range numbers(n) {
		wg.Add(1)
		s.Start(testContext(t), parley.Send{To: "bob", Body: body}, func(r parley.Result, err error) {
			defer wg.Done()
			if err == nil {
				err = r.Err()
			}
			if err != nil {
				mu.Lock()
				failures = append(failures, err)
				mu.Unlock()
			}
		})
		time.Sleep(50 * time.Microsecond) // a pace at which the sending meets several elections; the outcome is the same
	}
	wg.Wait()
	close(stop)
	<-stopped
	if len(failures) > 0 {
		t.Fatalf("%d failures, the first: %v", len(failures), failures[0])
	}
	if got := <-received; !slices.Equal(got, numbers(n)) {
		t.Fatalf("received %d messages: not 1 to %d in order", len(got), n)
	}
}

// Replies that get lost after the command has been committed.
func TestLostReplies(t *testing.T) {
	cl := newCluster(t, 1)
	c := open(t, Config{Servers: cl.addrs()})
	s := c.Session()
	must(t, s, parley.CreateUser{Name: "bob"})
	for i, body := range numbers(5) {
		held, judged := make(chan struct{}), make(chan struct{})
		var once sync.Once
		cl.fake.OnStart(func(r parley.Request) (f parleytest.Fault) {
			once.Do(func() {
				f.Hold, f.Applied, f.Err = held, true, errors.New("lost")
				close(judged)
			})
			return f
		})
		done := make(chan error, 1)
		s.Start(testContext(t), parley.Send{To: "bob", Body: body}, func(r parley.Result, err error) { done <- err })
		<-judged
		cl.nodes[0].kill()
		close(held)
		cl.nodes[0].restart()
		if err := <-done; err != nil {
			t.Fatal(i, err)
		}
	}
	cl.fake.OnStart(nil)
	if got := bodies(t, c, "bob"); !slices.Equal(got, numbers(5)) {
		t.Errorf("in the mailbox: %v", got)
	}
}

// A command without a session is not sent twice, but one that was never sent
// waits for a connection.
func TestAnonymous(t *testing.T) {
	cl := newCluster(t, 1)
	cl.nodes[0].kill()
	c := open(t, Config{Servers: cl.addrs()})
	eventually(t, "trouble", func() bool { return c.Trouble() != nil })
	created := make(chan error, 1)
	c.Start(testContext(t), parley.Request{Command: parley.CreateUser{Name: "bob"}}, func(r parley.Result, err error) { created <- err })
	cl.nodes[0].restart()
	if err := <-created; err != nil {
		t.Fatal(err)
	}

	var starts sync.Map
	judged := make(chan struct{}, 10)
	cl.fake.OnStart(func(r parley.Request) parleytest.Fault {
		n, _ := starts.LoadOrStore(fmt.Sprintf("%T", r.Command), new(int))
		*n.(*int)++ // the connection's goroutine calls one after the other
		judged <- struct{}{}
		return parleytest.Fault{Hold: make(chan struct{}), Applied: true}
	})
	sent, acked := make(chan error, 1), make(chan error, 1)
	ctx := testContext(t)
	c.Start(ctx, parley.Request{Command: parley.Send{To: "bob", Body: "x"}}, func(r parley.Result, err error) { sent <- err })
	c.Start(ctx, parley.Request{Command: parley.Ack{User: "bob"}}, func(r parley.Result, err error) { acked <- err })
	<-judged
	<-judged
	cl.fake.OnStart(nil)
	cl.nodes[0].kill()
	if err := <-sent; parley.CodeOf(err) != parley.CodeInterrupted {
		t.Errorf("send: %v", err)
	}
	cl.nodes[0].restart()
	if err := <-acked; err != nil {
		t.Errorf("ack: %v", err)
	}
}

// Leadership moves while the window is full of commands that are not answered.
func TestLeadershipMovesWithWindowFull(t *testing.T) {
	const window = 64
	cl := newCluster(t, 2)
	c := open(t, Config{Servers: cl.addrs(), Window: window})
	s := c.Session()
	must(t, s, parley.CreateUser{Name: "bob"})
	held := make(chan struct{})
	var mu sync.Mutex
	seen := 0
	cl.fake.OnStart(func(r parley.Request) (f parleytest.Fault) {
		mu.Lock()
		defer mu.Unlock()
		if seen++; seen <= window { // what the first leader gets goes nowhere
			f.Hold, f.Err = held, parley.Errorf(parley.CodeInterrupted, "leadership lost")
		}
		return f
	})
	var wg sync.WaitGroup
	ctx := testContext(t)
	wg.Go(func() {
		for _, body := range numbers(3 * window) { // blocks when the window is full
			wg.Add(1)
			s.Start(ctx, parley.Send{To: "bob", Body: body}, func(r parley.Result, err error) {
				if err != nil {
					t.Error(body, err)
				}
				wg.Done()
			})
		}
	})
	eventually(t, "the window is full", func() bool { mu.Lock(); defer mu.Unlock(); return seen == window })
	began := time.Now()
	cl.lead(1)
	wg.Wait()
	if took := time.Since(began); took >= drainTime {
		t.Errorf("took %v: the first leader was waited for", took)
	}
	close(held)
	onNode(t, c, "n2")
	if got := bodies(t, c, "bob"); !slices.Equal(got, numbers(3*window)) {
		t.Errorf("%d in the mailbox", len(got))
	}
}

// A leader that is stopped keeps its connections; another one leads meanwhile.
func TestHungLeader(t *testing.T) {
	cl := newCluster(t, 3)
	c := open(t, Config{Servers: cl.addrs(), Patience: 50 * time.Millisecond})
	s := c.Session()
	must(t, s, parley.CreateUser{Name: "bob"})
	cl.nodes[0].gate.shut()
	done := make(chan error, 2)
	go func() {
		_, err := s.Do(testContext(t), parley.Send{To: "bob", Body: "1"})
		done <- err
	}()
	go func() {
		_, err := c.Get(testContext(t), parley.Users{})
		done <- err
	}()
	began := time.Now()
	cl.lead(1)
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took >= drainTime {
		t.Errorf("took %v: the hung leader was waited for", took)
	}
	onNode(t, c, "n2")
	cl.nodes[0].gate.open() // what was sent to it arrives now, too late
	must(t, s, parley.Send{To: "bob", Body: "2"})
	if got := bodies(t, c, "bob"); !slices.Equal(got, numbers(2)) {
		t.Errorf("in the mailbox: %v", got)
	}
}

// A server that accepts and says nothing must not hold up the others.
func TestHalfDeadServers(t *testing.T) {
	cl := newCluster(t, 3)
	cl.lead(2)
	cl.nodes[0].gate.shut()
	cl.nodes[1].gate.shut()
	began := time.Now()
	var clients []*Client
	for range 8 { // they begin with random servers
		clients = append(clients, open(t, Config{Servers: cl.addrs(), DialTimeout: 3 * time.Second}))
	}
	for _, c := range clients {
		onNode(t, c, "n3")
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
}

// Two servers that send us to each other are asked at a decent pace.
func TestRedirectLoop(t *testing.T) {
	a, b := newCluster(t, 2), newCluster(t, 2)
	a.nodes[1].advertised, b.nodes[1].advertised = b.nodes[0].addr, a.nodes[0].addr
	a.lead(1)
	b.lead(1)
	began := time.Now()
	c := open(t, Config{Servers: []string{a.nodes[0].addr, b.nodes[0].addr}})
	hellos := func() int {
		a.nodes[0].mu.Lock()
		defer a.nodes[0].mu.Unlock()
		return a.nodes[0].hellos
	}
	eventually(t, "it is asked", func() bool { return hellos() > 0 })
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Millisecond)
	defer cancel()
	_, err := c.Session().Do(ctx, parley.CreateUser{Name: "bob"})
	if parley.CodeOf(err) != parley.CodeNoQuorum {
		t.Errorf("%v", err)
	}
	c.Close()
	took := time.Since(began)
	if n := hellos(); n > 8*int(took/(60*time.Millisecond)) {
		t.Errorf("asked %d times in %v", n, took)
	}
}

func TestNobodyThere(t *testing.T) {
	cl := newCluster(t, 1)
	cl.nodes[0].kill()
	c := open(t, Config{Servers: cl.addrs()})
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	check := func(what string, err error) {
		t.Helper()
		if parley.CodeOf(err) != parley.CodeNoQuorum || !strings.Contains(err.Error(), "refused") || !strings.Contains(err.Error(), cl.nodes[0].addr) {
			t.Errorf("%s: %v", what, err)
		}
	}
	eventually(t, "trouble", func() bool { return c.Trouble() != nil })
	_, err := parley.Do(short(), c, parley.Request{Session: 1, Seq: 1, Command: parley.CreateUser{Name: "bob"}})
	if !errors.Is(err, context.DeadlineExceeded) { // parley.Do itself may have been first
		check("start", err)
	}
	done := make(chan error, 1)
	c.Start(short(), parley.Request{Session: 1, Seq: 2, Command: parley.CreateUser{Name: "bob"}}, func(r parley.Result, err error) { done <- err })
	check("start", <-done)
	_, err = c.Get(short(), parley.Users{})
	check("get", err)
	_, err = c.Get(short(), parley.Status{})
	check("status", err)
	for _, err := range c.Watch(short(), "bob", parley.Cursor{}) {
		check("watch", err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	c.Start(ctx, parley.Request{Session: 1, Seq: 3, Command: parley.CreateUser{Name: "bob"}}, func(r parley.Result, err error) { done <- err })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Without a leader, what needs one waits, and Status does not.
func TestNoLeader(t *testing.T) {
	cl := newCluster(t, 3)
	cl.fake.SetMembers(cl.members())
	cl.lead(-1)
	c := open(t, Config{Servers: cl.addrs()})
	eventually(t, "it is told so", func() bool {
		err := c.Trouble()
		return err != nil && strings.Contains(err.Error(), "no leader")
	})
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Get(ctx, parley.Users{}); parley.CodeOf(err) != parley.CodeNoQuorum || !strings.Contains(err.Error(), "no leader") {
		t.Errorf("users: %v", err)
	}
	r, err := c.Get(testContext(t), parley.Status{})
	if err != nil || len(r.Members) != 3 {
		t.Errorf("status: %v %v", r, err)
	}
	cl.lead(1)
	must(t, c.Session(), parley.CreateUser{Name: "bob"})
}

// Start waits while the window is full, and no longer than its context.
func TestWindow(t *testing.T) {
	cl := newCluster(t, 1)
	c := open(t, Config{Servers: cl.addrs(), Window: 2})
	held := make(chan struct{})
	cl.fake.OnStart(func(parley.Request) parleytest.Fault { return parleytest.Fault{Hold: held} })
	done := make(chan error, 4)
	start := func(ctx context.Context) {
		c.Start(ctx, parley.Request{Command: parley.Ack{User: "x"}}, func(_ parley.Result, err error) { done <- err })
	}
	start(testContext(t))
	start(testContext(t))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	start(ctx)
	if err := <-done; parley.CodeOf(err) != parley.CodeOverloaded {
		t.Errorf("third: %v", err)
	}
	fourth := make(chan struct{})
	go func() { start(testContext(t)); close(fourth) }()
	close(held)
	<-fourth
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queue.used != 0 || len(c.queue.turns) != 0 {
		t.Errorf("%d slots taken, %d waiting", c.queue.used, len(c.queue.turns))
	}
}

func TestClose(t *testing.T) {
	cl := newCluster(t, 1)
	c := open(t, Config{Servers: cl.addrs(), Window: 1})
	s := c.Session()
	must(t, s, parley.CreateUser{Name: "bob"})
	judged, held := make(chan struct{}, 10), make(chan struct{})
	defer close(held)
	cl.fake.OnStart(func(parley.Request) parleytest.Fault {
		judged <- struct{}{}
		return parleytest.Fault{Hold: held}
	})
	ends := make(chan parley.Code, 5)
	go func() { // under way
		_, err := s.Do(context.Background(), parley.Send{To: "bob", Body: "1"})
		ends <- parley.CodeOf(err)
	}()
	<-judged
	go func() { // waiting for the window
		_, err := parley.Do(context.Background(), c, parley.Request{Command: parley.Ack{User: "bob"}})
		ends <- parley.CodeOf(err)
	}()
	go func() {
		for _, err := range c.Receive(context.Background(), "bob", parley.Cursor{}) {
			if err != nil {
				ends <- parley.CodeOf(err)
			}
		}
	}()
	eventually(t, "watching", func() bool { return cl.fake.Watches() == 1 })
	eventually(t, "waiting", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.queue.turns) == 1 })
	c.Close()
	c.Close()
	got := []parley.Code{<-ends, <-ends, <-ends}
	slices.Sort(got)
	if want := []parley.Code{parley.CodeBadRequest, parley.CodeBadRequest, parley.CodeOutcomeUnknown}; !slices.Equal(got, want) {
		t.Errorf("ended with %v, want %v", got, want)
	}
	if _, err := c.Get(context.Background(), parley.Users{}); parley.CodeOf(err) != parley.CodeBadRequest {
		t.Errorf("get: %v", err)
	}
	if _, err := s.Do(context.Background(), parley.Send{To: "bob"}); err == nil {
		t.Error("a session over a closed client still works")
	}
	if _, err := c.Get(testContext(t), parley.Status{}); parley.CodeOf(err) != parley.CodeBadRequest {
		t.Errorf("a question to a closed client: %v", err)
	}
}
