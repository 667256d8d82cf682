package test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/client"
	"github.com/parley-chat/parley/internal/local"
	"github.com/parley-chat/parley/internal/pause"
)

// resourceRows are about what there is too little of: memory, descriptors, readers
// that read.
func resourceRows() []row {
	return []row{
		{
			name: "memory-limit", happens: "nodes that get no more than 512 MiB (`RLIMIT_DATA`, half of it for `GOMEMLIMIT`) are sent 192 MiB of mail that nobody reads, beside the load",
			passes: "all of it is acknowledged and there, also after all nodes were killed; no node ends by itself",
			needs:  []need{needProgram("prlimit")}, run: memoryLimit,
		},
		{
			name: "descriptors", happens: "nodes that get no more than 200 descriptors (`RLIMIT_NOFILE`) are connected to 600 times, for 10 s, three times",
			passes: "clients that were there go on without a pause of more than 10 s, a new one is served within 10 s of the end; no node ends by itself",
			needs:  []need{needProgram("prlimit")}, run: descriptors,
		},
		{
			name: "idle-and-slow-readers", happens: "5,000 readers are connected and get nothing; 500 get much and take nothing in",
			passes: "no node has grown by more than 400 MiB; p99 of sending by others is stated",
			needs:  []need{needDescriptors(8000)}, run: manyReaders,
		},
		{
			name: "never-acknowledged", happens: "a reader is shown 120,000 messages, an hour's worth at 33 per second, and acknowledges none",
			passes: "100,000 are taken, the others are refused with the limit named; no node has grown by more than 256 MiB, nor its data beyond 512 MiB; when the reader acknowledges, mail is taken again",
			needs:  []need{needProc}, run: neverAcknowledged,
		},
	}
}

var needProc = need{"`/proc`", func() string {
	if _, err := os.Stat("/proc/self/statm"); err != nil {
		return err.Error()
	}
	return ""
}}

// needDescriptors is a limit of this process on open files.
func needDescriptors(least int) need {
	return need{fmt.Sprintf("%d descriptors", least), func() string {
		limits, err := os.ReadFile("/proc/self/limits")
		if err != nil {
			return err.Error()
		}
		have := 0
		_, rest, _ := strings.Cut(string(limits), "Max open files")
		if _, err := fmt.Sscan(rest, &have); err != nil || have < least {
			return fmt.Sprintf("the limit is %d (ulimit -n)", have)
		}
		return ""
	}}
}

// wrapped starts nodes by way of another program.
func wrapped(by ...string) func(*local.Config) {
	return func(cfg *local.Config) {
		cfg.Wrap = func(_ string, argv []string) []string { return append(by[:len(by):len(by)], argv...) }
	}
}

// bulk sends messages to a mailbox, many at a time, and returns how many were taken
// and how many refused for which reason.
func (e *episode) bulk(to string, n, size int) (taken int64, refused map[string]int) {
	e.Helper()
	var mu sync.Mutex
	var ok atomic.Int64
	refused = make(map[string]int)
	s := newClientOf(e.T, client.Config{Servers: e.Servers(), Dial: e.Dial}).Session()
	ctx, cancel := context.WithTimeout(e.Context(), 5*time.Minute)
	defer cancel()
	var under sync.WaitGroup
	slots := make(chan struct{}, 512)
	body := strings.Repeat("x", size)
	for range n {
		slots <- struct{}{}
		under.Add(1)
		s.Start(ctx, parley.Send{From: "bulk", To: to, Body: body}, func(r parley.Result, err error) {
			defer under.Done()
			<-slots
			if err = errors.Join(err, r.Err()); err == nil {
				ok.Add(1)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			refused[err.Error()]++
		})
	}
	under.Wait()
	return ok.Load(), refused
}

func memoryLimit(e *episode) {
	const limit = 512 << 20
	e.start(setting{
		senders: 1,
		args:    []string{"--dirty-bytes", "32MiB", "--checkpoint-bytes", "8MiB", "--replay-bytes", "32MiB", "--queue-bytes", "4MiB"},
		local:   wrapped("env", "GOMEMLIMIT=256MiB", "prlimit", fmt.Sprintf("--data=%d", limit)),
	})
	c := newClientOf(e.T, client.Config{Servers: e.Servers(), Dial: e.Dial})
	s := c.Session()
	must(e.T, s, parley.CreateUser{Name: "heap"})
	const messages, size = 12288, 16 << 10
	e.fault("memory is short", "%d messages of %d bytes", messages, size)
	if taken, refused := e.bulk("heap", messages, size); taken != messages {
		e.Errorf("%d of %d messages were taken: %v", taken, messages, refused)
	}
	for _, n := range e.Nodes() {
		if pid := n.PID(); pid != 0 {
			e.extra = append(e.extra, fmt.Sprintf("%s has %d MiB", n.Name, rss(e.T, pid)>>20))
		}
	}
	e.fault("kill all", "")
	e.Kill()
	if err := e.Start(); err != nil {
		e.Fatal(err)
	}
	e.whole()
	e.healed()
	ctx, cancel := context.WithTimeout(e.Context(), patience)
	defer cancel()
	r, err := c.Get(ctx, parley.Inbox{User: "heap", Limit: -1})
	if err != nil || r.Unread != messages {
		e.Errorf("%d of %d messages are there, %v", r.Unread, messages, err)
	}
}

func descriptors(e *episode) {
	e.start(setting{args: logStore(e), local: wrapped("prlimit", "--nofile=200:200")})
	for range 3 {
		n := e.leader()
		if e.rng.IntN(3) == 0 {
			n = e.follower()
		}
		e.fault("descriptors used up", "%s", n.Name)
		var conns []net.Conn
		gap := e.longestGap(func() {
			for range 600 {
				conn, err := net.DialTimeout("tcp", n.Client, 100*time.Millisecond)
				if err != nil {
					break // not even the system takes more
				}
				conns = append(conns, conn)
			}
			time.Sleep(10 * time.Second)
		})
		// Half of so few are for clients, the others for the node.
		if open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.PID())); err != nil || len(open) < 100 || len(open) > 190 {
			e.Errorf("%s has %d open descriptors, want 100 that clients use up, and some of the others left: %v", n.Name, len(open), err)
		}
		for _, conn := range conns {
			conn.Close()
		}
		e.healed()
		e.extra = append(e.extra, fmt.Sprintf("%d connections, longest pause %v", len(conns), gap.Round(time.Millisecond)))
		if gap > commitsWithin {
			e.Errorf("nothing was acknowledged for %v while %s had %d connections", gap, n.Name, len(conns))
		}
		ctx, cancel := context.WithTimeout(e.Context(), commitsWithin)
		defer cancel()
		c := newClientOf(e.T, client.Config{Servers: []string{n.Client}, Any: true})
		if _, err := parley.Do(ctx, c, parley.Request{Command: parley.OpenSession{}}); err != nil {
			e.Errorf("%s does not serve a new client %v after the others were gone: %v", n.Name, commitsWithin, err)
		}
	}
}

// listener connects as a user with the classic protocol and takes nothing in.
func listener(addr, user string) (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	frame := make([]byte, 1024)
	copy(frame, "connect")
	copy(frame[15:], user)
	err = errors.Join(conn.(*net.TCPConn).SetReadBuffer(4096), conn.SetDeadline(time.Now().Add(patience)))
	if _, err2 := conn.Write(frame); err != nil || err2 != nil {
		conn.Close()
		return nil, errors.Join(err, err2)
	}
	return conn, nil
}

func manyReaders(e *episode) {
	const idle, slow = 5000, 500
	e.start(setting{senders: 1, boxes: 2})
	s := newClientOf(e.T, client.Config{Servers: e.Servers(), Dial: e.Dial}).Session()
	for i := range 10 {
		must(e.T, s, parley.CreateUser{Name: fmt.Sprint("idle", i)})
		must(e.T, s, parley.CreateUser{Name: fmt.Sprint("slow", i)})
	}
	p99 := func(d time.Duration) time.Duration {
		e.load.latency.reset()
		time.Sleep(d)
		return e.load.latency.quantile(99)
	}
	alone, before := p99(5*time.Second), e.resident()
	var conns []net.Conn
	defer func() {
		for _, conn := range conns {
			conn.Close()
		}
	}()
	e.fault("idle and slow readers", "%d, %d", idle, slow)
	for i := range idle + slow {
		user := fmt.Sprint("idle", i%10)
		if i >= idle {
			user = fmt.Sprint("slow", i%10)
		}
		conn, err := listener(e.Nodes()[i%3].Client, user)
		if err != nil {
			e.Fatalf("reader %d: %v", i, err)
		}
		conns = append(conns, conn)
	}
	var fill sync.WaitGroup
	for i := range 10 {
		fill.Go(func() {
			if taken, refused := e.bulk(fmt.Sprint("slow", i), 500, 900); taken != 500 {
				e.Errorf("%d of 500 messages to slow%d were taken: %v", taken, i, refused)
			}
		})
	}
	fill.Wait()
	busy := p99(10 * time.Second)
	grown := e.growth(before)
	e.extra = append(e.extra, fmt.Sprintf("p99 of sending %v, alone %v", busy, alone))
	e.bounded(grown, 400<<20)
	e.healed()
}

// resident is the memory that each node has, in bytes.
func (e *episode) resident() map[string]int {
	all := make(map[string]int)
	for _, n := range e.Nodes() {
		all[n.Name] = rss(e.T, n.PID())
	}
	return all
}

// growth is the most by which a node has more memory than before.
func (e *episode) growth(before map[string]int) (most int) {
	for name, now := range e.resident() {
		most = max(most, now-before[name])
	}
	return most
}

// bounded wants nodes not to have grown by too much.
func (e *episode) bounded(grown, most int) {
	e.Helper()
	e.extra = append(e.extra, fmt.Sprintf("grown by %d MiB", grown>>20))
	if grown > most {
		e.Errorf("a node has grown by %d MiB, want at most %d", grown>>20, most>>20)
	}
}

func neverAcknowledged(e *episode) {
	const limit, sent = 100_000, 120_000
	e.start(setting{senders: 1, boxes: 2})
	c := newClientOf(e.T, client.Config{Servers: e.Servers(), Dial: e.Dial})
	s := c.Session()
	must(e.T, s, parley.CreateUser{Name: "never"})
	before := e.resident()
	shown, last := e.stare(c, "never")
	e.fault("nothing acknowledged", "")
	taken, refused := e.bulk("never", sent, 100)
	if taken != limit {
		e.Errorf("%d messages were taken, want %d", taken, limit)
	}
	for why, n := range refused {
		if !strings.Contains(why, fmt.Sprint(limit)) {
			e.Errorf("%d messages were refused without the limit: %s", n, why)
		}
	}
	eventually(e.T, func() error {
		if shown.Load() != limit {
			return fmt.Errorf("%d messages were shown, want %d", shown.Load(), limit)
		}
		return nil
	})
	e.bounded(e.growth(before), 256<<20)
	for _, n := range e.Nodes() {
		size := dirSize(n.Data)
		e.extra = append(e.extra, fmt.Sprintf("data of %s: %d MiB", n.Name, size>>20))
		if size > 512<<20 {
			e.Errorf("the data of %s have %d MiB", n.Name, size>>20)
		}
	}
	must(e.T, s, parley.Ack{User: "never", UpTo: *last.Load()})
	must(e.T, s, parley.Send{To: "never", Body: "room again"})
	e.healed()
}

// stare watches a mailbox and acknowledges nothing. It counts what it is shown, and
// keeps the last position.
func (e *episode) stare(c *client.Client, user string) (shown *atomic.Int64, last *atomic.Pointer[parley.Cursor]) {
	shown, last = new(atomic.Int64), new(atomic.Pointer[parley.Cursor])
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		var at parley.Cursor
		for pause.For(ctx, 10*time.Millisecond) {
			for m, err := range c.Watch(ctx, user, at) {
				if err != nil {
					break
				}
				at = m.Cursor
				last.Store(&at)
				shown.Add(1)
			}
		}
	})
	e.Cleanup(func() { cancel(); done.Wait() })
	return shown, last
}

// dirSize is how many bytes the files of a directory take.
func dirSize(dir string) (size int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				size += info.Size()
			}
		}
		return nil // files come and go
	})
	return size
}
