package main

import (
	"context"
	"errors"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/bench"
)

// dam is a cluster that answers at once, or, while it is shut, not at all.
type dam struct {
	mu   sync.Mutex
	shut bool
	held []func()
}

func (d *dam) Start(_ context.Context, r parley.Request, done func(parley.Result, error)) {
	answer := func() { done(parley.Result{Session: 1}, nil) }
	d.mu.Lock()
	if d.shut {
		d.held = append(d.held, answer)
		answer = func() {}
	}
	d.mu.Unlock()
	answer()
}

func (d *dam) set(shut bool) {
	d.mu.Lock()
	d.shut = shut
	d.mu.Unlock()
}

// waiting is how many commands are held back.
func (d *dam) waiting() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.held)
}

// release answers the first n of what is held back.
func (d *dam) release(n int) {
	d.mu.Lock()
	held := d.held[:n]
	d.held = d.held[n:]
	d.mu.Unlock()
	for _, answer := range held {
		answer()
	}
}

func (d *dam) Get(context.Context, parley.Query) (parley.Result, error) {
	return parley.Result{}, errors.New("not asked for")
}
func (d *dam) Watch(context.Context, string, parley.Cursor) iter.Seq2[parley.Message, error] {
	return nil
}
func (d *dam) Receive(context.Context, string, parley.Cursor) iter.Seq2[parley.Message, error] {
	return nil
}
func (d *dam) Trouble() error { return nil }
func (d *dam) Close() error   { return nil }

// TestProber: after a failure, only messages begun after it count, however late the
// others are answered.
func TestProber(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	d := new(dam)
	p, err := startProber(ctx, func(func(bool)) (bench.Client, error) { return d, nil })
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	if _, err := p.next(ctx, time.Now()); err != nil {
		t.Fatal(err)
	}

	d.set(true)
	for d.waiting() < 3 {
		<-time.After(time.Millisecond)
	}
	failed := time.Now()
	former := d.waiting() // one more may have begun since
	type result struct {
		at  time.Time
		err error
	}
	results := make(chan result, 1)
	go func() {
		at, err := p.next(ctx, failed)
		results <- result{at, err}
	}()
	armed := func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.acked != nil }
	for !armed() {
		<-time.After(time.Millisecond)
	}
	for d.waiting() < former+2 {
		<-time.After(time.Millisecond)
	}
	d.release(3)
	select {
	case r := <-results:
		t.Fatalf("%v, %v for a message begun before the failure", r.at, r.err)
	case <-time.After(50 * time.Millisecond):
	}
	answered := time.Now()
	d.release(d.waiting())
	r := <-results
	if r.err != nil || r.at.Before(answered) || r.at.Sub(answered) > 5*time.Second {
		t.Errorf("%v after the answer, %v", r.at.Sub(answered), r.err)
	}

	short, cancelShort := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancelShort()
	if _, err := p.next(short, time.Now()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v while nothing is answered", err)
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args []string
		ok   bool
	}{
		{nil, true},
		{[]string{"-smoke"}, true},
		{[]string{"-rounds", "0"}, false},
		{[]string{"-duration", "0s"}, false},
		{[]string{"-render"}, false},
		{[]string{"now"}, false},
	} {
		if _, err := parse(c.args, t.Output()); (err == nil) != c.ok {
			t.Errorf("%q: %v", c.args, err)
		}
	}
	s, err := parse([]string{"-smoke", "-peers", "etcd"}, t.Output())
	if err != nil || s.rounds != 1 || s.peers != "etcd" {
		t.Errorf("%+v, %v", s, err)
	}
	cols, err := chooseColumns(s)
	if err != nil || len(cols) == 0 || len(cols) == len(columns()) {
		t.Errorf("%d loads in the short form, %v", len(cols), err)
	}
	s.columns = "kill,one"
	if cols, err = chooseColumns(s); err != nil || len(cols) != 2 || cols[0].id != "kill" {
		t.Errorf("%+v, %v", cols, err)
	}
	s.columns = "kill,two"
	if _, err = chooseColumns(s); err == nil {
		t.Error("an unknown load was accepted")
	}
}
