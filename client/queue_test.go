package client

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/mux"
)

// server plays a cluster for queue tests: it applies commands of sessions in
// order and turns away what does not fit.
type server struct {
	last  map[parley.SessionID]uint64
	tries int // commands that arrived
	full  func() bool
}

func newServer() *server { return &server{last: make(map[parley.SessionID]uint64)} }

func (s *server) apply(r parley.Request) (parley.Result, error) {
	s.tries++
	if s.full != nil && s.full() {
		return parley.Result{}, parley.Errorf(parley.CodeOverloaded, "full")
	}
	s.last[r.Session] = max(s.last[r.Session], r.Answered)
	if r.Seq > s.last[r.Session]+1 {
		return parley.Result{}, parley.Errorf(parley.CodeOutOfOrder, "missing")
	}
	s.last[r.Session] = max(s.last[r.Session], r.Seq)
	return parley.Result{Message: parley.MessageID(r.Seq)}, nil
}

// rig drives a queue by hand, with a clock that only it moves.
type rig struct {
	t      *testing.T
	q      *queue
	l      *link
	now    time.Time
	byCall map[*call]string // outcomes handed to callers
}

func newRig(t *testing.T, window int) *rig {
	return &rig{
		t: t, now: time.Unix(1000, 0), l: newTestLink(), byCall: make(map[*call]string),
		q: newQueue(window, func(int) time.Duration { return 10 * time.Millisecond }),
	}
}

func newTestLink() *link { return &link{node: "n1", conn: new(mux.Conn)} }

// start adds a command; it must find room.
func (g *rig) start(session parley.SessionID, seq, answered uint64) *call {
	g.t.Helper()
	r := parley.Request{Session: session, Seq: seq, Answered: answered, Command: parley.Send{To: "bob"}}
	k := &call{req: r}
	if g.q.admit(r) != nil {
		g.t.Fatalf("no room for %d/%d", session, seq)
	}
	g.q.add(k)
	return k
}

// take returns what is sent now, like "1/1 1/2".
func (g *rig) take() []*call {
	calls, _ := g.q.take(g.now, g.l, nil)
	return calls
}

func (g *rig) outcome(k *call, l *link, r parley.Result, err error) {
	final, r, err := g.q.outcome(g.now, k, l, r, err)
	if !final {
		return
	}
	if _, twice := g.byCall[k]; twice {
		g.t.Fatalf("two outcomes for %d/%d", k.req.Session, k.req.Seq)
	}
	if err != nil {
		g.byCall[k] = parley.CodeOf(err).String()
	} else {
		g.byCall[k] = r.Code.String()
	}
}

func names(calls []*call) string {
	var s []string
	for _, k := range calls {
		s = append(s, fmt.Sprintf("%d/%d", k.req.Session, k.req.Seq))
	}
	return fmt.Sprint(s)
}

func (g *rig) wantTake(want string) []*call {
	g.t.Helper()
	calls := g.take()
	if got := names(calls); got != want {
		g.t.Fatalf("sent %s, want %s", got, want)
	}
	return calls
}

func (g *rig) wantOutcome(k *call, want string) {
	g.t.Helper()
	if got := g.byCall[k]; got != want {
		g.t.Fatalf("outcome of %d/%d is %q, want %q", k.req.Session, k.req.Seq, got, want)
	}
}

// run plays rounds of sending and answering until all is answered.
func (g *rig) run(s *server) (rounds int) {
	g.t.Helper()
	for ; len(g.q.lanes) > 0; rounds++ {
		if rounds > 20000 {
			g.t.Fatalf("no end: %d lanes left", len(g.q.lanes))
		}
		for calls := g.take(); len(calls) > 0; calls = g.take() {
			for _, k := range calls {
				r, err := s.apply(k.req)
				g.outcome(k, g.l, r, err)
			}
		}
		g.now = g.now.Add(10 * time.Millisecond)
	}
	return rounds
}

func TestQueueKeepsOrderOfStart(t *testing.T) {
	g := newRig(t, 100)
	g.start(7, 1, 0)
	g.start(8, 1, 0)
	g.start(7, 2, 0)
	g.start(0, 0, 0)
	g.start(8, 2, 0)
	g.wantTake("[7/1 8/1 7/2 0/0 8/2]")
	g.wantTake("[]")
}

func TestQueueResendsInOrderAfterMove(t *testing.T) {
	g := newRig(t, 100)
	var calls []*call
	for seq := uint64(1); seq <= 5; seq++ {
		calls = append(calls, g.start(7, seq, 0))
	}
	g.wantTake("[7/1 7/2 7/3 7/4 7/5]")
	old := g.l
	g.outcome(calls[0], old, parley.Result{}, nil)
	g.start(7, 6, 1) // not sent yet

	g.l = newTestLink()
	g.q.moved()
	g.wantTake("[7/2 7/3 7/4 7/5 7/6]")

	// What the former connection still says about errors is of no interest; an answer is.
	g.outcome(calls[1], old, parley.Result{}, parley.Errorf(parley.CodeInterrupted, "lost"))
	g.outcome(calls[2], old, parley.Result{}, nil)
	g.wantTake("[]")
	g.wantOutcome(calls[1], "")
	g.wantOutcome(calls[2], "ok")
	g.outcome(calls[2], g.l, parley.Result{}, nil) // again, ignored
	g.outcome(calls[1], g.l, parley.Result{}, nil)
	g.wantOutcome(calls[1], "ok")
}

func TestQueueSendsAnonymousOnce(t *testing.T) {
	g := newRig(t, 100)
	k := g.start(0, 0, 0)
	g.wantTake("[0/0]")
	old := g.l
	g.l = newTestLink()
	g.q.moved()
	g.wantTake("[]")
	g.outcome(k, old, parley.Result{}, parley.Errorf(parley.CodeInterrupted, "lost"))
	g.wantOutcome(k, "interrupted")

	ack := &call{req: parley.Request{Command: parley.Ack{User: "bob"}}}
	g.q.admit(ack.req)
	g.q.add(ack)
	g.wantTake("[0/0]")
	old, g.l = g.l, newTestLink()
	g.q.moved()
	g.wantTake("[0/0]")
	g.outcome(ack, old, parley.Result{}, parley.Errorf(parley.CodeInterrupted, "lost"))
	g.wantOutcome(ack, "")
	g.outcome(ack, g.l, parley.Result{}, nil)
	g.wantOutcome(ack, "ok")
}

// A session that has expired while a command may have taken effect must not look
// to the caller as if the command were untouched.
func TestQueueSessionExpired(t *testing.T) {
	for i := range 4 {
		lost, code := i%2 == 1, []parley.Code{parley.CodeSessionExpired, parley.CodeForgotten}[i/2]
		g := newRig(t, 100)
		k := g.start(7, 1, 0)
		g.take()
		if lost {
			g.outcome(k, g.l, parley.Result{}, parley.Errorf(parley.CodeInterrupted, "lost"))
		} else {
			g.outcome(k, g.l, parley.Result{}, parley.Errorf(parley.CodeOverloaded, "full"))
		}
		g.now = g.now.Add(time.Second)
		g.wantTake("[7/1]")
		g.outcome(k, g.l, parley.Result{Code: code}, nil)
		want := code.String()
		if lost {
			want = "outcome unknown"
		}
		g.wantOutcome(k, want)
	}
}

// After a rejection the whole session waits, and begins again with its lowest.
func TestQueueHoldsSessionAfterRejection(t *testing.T) {
	g := newRig(t, 100)
	var calls []*call
	for seq := uint64(1); seq <= 4; seq++ {
		calls = append(calls, g.start(7, seq, 0))
	}
	g.start(8, 1, 0)
	g.take()
	g.outcome(calls[0], g.l, parley.Result{}, nil)
	g.outcome(calls[1], g.l, parley.Result{}, parley.Errorf(parley.CodeNoQuorum, "no leader"))
	g.start(7, 5, 0)
	g.start(8, 2, 0)
	g.wantTake("[8/2]") // others are not concerned
	g.now = g.now.Add(time.Second)
	g.wantTake("[]") // two are still under way
	g.outcome(calls[2], g.l, parley.Result{}, parley.Errorf(parley.CodeOutOfOrder, "after 2"))
	g.outcome(calls[3], g.l, parley.Result{}, parley.Errorf(parley.CodeOutOfOrder, "after 2"))
	g.wantTake("[7/2]") // one is enough to see whether it works again
	g.outcome(calls[1], g.l, parley.Result{}, nil)
	g.wantTake("[7/3 7/4]")
	g.outcome(calls[2], g.l, parley.Result{}, nil)
	g.wantTake("[7/5]")
}

// A given-up command leaves a hole that only its caller can close.
func TestQueueHandsBackBehindHole(t *testing.T) {
	g, s := newRig(t, 1000), newServer()
	var calls []*call
	for seq := uint64(2); seq <= 500; seq++ { // 1 was given up before it was sent
		calls = append(calls, g.start(7, seq, 0))
	}
	var sent []*call
	for more := g.take(); len(more) > 0; more = g.take() {
		sent = append(sent, more...)
	}
	for _, k := range sent {
		r, err := s.apply(k.req)
		g.outcome(k, g.l, r, err)
	}
	g.wantOutcome(calls[0], "out of order")
	for _, k := range calls[1:] {
		g.wantOutcome(k, "") // the rest stays here
	}
	if s.tries != len(calls) {
		t.Fatalf("%d tries of %d commands", s.tries, len(calls))
	}
	again := g.start(7, 2, 1) // goes ahead at once, and tells for all that 1 is settled
	if sent = g.take(); len(sent) == 0 || sent[0] != again {
		t.Fatalf("sent %s", names(sent))
	}
	for _, k := range sent {
		r, err := s.apply(k.req)
		g.outcome(k, g.l, r, err)
	}
	g.run(s)
	g.wantOutcome(again, "ok")
	for _, k := range calls[1:] {
		g.wantOutcome(k, "ok")
	}
	if s.tries > 3*len(calls) {
		t.Errorf("%d tries of %d commands", s.tries, len(calls))
	}
}

// A later command can tell just as well that the one before the hole is settled.
func TestQueueLearnsAnswered(t *testing.T) {
	g, s := newRig(t, 100), newServer()
	first := g.start(7, 2, 0)
	second := g.start(7, 3, 0)
	g.take()
	g.start(7, 4, 1)
	g.outcome(second, g.l, parley.Result{}, parley.Errorf(parley.CodeOutOfOrder, "missing"))
	g.outcome(first, g.l, parley.Result{}, parley.Errorf(parley.CodeOutOfOrder, "missing"))
	g.wantOutcome(first, "")
	if rounds := g.run(s); rounds > 3 {
		t.Errorf("took %d rounds", rounds)
	}
	g.wantOutcome(first, "ok")
}

// A command that is started again goes out although later ones are under way.
func TestQueueSendsAgain(t *testing.T) {
	g := newRig(t, 100)
	var calls []*call
	for seq := uint64(1); seq <= 5; seq++ {
		calls = append(calls, g.start(7, seq, 0))
	}
	g.wantTake("[7/1 7/2 7/3 7/4 7/5]")
	g.q.moved()
	g.wantTake("[7/1 7/2 7/3 7/4 7/5]")
	g.outcome(calls[1], g.l, parley.Result{}, parley.Errorf(parley.CodeBadRequest, "no"))
	g.start(7, 2, 0)
	g.wantTake("[7/2]")
}

// Nobody comes back for what was handed back: the rest is handed back as well.
func TestQueueHandsBackAll(t *testing.T) {
	g, s := newRig(t, 1000), newServer()
	var calls []*call
	for seq := uint64(2); seq <= 100; seq++ {
		calls = append(calls, g.start(7, seq, 0))
	}
	g.run(s)
	for _, k := range calls {
		g.wantOutcome(k, "out of order")
	}
	if s.tries > 5*len(calls) {
		t.Errorf("%d tries of %d commands", s.tries, len(calls))
	}
}

// A queue with room for few must not cost n² tries.
func TestQueueFullServer(t *testing.T) {
	const n = 1000
	for _, share := range []float64{0.9, 0.5, 0.1} {
		g, s := newRig(t, n), newServer()
		rng := rand.New(rand.NewPCG(1, 2))
		s.full = func() bool { return rng.Float64() > share }
		var calls []*call
		for seq := uint64(1); seq <= n; seq++ {
			calls = append(calls, g.start(7, seq, 0))
		}
		rounds := g.run(s)
		for _, k := range calls {
			g.wantOutcome(k, "ok")
		}
		t.Logf("room for %v: %d tries, %d rounds", share, s.tries, rounds)
		if s.tries > 25*n {
			t.Errorf("room for %v: %d tries of %d commands", share, s.tries, n)
		}
	}
}

func TestQueueWindow(t *testing.T) {
	g := newRig(t, 2)
	one := g.start(7, 1, 0)
	g.start(7, 2, 0)
	third, fourth := g.q.admit(parley.Request{Session: 7, Seq: 3}), g.q.admit(parley.Request{Session: 8, Seq: 1})
	if third == nil || fourth == nil {
		t.Fatal("the window is not bounded")
	}
	g.take()
	g.outcome(one, g.l, parley.Result{}, nil)
	if !third.given || fourth.given {
		t.Fatal("the slot went to the wrong one")
	}
	g.q.leave(third) // its context ended at the same moment
	if !fourth.given {
		t.Fatal("a slot got lost")
	}
	// A retry does not stand in line behind those who wait for it.
	if g.q.admit(parley.Request{Session: 7, Seq: 1}) != nil {
		t.Fatal("a retry has to wait for its successors")
	}
}

func TestQueueBoundsBytes(t *testing.T) {
	g := newRig(t, 1000)
	body := string(make([]byte, 64<<10))
	for seq := uint64(1); seq <= 200; seq++ {
		r := parley.Request{Session: 7, Seq: seq, Command: parley.Send{To: "bob", Body: body}}
		g.q.admit(r)
		g.q.add(&call{req: r})
	}
	sent := g.take()
	if g.l.bytes > linkBytes+len(body)+64 || len(sent) < 10 {
		t.Fatalf("%d bytes under way with %d commands", g.l.bytes, len(sent))
	}
	for next := uint64(1); len(sent) > 0; sent = append(sent[1:], g.take()...) {
		if sent[0].req.Seq != next {
			t.Fatalf("sent %d, want %d", sent[0].req.Seq, next)
		}
		next++
		g.outcome(sent[0], g.l, parley.Result{}, nil)
	}
	if len(g.q.lanes) != 0 || g.l.bytes != 0 || g.l.pending != 0 || g.q.used != 0 {
		t.Fatalf("left over: %d lanes, %d bytes, %d pending, %d slots", len(g.q.lanes), g.l.bytes, g.l.pending, g.q.used)
	}
}

// A client without a connection, whose callers give up again and again, keeps
// nothing of that.
func TestQueueForgets(t *testing.T) {
	g := newRig(t, 10)
	g.start(7, 1, 0) // this one is patient
	for seq := uint64(2); seq < 10000; seq++ {
		k := g.start(7, seq, 0)
		anonymous := g.start(0, 0, 0)
		g.q.settle(k)
		g.q.settle(anonymous)
	}
	if n := len(g.q.fresh) + len(g.q.trouble) + len(g.q.lanes) + len(g.q.byID[7].calls); n > 100 {
		t.Errorf("%d things kept", n)
	}
	g.wantTake("[7/1]")
}

// TestQueueRandom plays random failures; in the end everything is answered, each
// command was applied in order, and nothing is left behind.
func TestQueueRandom(t *testing.T) {
	for seed := uint64(0); seed < 200; seed++ {
		rng := rand.New(rand.NewPCG(seed, 1))
		g, s := newRig(t, 64), newServer()
		next, given := map[parley.SessionID]uint64{}, map[parley.SessionID]uint64{}
		answered := func(id parley.SessionID) uint64 { return given[id] }
		type try struct {
			k *call
			l *link
		}
		var flying []try
		var all []*call
		restart := func(k *call) {
			if g.byCall[k] != "out of order" && g.byCall[k] != "interrupted" {
				return
			}
			all = append(all, g.start(k.req.Session, k.req.Seq, answered(k.req.Session)))
		}
		for step := 0; step < 3000 || len(g.q.lanes) > 0; step++ {
			if step > 100000 {
				t.Fatalf("seed %d: no end", seed)
			}
			switch rng.IntN(12) {
			case 0, 1, 2:
				id := parley.SessionID(1 + rng.IntN(3))
				if step < 3000 && g.q.used < g.q.window {
					next[id]++
					all = append(all, g.start(id, next[id], answered(id)))
				}
			case 3, 4, 5:
				for _, k := range g.take() {
					flying = append(flying, try{k, g.l})
				}
			case 6, 7, 8, 9:
				if len(flying) > 0 { // connections are in order, one against the other not
					f := flying[0]
					i := slices.IndexFunc(flying, func(o try) bool { return o.l == f.l })
					flying = slices.Delete(flying, i, i+1)
					r, err := s.apply(f.k.req)
					switch {
					case err == nil && rng.IntN(20) == 0:
						r, err = parley.Result{}, parley.Errorf(parley.CodeInterrupted, "lost")
					case rng.IntN(20) == 0 && err != nil:
						err = parley.Errorf(parley.CodeNoQuorum, "no leader")
					}
					_, had := g.byCall[f.k]
					g.outcome(f.k, f.l, r, err)
					if _, has := g.byCall[f.k]; has && !had {
						restart(f.k)
					}
				}
			case 10:
				g.now = g.now.Add(10 * time.Millisecond)
			case 11:
				if rng.IntN(10) == 0 {
					g.l = newTestLink()
					g.q.moved()
				}
			}
		}
		for _, k := range all {
			if o := g.byCall[k]; o == "" {
				t.Fatalf("seed %d: no outcome for %d/%d", seed, k.req.Session, k.req.Seq)
			}
		}
		for id, n := range next {
			if s.last[id] != n {
				t.Fatalf("seed %d: session %d got to %d of %d", seed, id, s.last[id], n)
			}
		}
		if g.q.used != 0 || len(g.q.byID) != 0 {
			t.Fatalf("seed %d: %d slots, %d sessions left", seed, g.q.used, len(g.q.byID))
		}
	}
}
