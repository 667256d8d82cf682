package test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/client"
	"github.com/parley-chat/parley/internal/local"
	"github.com/parley-chat/parley/internal/pause"
)

// clockRows are about clocks that jump.
func clockRows() []row {
	return []row{{
		name: "clock-jumps", happens: "the clock of one node after the other, mostly the leader's, jumps an hour ahead, back, or an hour behind; one time in two the leader is killed then",
		passes: "a session that is used every 2 s does not end before its time (10 s), nor does one live for ever; times of messages do not go back",
		needs:  []need{needGo}, run: clockJumps,
	}}
}

var needGo = needProgram("go")

// clocked is the parley program with a wall clock that can be moved while it runs.
//
// Nothing else moves the clock of one process: Go asks the kernel by way of the
// vDSO, which neither a preloaded library nor a tracer sees; time namespaces move
// the monotonic clocks only; and the machine's own clock is everybody's. So the
// program is built once more, as it is, with another time.Now: the standard library's
// plus what a file says. Monotonic readings, and with them timers, stay what they
// are, as when an administrator or NTP sets a clock.
var clocked = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	dir, src := filepath.Dir(program), filepath.Join(strings.TrimSpace(string(out)), "src", "time")
	b, err := os.ReadFile(filepath.Join(src, "time.go"))
	if err != nil {
		return "", err
	}
	const now = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if !strings.Contains(string(b), now) {
		return "", fmt.Errorf("%s does not have the lines that are to be changed:\n%s", src, now)
	}
	files := map[string]string{
		"time.go": strings.Replace(string(b), now, now+"\tsec += jumpSeconds.Load()\n", 1),
		"jump.go": jump,
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for name, text := range files {
		changed := filepath.Join(dir, "clocked-"+name)
		if err := os.WriteFile(changed, []byte(text), 0o600); err != nil {
			return "", err
		}
		overlay.Replace[filepath.Join(src, name)] = changed
	}
	if b, err = json.Marshal(overlay); err != nil {
		return "", err
	}
	list, binary := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "parley-clocked")
	if err := os.WriteFile(list, b, 0o600); err != nil {
		return "", err
	}
	if out, err := exec.Command("go", "build", "-overlay", list, "-o", binary, "../cmd/parley").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, nil
})

// jump is a file for package time. It looks every 10 ms, in a goroutine of its own,
// since the runtime asks for the time where nothing may wait.
const jump = `package time

import (
	"sync/atomic"
	"syscall"
)

var jumpSeconds atomic.Int64

func init() {
	if path, ok := syscall.Getenv("CLOCK_FILE"); ok {
		jumpSeconds.Store(readJump(path))
		go func() {
			for {
				Sleep(10 * Millisecond)
				jumpSeconds.Store(readJump(path))
			}
		}()
	}
}

func readJump(path string) (seconds int64) {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer syscall.Close(fd)
	var buf [20]byte
	n, _ := syscall.Read(fd, buf[:])
	sign := int64(1)
	for i := 0; i < n; i++ {
		switch b := buf[i]; {
		case b == '-':
			sign = -1
		case b >= '0' && b <= '9':
			seconds = seconds*10 + int64(b-'0')
		}
	}
	return sign * seconds
}
`

// setClock makes a node's clock wrong by so much.
func (e *episode) setClock(n *local.Node, by time.Duration) {
	e.Helper()
	tmp := clockFile(e.dir, n.Name) + ".new"
	err := os.WriteFile(tmp, fmt.Append(nil, int64(by/time.Second)), 0o600)
	if err == nil {
		err = os.Rename(tmp, clockFile(e.dir, n.Name))
	}
	if err != nil {
		e.Fatal(err)
	}
}

func clockFile(dir, node string) string { return filepath.Join(dir, node+".clock") }

func clockJumps(e *episode) {
	binary, err := clocked()
	if err != nil {
		e.Fatal(err)
	}
	const idle = 10 * time.Second
	e.start(setting{
		talk: true, args: []string{"--session-idle", idle.String()},
		local: func(cfg *local.Config) {
			cfg.Binary = binary
			cfg.Wrap = func(node string, argv []string) []string {
				return append([]string{"env", "CLOCK_FILE=" + clockFile(cfg.Dir, node)}, argv...)
			}
		},
	})
	awake := startSleeper(e, idle/5)
	forgotten := openSession(e)
	for i, by := range []time.Duration{time.Hour, 0, -time.Hour, 2 * time.Hour, time.Hour, -time.Hour} {
		n := e.leader()
		if e.rng.IntN(4) == 0 {
			n = e.follower()
		}
		e.fault(fmt.Sprintf("clock %+v", by), "%s", n.Name)
		e.setClock(n, by)
		time.Sleep(e.between(idle/5, idle/2))
		if i%2 == 1 {
			l := e.leader()
			e.fault("kill leader", "%s", l.Name)
			l.Kill()
			e.newLeader(l, commitsWithin)
			e.begin(l)
			e.whole()
		}
	}
	awake.stop()
	// Nobody touches the clocks, or the leader, any more; they stay wrong.
	e.eventuallyExpired(forgotten, 3*idle)
	e.healed()
}

// openSession opens a session by hand, which unlike a parley.Session is not
// replaced when it ends.
func openSession(e *episode) parley.SessionID {
	e.Helper()
	ctx, cancel := context.WithTimeout(e.Context(), patience)
	defer cancel()
	r, err := parley.Do(ctx, e.watch.client, parley.Request{Command: parley.OpenSession{}})
	if err == nil {
		err = r.Err()
	}
	if err != nil {
		e.Fatal(err)
	}
	return r.Session
}

// eventuallyExpired wants a session that nobody uses to be closed by then.
func (e *episode) eventuallyExpired(id parley.SessionID, within time.Duration) {
	e.Helper()
	// Asking uses a session, so that it is asked once.
	time.Sleep(within)
	ctx, cancel := context.WithTimeout(e.Context(), patience)
	defer cancel()
	r, err := parley.Do(ctx, e.watch.client, parley.Request{Session: id, Seq: 1, Command: parley.Ack{User: "nobody"}})
	if err != nil || r.Code != parley.CodeSessionExpired {
		e.Errorf("a session that nobody has used for %v still lives: %+v, %v", within, r, err)
	}
}

// sleeper uses a session now and then.
type sleeper struct {
	cancel context.CancelFunc
	done   chan struct{}
}

func startSleeper(e *episode, every time.Duration) *sleeper {
	e.Helper()
	id := openSession(e)
	ctx, cancel := context.WithCancel(context.Background())
	s := &sleeper{cancel, make(chan struct{})}
	c := newClientOf(e.T, client.Config{Servers: e.Servers(), Dial: e.Dial})
	go func() {
		defer close(s.done)
		for seq := uint64(1); pause.For(ctx, every); seq++ {
			r, err := parley.Do(ctx, c, parley.Request{Session: id, Seq: seq, Answered: seq - 1, Command: parley.Ack{User: "nobody"}})
			if err == nil && r.Code == parley.CodeSessionExpired {
				e.note("a session has expired")
				e.Errorf("a session that is used every %v has expired", every)
				return
			}
		}
	}()
	return s
}

func (s *sleeper) stop() {
	s.cancel()
	<-s.done
}
