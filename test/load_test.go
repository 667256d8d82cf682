package test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/client"
	"github.com/parley-chat/parley/internal/check"
)

// load keeps a cluster busy through the client library and keeps a log of what
// was sent and delivered. Every sender writes to every mailbox in turn, several
// messages ahead of their answers.
type load struct {
	t      *testing.T
	log    *check.Log
	client client.Config // of every sender and reader
	prefix string
	users  []string

	senders, readers         sync.WaitGroup
	stopSending, stopReading context.CancelFunc
	acked                    atomic.Int64
	latency                  latency
}

const inFlight = 16 // messages per sender that wait for an answer

// startLoad creates the mailboxes and starts senders and readers.
func startLoad(t *testing.T, servers []string, prefix string, senders, mailboxes int) *load {
	t.Helper()
	return startLoadOf(t, client.Config{Servers: servers}, prefix, senders, mailboxes)
}

// startLoadOf is startLoad with more to say about the clients.
func startLoadOf(t *testing.T, cfg client.Config, prefix string, senders, mailboxes int) *load {
	t.Helper()
	l := &load{t: t, log: check.NewLog(), client: cfg, prefix: prefix}
	s := newClientOf(t, cfg).Session()
	for i := range mailboxes {
		u := fmt.Sprintf("%sbox%d", prefix, i)
		must(t, s, parley.CreateUser{Name: u})
		l.users = append(l.users, u)
	}
	l.startReaders()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	l.stopSending = cancel
	for i := range senders {
		l.senders.Go(func() { l.send(ctx, fmt.Sprintf("%ssender%d", prefix, i)) })
	}
	t.Cleanup(func() { l.stopSending(); l.senders.Wait(); l.stopReading(); l.readers.Wait() })
	return l
}

// startReaders starts one reader per mailbox; they go on where the last stopped.
func (l *load) startReaders() {
	ctx, cancel := context.WithCancel(context.WithoutCancel(l.t.Context()))
	l.stopReading = cancel
	for _, u := range l.users {
		r := l.log.Reader("reader", u)
		c := newClientOf(l.t, l.client)
		l.readers.Go(func() {
			for m, err := range c.Receive(ctx, u, parley.Cursor{}) {
				if err != nil {
					if ctx.Err() == nil {
						l.t.Errorf("reading %s: %v", u, err)
					}
					return
				}
				r.Deliver(m)
			}
		})
	}
}

func (l *load) send(ctx context.Context, from string) {
	c := newClientOf(l.t, l.client)
	s := c.Session()
	slots := make(chan struct{}, inFlight)
	for i := 0; ; i++ {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			for range inFlight { // what is under way is answered or given up
				slots <- struct{}{}
			}
			return
		}
		st := check.Stream{From: from, To: l.users[i%len(l.users)]}
		n := l.log.Send(st)
		began := time.Now()
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		s.Start(sctx, parley.Send{From: from, To: st.To, Body: check.Body(st, n)}, func(r parley.Result, err error) {
			defer func() { cancel(); <-slots }()
			switch {
			case err != nil: // unknown: may be delivered or not
			case r.Code != parley.CodeOK:
				l.log.Refuse(st, n)
				l.t.Errorf("send %s: refused: %v", check.Body(st, n), r.Err())
			default:
				l.log.Acknowledge(st, n)
				l.acked.Add(1)
				l.latency.add(time.Since(began))
			}
		})
	}
}

// latency keeps how long it took until messages were acknowledged.
type latency struct {
	mu   sync.Mutex
	took []time.Duration // since the last reset; nil: not measured
}

func (l *latency) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took = make([]time.Duration, 0, 1<<16)
}

func (l *latency) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.took != nil {
		l.took = append(l.took, d)
	}
}

// quantile is the time that p percent did not exceed; it ends the measurement.
func (l *latency) quantile(p int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(l.took)
	d := l.took[len(l.took)*p/100]
	l.took = nil
	return d
}

// acksWithin reports whether another message is acknowledged within a time.
func (l *load) acksWithin(d time.Duration) bool {
	before := l.acked.Load()
	for deadline := time.Now().Add(d); ; time.Sleep(10 * time.Millisecond) { // between polls
		if l.acked.Load() > before {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

// awaitAcks waits until n more messages have been acknowledged.
func (l *load) awaitAcks(n int64) {
	l.t.Helper()
	goal := l.acked.Load() + n
	eventually(l.t, func() error {
		if have := l.acked.Load(); have < goal {
			return fmt.Errorf("%d of %d acknowledgements", have, goal)
		}
		return nil
	})
}

// finish stops the senders, waits for the readers to have seen everything and
// fails the test if anything went wrong on the way.
func (l *load) finish() check.Verdict {
	l.t.Helper()
	l.stopSending()
	l.senders.Wait()
	deadline := time.Now().Add(patience)
	for l.log.Missing() > 0 && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond) // between polls
	}
	l.stopReading()
	l.readers.Wait()
	v := l.log.Verdict()
	if !v.OK() || v.Acknowledged == 0 {
		l.t.Errorf("%v", v)
		for _, p := range l.log.Problems() {
			l.t.Log(p)
		}
	}
	return v
}

// inbox reads all unread mail of a user without acknowledging it.
func inbox(t *testing.T, s parley.Service, user string) (bodies []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var after parley.Cursor
	for {
		r, err := s.Get(ctx, parley.Inbox{User: user, After: after})
		if err := errors.Join(err, r.Err()); err != nil {
			t.Fatalf("inbox of %s: %v", user, err)
		}
		for _, m := range r.Messages {
			bodies = append(bodies, m.Body)
			after = m.Cursor
		}
		if !r.More {
			return slices.Clip(bodies)
		}
	}
}
