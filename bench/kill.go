package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/bench/internal/peers"
	"github.com/parley-chat/parley/internal/bench"
)

// The load under which a leader is killed, and the probes that find out when the
// cluster takes messages again.
const (
	killSenders   = 64 // closed loops
	probeEvery    = 5 * time.Millisecond
	probePatience = time.Second      // with one probe
	killPatience  = 60 * time.Second // with a cluster that does not come back
)

// failovers kills the leader some times, each time under load, and returns how long
// it took until a message was acknowledged that was begun after the kill. Probes are
// begun every 5 ms whatever became of the former ones, so that no time-out or pause
// of a client library is counted as the cluster's: whoever waits for the first
// acknowledgement has it as soon as there is one.
func failovers(ctx context.Context, c *peers.Cluster, kills int) ([]outcome, error) {
	var values []outcome
	for range kills {
		d, err := failover(ctx, c)
		if err != nil {
			return values, err
		}
		values = append(values, outcome{rate: math.NaN(), p50: milliseconds(d), p99: math.NaN(), done: 1})
	}
	return values, nil
}

func failover(ctx context.Context, c *peers.Cluster) (time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("no failover within three minutes"))
	defer cancel()
	stopLoad, err := startLoad(ctx, c)
	if err != nil {
		return 0, err
	}
	defer stopLoad()
	dial, err := c.DialAll(ctx, int(4*probePatience/probeEvery))
	if err != nil {
		return 0, err
	}
	p, err := startProber(ctx, dial)
	if err != nil {
		return 0, err
	}
	defer p.stop()
	if _, err := p.next(ctx, time.Now().Add(time.Second)); err != nil { // under load for a while
		return 0, fmt.Errorf("before the kill: %w", err)
	}
	leader, err := c.Leader(ctx)
	if err != nil {
		return 0, err
	}
	waiting, cancel := context.WithTimeoutCause(ctx, killPatience, fmt.Errorf("nothing acknowledged within %v", killPatience))
	defer cancel()
	killed := time.Now()
	if err := kill(leader.PID()); err != nil {
		return 0, err
	}
	acked, err := p.next(waiting, time.Now()) // what begins from now on is not answered by the dead
	leader.Kill()                             // waits until the process is gone, which takes longer than being dead
	if err != nil {
		return 0, fmt.Errorf("after the kill: %w", err)
	}
	p.stop()
	stopLoad()
	if err := leader.Start(); err != nil {
		return 0, err
	}
	if err := c.WaitHealthy(ctx); err != nil {
		return 0, fmt.Errorf("after the restart: %w", err)
	}
	return acked.Sub(killed), nil
}

// kill kills a process. It does nothing any more when this returns.
func kill(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Kill()
}

// startLoad puts load on a cluster until it is told to stop.
func startLoad(ctx context.Context, c *peers.Cluster) (stop func(), err error) {
	dial, err := c.DialAll(ctx, 1)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = bench.Run(ctx, bench.Config{
			Dial: dial, Senders: killSenders, Window: 1, Size: messageBytes, Duration: time.Hour, Patience: 10 * time.Second,
		})
	}()
	return func() {
		cancel()
		<-done
	}, nil
}

// prober begins a message every 5 ms.
type prober struct {
	client  bench.Client
	session *parley.Session
	cancel  context.CancelFunc
	done    chan struct{} // closed when it begins no more
	once    sync.Once

	mu    sync.Mutex
	from  time.Time      // messages begun before it do not matter
	acked chan time.Time // receives when the first of the others was acknowledged
}

func startProber(ctx context.Context, dial bench.Dial) (*prober, error) {
	cl, err := dial(nil)
	if err != nil {
		return nil, err
	}
	p := &prober{client: cl, session: parley.NewSession(cl), done: make(chan struct{})}
	if _, err := p.session.Do(ctx, parley.CreateUser{Name: "probe"}); err != nil { // taken already: as good
		return nil, errors.Join(err, cl.Close())
	}
	ctx, p.cancel = context.WithCancel(ctx)
	go p.run(ctx)
	return p, nil
}

func (p *prober) run(ctx context.Context) {
	defer close(p.done)
	var under sync.WaitGroup
	defer under.Wait()
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		begun := time.Now()
		one, cancel := context.WithTimeout(ctx, probePatience)
		under.Add(1)
		p.session.Start(one, parley.Send{From: "bench", To: "probe", Body: "probe"}, func(res parley.Result, err error) {
			defer under.Done()
			cancel()
			if err == nil && res.Err() == nil {
				p.acknowledged(begun)
			}
		})
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// acknowledged notes that a message was acknowledged that had been begun at that time.
func (p *prober) acknowledged(begun time.Time) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.acked != nil && begun.After(p.from) {
		p.acked <- now
		p.acked = nil
	}
}

// next waits until a message has been acknowledged that was begun after t, and
// returns when the first of them was. What was acknowledged before the call does
// not count.
func (p *prober) next(ctx context.Context, t time.Time) (time.Time, error) {
	acked := make(chan time.Time, 1)
	p.mu.Lock()
	p.from, p.acked = t, acked
	p.mu.Unlock()
	select {
	case at := <-acked:
		return at, nil
	case <-ctx.Done():
		return time.Time{}, context.Cause(ctx)
	}
}

// stop ends the probes and their connection.
func (p *prober) stop() {
	p.once.Do(func() {
		p.cancel()
		<-p.done
		_ = p.client.Close()
	})
}
