package local_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/parley-chat/parley/internal/local"
)

// TestMain lets the test binary stand in for the parley binary.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "certs":
			os.Exit(0)
		case "serve":
			os.Exit(fakeServe(os.Args[2:]))
		case "supervise": // for TestNothingOutlivesTheParent
			supervise(os.Args[2])
		}
	}
	os.Exit(m.Run())
}

// fakeServe answers /readyz until it gets SIGTERM.
func fakeServe(args []string) int {
	value := func(flag string) string { return args[slices.Index(args, flag)+1] }
	if slices.Contains(args, "--fail") {
		fmt.Println("parley: the disk is damaged")
		fmt.Println("level=INFO msg=meanwhile")
		return 1
	}
	if err := os.MkdirAll(value("--data"), 0o700); err != nil {
		return 1
	}
	ln, err := net.Listen("tcp", value("--ops-listen"))
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if slices.Contains(args, "--slow-start") { // has not come to catching signals
		select {}
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintln(w, "ok")
	}))
	for {
		<-term
		if !slices.Contains(args, "--stubborn") {
			return 0
		}
	}
}

func supervise(dir string) {
	c, err := local.New(context.Background(), local.Config{Dir: dir, Nodes: 1})
	if err == nil {
		err = c.Start()
	}
	if err == nil {
		err = c.WaitReady(context.Background())
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(c.Node("n1").PID())
	select {}
}

func newCluster(t *testing.T, cfg local.Config) *local.Cluster {
	t.Helper()
	cfg.Dir = t.TempDir()
	c, err := local.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func startReady(t *testing.T, c *local.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestLifeOfANode(t *testing.T) {
	exits := make(chan local.Exit, 10)
	c := newCluster(t, local.Config{OnExit: func(e local.Exit) { exits <- e }})
	startReady(t, c)
	n := c.Node("n2")

	pid := n.PID()
	n.Kill()
	if n.PID() != 0 {
		t.Errorf("pid %d after Kill", n.PID())
	}
	if n.Ready(t.Context()) == nil {
		t.Error("ready after Kill")
	}
	if e := <-exits; e.Node != n || e.PID != pid || !e.Wanted || e.Err == nil {
		t.Errorf("exit %+v", e)
	}

	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err == nil {
		t.Error("started twice")
	}
	if err := n.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n.PID() == pid {
		t.Error("same pid after restart")
	}

	if err := n.Pause(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); n.Ready(t.Context()) == nil; { // the signal takes a moment
		if time.Now().After(deadline) {
			t.Fatal("ready while paused")
		}
	}
	if err := n.Stop(t.Context()); err != nil { // paused or not
		t.Errorf("Stop: %v", err)
	}
	if e := <-exits; !e.Wanted || e.Err != nil {
		t.Errorf("exit %+v", e)
	}
	if err := n.Wipe(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(n.Data); !os.IsNotExist(err) {
		t.Errorf("data after Wipe: %v", err)
	}
	if err := c.Node("n1").Wipe(); err == nil {
		t.Error("wiped a running node")
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Errorf("Stop: %v", err)
	}
}

func TestUnwantedEnd(t *testing.T) {
	exits := make(chan local.Exit, 10)
	c := newCluster(t, local.Config{Nodes: 1, OnExit: func(e local.Exit) { exits <- e }})
	n := c.Node("n1")
	if err := n.Start("--fail"); err != nil {
		t.Fatal(err)
	}
	err := c.WaitReady(t.Context())
	if err == nil || !strings.Contains(err.Error(), "the disk is damaged") {
		t.Errorf("WaitReady: %v, want the last line of the log", err)
	}
	if e := <-exits; e.Wanted || e.Err == nil {
		t.Errorf("exit %+v", e)
	}
	if err := n.Start(); err != nil { // another life, another log
		t.Fatal(err)
	}
	if err := n.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if last := n.LastLog(); last != "" {
		t.Errorf("last line of the log: %q, want none since the start", last)
	}
}

func TestStubbornNodeIsKilled(t *testing.T) {
	c := newCluster(t, local.Config{Nodes: 1, Args: []string{"--stubborn"}, StopTimeout: 50 * time.Millisecond})
	startReady(t, c)
	if err := c.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Stop: %v", err)
	}
	if c.Node("n1").PID() != 0 {
		t.Error("still running")
	}
}

func TestStopOfAStartingNode(t *testing.T) {
	c := newCluster(t, local.Config{Nodes: 1, Args: []string{"--slow-start"}})
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(t.Context()); err != nil {
		t.Errorf("Stop: %v", err)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	c := newCluster(t, local.Config{})
	startReady(t, c)
	pid := c.Node("n3").PID()
	c.Close()
	if alive(pid) {
		t.Error("a node survived Close")
	}
	if err := c.Node("n1").Start(); err == nil {
		t.Error("started after Close")
	}
}

func TestNothingOutlivesTheParent(t *testing.T) {
	if _, err := os.Stat("/proc/self"); err != nil {
		t.Skip("only Linux ties processes to their parent")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "supervise", filepath.Join(t.TempDir(), "d"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	if !alive(pid) {
		t.Fatal("the node does not run")
	}
	cmd.Process.Kill()
	cmd.Wait()
	for deadline := time.Now().Add(10 * time.Second); alive(pid); {
		if time.Now().After(deadline) {
			t.Fatal("the node outlived its parent")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// alive reports whether the process exists and is not a zombie.
func alive(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	return len(fields) > 0 && fields[0] != "Z"
}

func TestPorts(t *testing.T) {
	c := newCluster(t, local.Config{ClientPort: 3000, PeerPort: 7000, OpsPort: 8080})
	n := c.Node("n3")
	if n.Client != "127.0.0.1:3002" || n.Peer != "127.0.0.1:7002" || n.Ops != "127.0.0.1:8082" {
		t.Errorf("n3 at %s %s %s", n.Client, n.Peer, n.Ops)
	}
	if got := c.Members(); got != "n1=127.0.0.1:7000,n2=127.0.0.1:7001,n3=127.0.0.1:7002" {
		t.Errorf("members %s", got)
	}
	if _, err := local.New(t.Context(), local.Config{Dir: t.TempDir(), ClientPort: 3000, PeerPort: 3002, OpsPort: 1}); err == nil {
		t.Error("overlapping ports accepted")
	}
	if _, err := local.New(t.Context(), local.Config{Dir: t.TempDir(), ClientPort: 65535}); err == nil {
		t.Error("port 65536 accepted")
	}
}

func TestCheckPorts(t *testing.T) {
	c := newCluster(t, local.Config{})
	if err := c.CheckPorts(); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", c.Node("n2").Peer)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if err := c.CheckPorts(); err == nil || !strings.Contains(err.Error(), c.Node("n2").Peer) {
		t.Errorf("CheckPorts: %v, want an error that names %s", err, c.Node("n2").Peer)
	}
}

// The nodes' pages are fetched over connections that the caller makes.
func TestDial(t *testing.T) {
	var dialled atomic.Int64
	c := newCluster(t, local.Config{Nodes: 1, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialled.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}})
	startReady(t, c)
	if dialled.Load() == 0 {
		t.Error("nothing was dialled")
	}
	conn, err := c.Dial(t.Context(), "tcp", c.Node("n1").Ops)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}
