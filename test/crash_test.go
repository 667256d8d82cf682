package test

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley"
)

// Every node killed at the same instant under load: all that was acknowledged is
// there afterwards, once and in order, and the same clients go on.
func TestKillAllAtOnce(t *testing.T) { killAllAtOnce(t) }

// The same on the other log store.
func TestKillAllAtOnceOnWAL(t *testing.T) { killAllAtOnce(t, "--log-store", "wal") }

func killAllAtOnce(t *testing.T, flags ...string) {
	c := startCluster(t, 3, flags...)
	l := startLoad(t, c.Servers(), "", 4, 4)
	for range 3 {
		l.awaitAcks(2000)
		c.Kill()
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		waitReady(t, c)
	}
	l.awaitAcks(500)
	t.Log(l.finish())
}

// The log of each node is converted while the others go on, and a node that is
// started with the wrong store says what to do.
func TestConvertedOneByOne(t *testing.T) {
	c := startCluster(t, 3)
	l := startLoad(t, c.Servers(), "", 2, 2)
	for _, n := range c.Nodes() {
		l.awaitAcks(500)
		n.Kill()
		if err := n.Start("--log-store", "wal"); err != nil {
			t.Fatal(err)
		}
		select {
		case <-n.Exited():
		case <-time.After(patience):
			t.Fatalf("%s still runs", n.Name)
		}
		if !strings.Contains(n.LastLog(), "parley convert-log --data "+n.Data+" --to wal") {
			t.Errorf("%s does not say what to do: %s", n.Name, n.LastLog())
		}
		if status, _, stderr := parleyCmd(t, "convert-log", "--data", n.Data, "--to", "wal"); status != 0 {
			t.Fatal(stderr)
		}
		if err := n.Start("--log-store", "wal"); err != nil {
			t.Fatal(err)
		}
		waitReady(t, c)
	}
	l.awaitAcks(500)
	t.Log(l.finish())
}

// Mail that nobody reads survives too.
func TestUnreadMailSurvivesKillAll(t *testing.T) {
	c := startCluster(t, 3)
	s := newClient(t, c.Servers()...).Session()
	must(t, s, parley.CreateUser{Name: "sleeper"})
	var want []string
	for i := range 500 {
		want = append(want, fmt.Sprintf("message %d", i))
		must(t, s, parley.Send{To: "sleeper", Body: want[i]})
	}
	c.Kill()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	got := inbox(t, newClient(t, c.Servers()...), "sleeper")
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("got %d messages %.100q…, want %d", len(got), got, len(want))
	}
}

// A node whose data is gone is added again as a new member under load, each of
// the three in turn: in the end no disk of the beginning is left.
func TestWipedNodeJoinsAgain(t *testing.T) {
	c := startCluster(t, 3)
	l := startLoad(t, c.Servers(), "", 2, 2)
	for _, n := range c.Nodes() {
		l.awaitAcks(500)
		n.Kill()
		if err := n.Wipe(); err != nil {
			t.Fatal(err)
		}
		if err := n.Start("--join"); err != nil {
			t.Fatal(err)
		}
		waitReady(t, c)
		waitVoters(t, c.Servers(), 3)
	}
	l.awaitAcks(500)
	t.Log(l.finish())
}

// waitVoters waits until a number of members can be reached and vote.
func waitVoters(t *testing.T, servers []string, n int) {
	t.Helper()
	cl := newClient(t, servers...)
	defer cl.Close()
	eventually(t, func() error {
		r, err := cl.Get(t.Context(), parley.Status{})
		if err != nil {
			return err
		}
		voters := 0
		for _, m := range r.Members {
			if m.Reachable && (m.Role == parley.RoleLeader || m.Role == parley.RoleFollower) {
				voters++
			}
		}
		if voters != n || len(r.Members) != n {
			return fmt.Errorf("%d voters of %d members: %+v", voters, len(r.Members), r.Members)
		}
		return nil
	})
}

// A wiped node that is started as if nothing had happened refuses to run and
// says what to do; it must not vote under its old name.
func TestWipedNodeRefusesToStart(t *testing.T) {
	c := startCluster(t, 3)
	for _, n := range c.Nodes()[:2] { // the first in the list would bootstrap a new cluster
		n.Kill()
		if err := n.Wipe(); err != nil {
			t.Fatal(err)
		}
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-n.Exited():
		case <-time.After(patience):
			t.Fatalf("%s still runs", n.Name)
		}
		if !strings.Contains(n.LastLog(), "--join") {
			t.Errorf("%s does not say what to do: %s", n.Name, n.LastLog())
		}
		if err := n.Start("--join"); err != nil {
			t.Fatal(err)
		}
		waitReady(t, c)
		waitVoters(t, c.Servers(), 3)
	}
}

// B restarts, then C is killed: B must be up to date soon although the leader
// could not reach it for a while.
func TestRestartOneThenKillAnother(t *testing.T) {
	c := startCluster(t, 3)
	ld := leader(t, c)
	b, k := others(c, ld)[0], others(c, ld)[1]
	l := startLoad(t, c.Servers(), "", 2, 2)
	b.Kill()
	l.awaitAcks(2000)
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	k.Kill()
	l.awaitAcks(500)
	t.Log(l.finish())
}

// The chaos command, in a short form, is its own judge.
func TestChaosCommand(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), program, "chaos", "--duration", "15s", "--kill-every", "3s", "--json", "--dir", t.TempDir())
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, stderr.String())
	}
	var v struct {
		Sent, Acknowledged, Delivered, Lost, Duplicated, Reordered, Phantom, Kills int
	}
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if v.Acknowledged == 0 || v.Kills < 3 || v.Delivered < v.Acknowledged || v.Lost+v.Duplicated+v.Reordered+v.Phantom > 0 {
		t.Errorf("%s", out)
	}
	t.Logf("%s", out)
}
