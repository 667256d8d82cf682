package bench

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/parley-chat/parley"
)

// load runs senders and readers until the time is up.
func (r *run) load(ctx context.Context) error {
	end, cancel := context.WithCancel(context.WithoutCancel(ctx)) // of readers and acknowledgements
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()

	defer r.closeSenders()
	if err := r.openSenders(ctx); err != nil {
		return err
	}
	if r.cfg.Mode == E2E {
		if err := r.startReaders(ctx, end, &background); err != nil {
			return err
		}
	} else {
		background.Go(func() { r.acknowledge(end) })
	}

	r.m.begin()
	stop, cancelStop := context.WithTimeout(ctx, r.m.end())
	defer cancelStop()
	defer context.AfterFunc(ctx, r.m.cut)()
	var senders, follower sync.WaitGroup
	drained := make(chan struct{})
	follower.Go(func() { r.m.follow(drained, r.cfg.Progress) })
	for _, s := range r.senders {
		senders.Go(func() { s.run(stop) })
	}
	<-stop.Done()
	err := r.sample(ctx, &r.after)
	senders.Wait()
	r.m.cut()
	close(drained)
	follower.Wait()
	return err
}

// openSenders connects all senders, some at a time, and opens their sessions.
func (r *run) openSenders(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Patience+time.Duration(r.cfg.Senders)*10*time.Millisecond)
	defer cancel()
	r.senders = make([]*sender, r.cfg.Senders)
	return parallel(ctx, r.cfg.Senders, func(i int) (err error) {
		r.senders[i], err = r.newSender(ctx, i)
		return err
	})
}

func (r *run) closeSenders() {
	_ = parallel(context.Background(), len(r.senders), func(i int) error {
		if s := r.senders[i]; s != nil {
			s.close()
		}
		return nil
	})
}

// parallel calls f for 0 to n-1, up to 64 at a time, and returns the first
// error, after which no more calls begin.
func parallel(ctx context.Context, n int, f func(i int) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 64)
	failed := make(chan error, 1)
	for i := 0; i < n && ctx.Err() == nil; i++ {
		slots <- struct{}{}
		wg.Go(func() {
			if err := f(i); err != nil {
				select {
				case failed <- err:
				default:
				}
				cancel()
			}
			<-slots
		})
	}
	wg.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return ctx.Err()
	}
}

// sender begins commands, up to Window at a time.
type sender struct {
	r       *run
	index   int
	shard   *shard
	client  Client
	session *parley.Session
	ops     []op
	free    chan *op      // those that are not under way
	first   time.Duration // when the first command is due
	every   time.Duration // between two; 0: no pause
	box     int           // index of the mailbox with which it begins
	timer   *time.Timer

	end     context.Context // ends when the sender is closed; its queries do, too
	cancel  context.CancelFunc
	queries sync.WaitGroup
}

// newSender connects a sender and opens its session.
func (r *run) newSender(ctx context.Context, i int) (*sender, error) {
	c, err := r.cfg.Dial(r.connection)
	if err != nil {
		return nil, err
	}
	s := &sender{
		r: r, index: i, shard: r.m.shard(i), client: c, session: parley.NewSession(c),
		ops: make([]op, r.cfg.Window), free: make(chan *op, r.cfg.Window),
		box: i * r.cfg.Users / r.cfg.Senders, timer: time.NewTimer(time.Hour),
	}
	s.end, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for j := range s.ops {
		o := &s.ops[j]
		o.s, o.slot = s, j
		o.done = o.outcome
		s.free <- o
	}
	if r.cfg.Rate > 0 {
		s.every = time.Duration(float64(time.Second) * float64(r.cfg.Senders) / r.cfg.Rate)
		s.first = s.every * time.Duration(i) / time.Duration(r.cfg.Senders)
	}
	if r.cfg.Mode == List {
		_, err = c.Get(ctx, parley.Inbox{User: r.boxes[0].name, Limit: -1}) // until it is connected
	} else {
		_, err = s.session.Do(ctx, parley.Ack{User: r.boxes[s.box].name}) // acknowledges nothing
	}
	if err != nil {
		err = because(c, err)
		s.close()
		return nil, fmt.Errorf("connect sender %d: %w", i+1, err)
	}
	return s, nil
}

// close ends everything under way, which fails it, and waits for it.
func (s *sender) close() {
	s.timer.Stop()
	s.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = s.session.Close(ctx) // else it expires
	_ = s.client.Close()
	s.queries.Wait()
}

// run begins commands until stop ends, then waits for their outcomes.
func (s *sender) run(stop context.Context) {
	m := s.r.m
	for n := 0; ; n++ {
		o := s.take(stop)
		if o == nil {
			s.omitted(n)
			break
		}
		now := m.now()
		start := now
		if s.every > 0 {
			if start = s.due(n); now < start {
				if start < m.end() && s.sleep(stop, start-now) {
					now = start
				} else {
					now = m.end() // it is over
				}
			}
		}
		if now >= m.end() {
			s.free <- o
			s.omitted(n)
			break
		}
		o.begin(n, start)
	}
	s.drain()
}

// due is when the nth command is to begin.
func (s *sender) due(n int) time.Duration { return s.first + time.Duration(n)*s.every }

// take waits for a slot; nil means that stop has ended.
func (s *sender) take(stop context.Context) *op {
	select {
	case o := <-s.free:
		return o
	default:
	}
	select {
	case o := <-s.free:
		return o
	case <-stop.Done():
		return nil
	}
}

// sleep waits and reports whether stop is still alive.
func (s *sender) sleep(stop context.Context, d time.Duration) bool {
	s.timer.Reset(d)
	select {
	case <-s.timer.C:
		return true
	case <-stop.Done():
		return false
	}
}

// omitted takes down what was due from the nth command on.
func (s *sender) omitted(n int) {
	if s.every == 0 {
		return
	}
	m := s.r.m
	for end := min(m.end(), m.now()); s.due(n) < end; n++ {
		s.shard.omitted(s.r.kind(n), s.due(n))
	}
}

// drain waits for the outcomes of what is under way. What has none when the
// patience is at its end fails.
func (s *sender) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), s.r.cfg.Patience)
	defer cancel()
	for back := 0; back < len(s.ops); back++ {
		select {
		case <-s.free:
		case <-ctx.Done():
			s.close() // after which every command has its outcome
			for i := range s.ops {
				s.ops[i].abandon()
			}
			return
		}
	}
}
