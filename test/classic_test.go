package test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley/internal/local"
)

// classicClient knows the classic protocol from its table and nothing of Parley's
// packages: a command of 15 bytes, arguments joined by commas, recv(1024).
type classicClient struct {
	t    *testing.T
	conn net.Conn
}

func dialClassic(t *testing.T, n *local.Node) *classicClient {
	t.Helper()
	conn, err := net.Dial("tcp", n.Client)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &classicClient{t, conn}
}

// send writes a frame, unpadded as the simplest clients do.
func (c *classicClient) send(command string, args ...string) {
	c.t.Helper()
	frame := append(make([]byte, 0, 1024), command...)
	frame = append(frame, make([]byte, 15-len(command))...)
	frame = append(frame, strings.Join(args, ",")...)
	if _, err := c.conn.Write(frame); err != nil {
		c.t.Fatalf("%s %v: %v", command, args, err)
	}
}

// recv reads one frame and returns it as "command" or "command args".
func (c *classicClient) recv() string {
	c.t.Helper()
	s, err := c.tryRecv(patience)
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (c *classicClient) tryRecv(wait time.Duration) (string, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return "", err
	}
	frame := make([]byte, 1024)
	if _, err := io.ReadFull(c.conn, frame); err != nil {
		return "", err
	}
	command := string(bytes.TrimRight(frame[:15], "\x00"))
	args := string(bytes.TrimRight(frame[15:], "\x00"))
	return strings.TrimSpace(command + " " + args), nil
}

// ask sends a command and expects an answer.
func (c *classicClient) ask(want, command string, args ...string) {
	c.t.Helper()
	c.send(command, args...)
	if got := c.recv(); got != want {
		c.t.Fatalf("%s %v: got %q, want %q", command, args, got, want)
	}
}

func (c *classicClient) expect(want string) {
	c.t.Helper()
	if got := c.recv(); got != want {
		c.t.Fatalf("got %q, want %q", got, want)
	}
}

// The exercise's conversation, against every node and mixed among them.
func TestClassicConversation(t *testing.T) {
	c := startCluster(t, 3)
	for i := range 4 {
		at := func(k int) *local.Node { // all on node i, or, the fourth time, each on another
			if i < 3 {
				return c.Nodes()[i]
			}
			return c.Nodes()[k%3]
		}
		t.Run(fmt.Sprintf("%s-%s-%s", at(0).Name, at(1).Name, at(2).Name), func(t *testing.T) {
			a, b, r := dialClassic(t, at(0)), dialClassic(t, at(1)), dialClassic(t, at(2))
			u2, u3 := fmt.Sprintf("run%duser2", i), fmt.Sprintf("run%duser3", i)
			a.ask("ok", "create", u2)
			a.ask("notok", "create", u2)
			b.ask("ok", "create", u3)
			a.ask("list "+u2+","+u3, "list", fmt.Sprintf("^run%duser", i))
			a.ask("ok", "connect", u2)
			a.ask("ok", "send", u3, "hello")
			r.send("connect", u3)
			r.expect("string hello")
			r.expect("ok")
			a.ask("ok", "send", u3, "helloagain")
			r.expect("string helloagain")
			b.ask("ok", "delete", u3)
			b.ask("notok", "send", u3, "nobody")
			b.ask("notok", "connect", u3)
			b.ask("notok", "connect", "")
			b.ask("ok", "create", u3)
			r.send("connect", u3)
			r.expect("ok") // no mail of the former user3
		})
	}
}

// A classic client that is connected to a surviving node keeps its connection
// when the leader is killed: its next send is answered ok, and mail arrives.
func TestClassicSurvivesLeaderKill(t *testing.T) {
	c := startCluster(t, 3)
	dialClassic(t, c.Nodes()[0]).ask("ok", "create", "ann")
	dialClassic(t, c.Nodes()[0]).ask("ok", "create", "bob")
	for round := range 3 {
		l := leader(t, c)
		rest := others(c, l)
		ann, bob := dialClassic(t, rest[0]), dialClassic(t, rest[1])
		ann.ask("ok", "connect", "ann")
		bob.ask("ok", "connect", "bob")
		ann.ask("ok", "send", "bob", "before")
		bob.expect("string before")

		l.Kill()
		ann.ask("ok", "send", "bob", fmt.Sprintf("after %d", round))
		bob.expect(fmt.Sprintf("string after %d", round))
		bob.ask("ok", "send", "ann", "you too")
		ann.expect("string you too")

		if err := l.Start(); err != nil {
			t.Fatal(err)
		}
		waitReady(t, c)
		ann.conn.Close()
		bob.conn.Close()
	}
}
