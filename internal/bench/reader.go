package bench

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/pause"
)

// reader reads one mailbox over a connection of its own.
type reader struct {
	r      *run
	box    *mailbox
	client Client
	ready  chan struct{} // closed when the first message has been shown
	once   sync.Once
}

// startReaders connects a reader for each mailbox, and waits until each has been
// shown a first message.
func (r *run) startReaders(ctx, end context.Context, background *sync.WaitGroup) error {
	ctx, cancel := context.WithTimeout(ctx, r.settingUp())
	defer cancel()
	return parallel(ctx, len(r.boxes), func(i int) error {
		c, err := r.cfg.DialReader(r.connection)
		if err != nil {
			return err
		}
		rd := &reader{r: r, box: &r.boxes[i], client: c, ready: make(chan struct{})}
		background.Go(func() { rd.run(end) })
		res, err := r.session.Do(ctx, parley.Send{From: "bench", To: rd.box.name, Body: "ready?"})
		if err == nil {
			err = res.Err()
		}
		if err != nil {
			return err
		}
		select {
		case <-rd.ready:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("reader %d was shown nothing: %w", i+1, context.Cause(ctx))
		}
	})
}

// run reads until ctx ends, going on after the last message seen when the client
// gives up.
func (rd *reader) run(ctx context.Context) {
	defer rd.client.Close()
	var last parley.Cursor
	for {
		for m, err := range rd.client.Receive(ctx, rd.box.name, last) {
			if err != nil {
				if ctx.Err() == nil {
					rd.r.problems.add("read", err)
				}
				break
			}
			rd.deliver(m)
			last = m.Cursor
		}
		if !pause.For(ctx, 50*time.Millisecond) {
			return
		}
	}
}

// deliver tells the sender of a message that it has been shown.
func (rd *reader) deliver(m parley.Message) {
	now := rd.r.m.now()
	t, ok := parseTag(m.Body)
	if !ok {
		rd.once.Do(func() { close(rd.ready) })
		return
	}
	if t.sender < len(rd.r.senders) && t.slot < rd.r.cfg.Window {
		rd.r.senders[t.sender].ops[t.slot].delivered(t.number, now)
	}
}
