package peer

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley/certs"
)

// idle waits until n looks after nobody.
func idle(t testing.TB, n *Network) {
	t.Helper()
	eventually(t, "nobody is looked after", func() bool {
		n.watch.mu.Lock()
		defer n.watch.mu.Unlock()
		for _, s := range n.watch.suspects {
			if s.looking {
				return false
			}
		}
		return true
	})
}

// none fails the test if a crash has been told, once all looks are over.
func none(t testing.TB, n *Network) {
	t.Helper()
	idle(t, n)
	select {
	case name := <-n.Crashed():
		t.Errorf("%s was told that %s crashed", n.cfg.Name, name)
	default:
	}
}

// suspected waits until n has looked after a member at least once.
func suspected(t testing.TB, n *Network, member string) {
	t.Helper()
	eventually(t, member+" is looked after", func() bool {
		n.watch.mu.Lock()
		defer n.watch.mu.Unlock()
		return n.watch.suspects[member] != nil
	})
}

func TestCrashIsToldOncePerCrash(t *testing.T) {
	dir := authority(t, "n1", "n2")
	n1, _ := listen(t, dir, "n1")
	n1.Serve(fake())
	n2, _ := listen(t, dir, "n2")
	addr := n2.Addr()
	for round := range 3 {
		introduced(n1, n2)
		n2.Serve(fake())
		answerRaft(t, n2)
		connected(t, n1, "n2") // forwarding connections both ways, and one of Raft
		connected(t, n2, "n1")
		must(t, vote(n1, "n2"))
		none(t, n1)
		must(t, n2.Close()) // to the others it looks like the end of its process
		if name := within(t, "the crash is told", n1.Crashed()); name != "n2" {
			t.Fatalf("round %d: told that %s crashed", round, name)
		}
		n1.raft.CloseStreams()
		none(t, n1)
		n2, _ = listen(t, dir, "n2", at(addr))
	}
}

// A follower may have nothing but connections that the leader made.
func TestCrashSeenOnInboundConnectionOnly(t *testing.T) {
	dir := authority(t, "n1", "n2")
	n1, _ := listen(t, dir, "n1")
	n2, _ := listen(t, dir, "n2") // nobody calls Serve: it takes no forwarding connections
	answerRaft(t, n1)
	introduced(n1, n2)
	must(t, vote(n2, "n1"))
	if _, err := n1.Peer("n2").current(); err == nil {
		t.Fatal("n1 has a connection of its own to n2; this test looks at the wrong thing")
	}
	must(t, n2.Close())
	if name := within(t, "the crash is told", n1.Crashed()); name != "n2" {
		t.Errorf("told that %s crashed", name)
	}
}

// A follower may have nothing but the idle forwarding connection it made.
func TestCrashSeenOnIdleForwardingConnectionOnly(t *testing.T) {
	dir := authority(t, "n1", "n2")
	n1, _ := listen(t, dir, "n1")
	n2, _ := listen(t, dir, "n2")
	n2.Serve(fake())
	n1.Learn("n2", n2.Addr().String())
	connected(t, n1, "n2")
	must(t, n2.Close())
	if name := within(t, "the crash is told", n1.Crashed()); name != "n2" {
		t.Errorf("told that %s crashed", name)
	}
}

func TestLostConnectionIsNoCrash(t *testing.T) {
	dir := authority(t, "n1", "n2")
	n1, _ := listen(t, dir, "n1")
	n2, _ := listen(t, dir, "n2")
	n2.Serve(fake())
	p := newProxy(t, n2.Addr())
	n1.Learn("n2", p.addr())
	for range 3 {
		connected(t, n1, "n2")
		p.cut()
		suspected(t, n1, "n2")
		none(t, n1)
	}
	must(t, n1.Close())
	suspected(t, n2, "n1") // whose address it does not know
	none(t, n2)
}

func TestOwnCloseIsNoCrash(t *testing.T) {
	dir := authority(t, "n1", "n2")
	n1, _ := listen(t, dir, "n1")
	n2, _ := listen(t, dir, "n2")
	n1.Serve(fake())
	n2.Serve(fake())
	answerRaft(t, n2)
	introduced(n1, n2)
	connected(t, n1, "n2")
	connected(t, n2, "n1")
	must(t, vote(n1, "n2"))
	must(t, n1.Close())
	must(t, n2.Close())
	none(t, n1)
}

// A member that vanished without a word, or is frozen, is no crash.
func TestSilenceIsNoCrash(t *testing.T) {
	dir := authority(t, "n1", "n2")
	n1, _ := listen(t, dir, "n1", func(c *Config) { c.PingEvery, c.IdleTimeout = 20*time.Millisecond, 100*time.Millisecond })
	n2, _ := listen(t, dir, "n2")
	n2.Serve(fake())
	p := newProxy(t, n2.Addr())
	n1.Learn("n2", p.addr())
	connected(t, n1, "n2")
	p.freeze()
	eventually(t, "the connection is given up", func() bool {
		_, err := n1.Peer("n2").current()
		return err != nil
	})
	none(t, n1)
	n1.watch.mu.Lock()
	defer n1.watch.mu.Unlock()
	if n1.watch.suspects["n2"] != nil {
		t.Error("a time-out was taken for the end of a connection")
	}
}

// Nobody has to listen to Crashed.
func TestCrashesNeverBlock(t *testing.T) {
	dir := authority(t, "n1")
	n1, log := listen(t, dir, "n1", func(c *Config) { c.ProbeTimeout = 10 * time.Second })
	const more = 10
	for i := range cap(n1.watch.crashed) + more {
		name := fmt.Sprint("m", i)
		n1.book.fix(name, "127.0.0.1:1")
		n1.watch.lost(name, true)
		idle(t, n1)
	}
	if got := len(n1.Crashed()); got != cap(n1.watch.crashed) {
		t.Errorf("%d names wait, want as many as fit", got)
	}
	if got := len(log.lines("nobody reads")); got != more {
		t.Errorf("%d names dropped, want %d", got, more)
	}
}

func TestProbe(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr := ln.Addr().String()
	look := func() answer {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		return probe(ctx, addr)
	}
	if look() != isOpen { // nobody accepts, but the port is open
		t.Error("an open port does not count as open")
	}
	// A kernel that tears a process down may accept and then reset.
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 2 { // one is left over from above
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
		ln.Close()
	}()
	if look() != isClosed {
		t.Error("a port that resets and then refuses does not count as refused")
	}
	<-done
	if look() != isClosed {
		t.Error("a closed port does not count as refused")
	}
	addr = "no.such.host.invalid:7000"
	if look() != isSilent {
		t.Error("a port of which nothing is known does not count as silent")
	}
}

// A host that has gone with its process is silent. That is a crash if the other
// end has closed a connection, and not if it was lost in the network.
func TestClosedAndSilent(t *testing.T) {
	dir := authority(t, "n1")
	n1, _ := listen(t, dir, "n1")
	n1.book.fix("n2", "no.such.host.invalid:7000")
	n1.watch.lost("n2", false)
	none(t, n1)
	n1.watch.lost("n2", true)
	if name := within(t, "the crash is told", n1.Crashed()); name != "n2" {
		t.Errorf("told that %s crashed", name)
	}
}

// The real thing: kill -9, and how long it takes to be noticed by a follower
// that has one connection of each kind.
func TestKilledProcess(t *testing.T) {
	if dir := os.Getenv("PARLEY_TEST_MEMBER"); dir != "" {
		member(dir, os.Getenv("PARLEY_TEST_PEER"))
		return
	}
	dir := authority(t, "n1", "n2")
	n1, _ := listen(t, dir, "n1")
	n1.Serve(fake())
	answerRaft(t, n1)
	var took []time.Duration
	for range 5 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledProcess$")
		cmd.Env = append(os.Environ(), "PARLEY_TEST_MEMBER="+dir, "PARLEY_TEST_PEER="+n1.Addr().String())
		_, err := cmd.StdinPipe()
		must(t, err)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		addr, err := bufio.NewReader(out).ReadString('\n')
		must(t, err)
		n1.Learn("n2", strings.TrimSpace(addr))
		connected(t, n1, "n2")
		none(t, n1)
		killed := time.Now()
		must(t, cmd.Process.Kill())
		within(t, "the crash is told", n1.Crashed())
		took = append(took, time.Since(killed))
		_ = cmd.Wait() // killed
	}
	slices.Sort(took)
	t.Logf("noticed after %v", took)
	if took[len(took)/2] > 500*time.Millisecond {
		t.Errorf("noticed after %v", took)
	}
}

// member is node n2 in a process of its own, with all its connections to the
// one at addr.
func member(dir, addr string) {
	n, err := Listen(Config{
		Name: "n2", Listen: "127.0.0.1:0", Certs: certs.Paths(dir, "n2"),
		Addrs: map[string]string{"n1": addr},
	})
	if err != nil {
		panic(err)
	}
	n.Serve(fake())
	if err := vote(n, "n1"); err != nil {
		panic(err)
	}
	if _, err := n.Peer("n1").Call(context.Background(), "m", nil); err != nil {
		panic(err)
	}
	fmt.Println(n.Addr())

	io.Copy(io.Discard, os.Stdin) // until the test ends, should it not kill us
}
