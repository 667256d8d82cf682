package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// ErrNotRunning is returned for a node whose process does not run.
var ErrNotRunning = errors.New("not running")

// Node is one node: its place on this machine and, while it runs, its process.
// Safe for concurrent use.
type Node struct {
	Name   string
	Client string // host:port of the client listener
	Peer   string // host:port of the peer listener
	Ops    string // host:port of the ops listener
	Data   string // data directory
	Log    string // log file, appended to at each start

	c *Cluster

	mu   sync.Mutex
	proc *process // the latest; nil before the first start
}

// process is one life of a node.
type process struct {
	cmd     *exec.Cmd
	logFrom int64 // where its output begins in the log
	began   time.Time
	done    chan struct{} // closed when the process has ended and been reaped
	err     error         // valid once done is closed
	wanted  bool          // guarded by Node.mu
}

func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Start starts the process. args come after the cluster's own flags.
func (n *Node) Start(args ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc.running() {
		return fmt.Errorf("%s: already running", n.Name)
	}
	log, logFrom, err := openLog(n.Log)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own descriptor
	argv := n.argv(args)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = environ()
	cmd.Stdout, cmd.Stderr = log, log
	tieToParent(cmd)
	if err := n.c.startOnThread(cmd); err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	p := &process{cmd: cmd, logFrom: logFrom, began: time.Now(), done: make(chan struct{})}
	n.proc = p
	n.c.goroutines.Go(func() { n.wait(p) })
	return nil
}

// argv is the node's command line.
func (n *Node) argv(args []string) []string {
	argv := []string{
		n.c.cfg.Binary, "serve",
		"--name", n.Name, "--data", n.Data, "--certs", n.c.certs(), "--members", n.c.Members(),
		"--client-listen", n.Client, "--peer-listen", n.Peer, "--ops-listen", n.Ops,
		"--client-plaintext",
	}
	argv = append(argv, n.c.cfg.Args...)
	argv = append(argv, args...)
	if n.c.cfg.Wrap != nil {
		argv = n.c.cfg.Wrap(n.Name, argv)
	}
	return argv
}

// wait reaps the process and reports its end.
func (n *Node) wait(p *process) {
	err := p.cmd.Wait()
	n.mu.Lock()
	p.err = err
	exit := Exit{Node: n, PID: p.cmd.Process.Pid, Err: err, Wanted: p.wanted, After: time.Since(p.began)}
	close(p.done)
	n.mu.Unlock()
	if n.c.cfg.OnExit != nil {
		n.c.cfg.OnExit(exit)
	}
}

// PID returns the process id, 0 if the node does not run.
func (n *Node) PID() int {
	if p := n.current(); p.running() {
		return p.cmd.Process.Pid
	}
	return 0
}

// Exited returns a channel that is closed when the current process has ended.
// It is closed already if the node does not run.
func (n *Node) Exited() <-chan struct{} {
	if p := n.current(); p != nil {
		return p.done
	}
	closed := make(chan struct{})
	close(closed)
	return closed
}

func (n *Node) current() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc
}

// ended reports whether the process ended without being asked to.
func (n *Node) ended() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc != nil && !n.proc.running() && !n.proc.wanted
}

// signal sends a signal to the running process, which thereby is wanted to end
// or not.
func (n *Node) signal(s os.Signal, wanted bool) (*process, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.proc.running() {
		return nil, fmt.Errorf("%s: %w", n.Name, ErrNotRunning)
	}
	n.proc.wanted = n.proc.wanted || wanted
	err := n.proc.cmd.Process.Signal(s)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return nil, fmt.Errorf("%s: %w", n.Name, err)
	}
	return n.proc, nil
}

// SendKill is [Node.Kill] without the wait: a process that waits for its disk may
// not be gone for a while.
func (n *Node) SendKill() { _, _ = n.signal(os.Kill, true) }

// Kill ends the process as a power cut would (SIGKILL), paused or not, and
// waits until it is gone. It does nothing if the node does not run.
func (n *Node) Kill() {
	if p, err := n.signal(os.Kill, true); err == nil {
		<-p.done
	}
}

// Stop asks the process to end (SIGTERM) and waits. After the stop time-out, or
// when ctx ends, the process is killed and an error says so. It does nothing if
// the node does not run.
func (n *Node) Stop(ctx context.Context) error {
	p, err := n.signal(sigTerm, true)
	if err != nil {
		if errors.Is(err, ErrNotRunning) {
			return nil
		}
		return err
	}
	_ = n.Resume() // a paused process cannot stop
	t := time.NewTimer(n.c.cfg.StopTimeout)
	defer t.Stop()
	select {
	case <-p.done:
		if p.err != nil && !endedBy(p.err, sigTerm) { // it may not have come far enough to catch the signal
			return fmt.Errorf("%s: %w: %s", n.Name, p.err, n.LastLog())
		}
		return nil
	case <-t.C:
		n.Kill()
		return fmt.Errorf("%s did not stop within %v: killed", n.Name, n.c.cfg.StopTimeout)
	case <-ctx.Done():
		n.Kill()
		return fmt.Errorf("%s: killed: %w", n.Name, context.Cause(ctx))
	}
}

// Restart kills the process if it runs and starts it again.
func (n *Node) Restart(args ...string) error {
	n.Kill()
	return n.Start(args...)
}

// Pause halts the process (SIGSTOP), as soon as the system has delivered the
// signal: its sockets stay open and nobody answers.
func (n *Node) Pause() error { _, err := n.signal(sigStop, false); return err }

// Resume ends a pause (SIGCONT).
func (n *Node) Resume() error { _, err := n.signal(sigCont, false); return err }

// Wipe removes the data of a node that does not run, as if its disk had been
// replaced. The certificate stays.
func (n *Node) Wipe() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc.running() {
		return fmt.Errorf("%s: still running", n.Name)
	}
	return os.RemoveAll(n.Data)
}

// Ready asks the node once whether it is ready, and returns why not.
func (n *Node) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	body, err := n.Get(ctx, "/readyz")
	if err != nil {
		return fmt.Errorf("%s: not ready: %w: %s", n.Name, err, body)
	}
	return nil
}

// Get fetches a page of the ops listener. Any status but 200 is an error.
func (n *Node) Get(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.Ops+path, nil)
	if err != nil {
		return "", err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: n.c.cfg.Dial}}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	body := strings.TrimSpace(string(b))
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(res.Status)
	}
	return body, err
}

// WaitReady waits until the node is ready. It fails at once when the process
// ends or does not run.
func (n *Node) WaitReady(ctx context.Context) error {
	exited := n.Exited()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		err := n.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("%s ended before it was ready: %s", n.Name, n.LastLog())
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}
