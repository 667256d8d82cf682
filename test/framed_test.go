package test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/local"
)

// hello opens the framed protocol byte by byte as docs/protocol.md has it and
// returns the answer's command and arguments.
func hello(t *testing.T, addr, mode string) (net.Conn, string, []string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	frame := make([]byte, 1024)
	copy(frame, "hello")
	copy(frame[15:], "1,"+mode)
	if _, err := conn.Write(frame); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, frame); err != nil {
		t.Fatal(err)
	}
	command := strings.TrimRight(string(frame[:15]), "\x00")
	return conn, command, strings.Split(strings.TrimRight(string(frame[15:]), "\x00"), ",")
}

// A follower sends framed clients to the leader, unless they ask to stay.
func TestFollowerRedirects(t *testing.T) {
	c := startCluster(t, 3)
	eventually(t, func() error {
		l := leader(t, c)
		err := redirects(t, c, l)
		if now := leader(t, c); now != l {
			return fmt.Errorf("%s led, now %s does", l.Name, now.Name)
		}
		if err != nil {
			t.Error(err)
		}
		return nil
	})
}

// redirects says what is wrong with the answers to a hello while l leads.
func redirects(t *testing.T, c *local.Cluster, l *local.Node) error {
	for _, n := range c.Nodes() {
		_, command, args := hello(t, n.Client, "leader")
		if n == l {
			if command != "ok" || len(args) < 2 || args[1] != l.Name {
				return fmt.Errorf("leader %s answers %s %v", n.Name, command, args)
			}
		} else if command != "redirect" || len(args) < 4 || args[2] != l.Name || args[3] != l.Client {
			return fmt.Errorf("follower %s answers %s %v, want redirect to %s at %s", n.Name, command, args, l.Name, l.Client)
		}
		if _, command, args := hello(t, n.Client, "any"); command != "ok" || len(args) < 2 || args[1] != n.Name {
			return fmt.Errorf("%s, asked to stay, answers %s %v", n.Name, command, args)
		}
	}
	return nil
}

// One address is enough to find the leader and to follow it when it moves.
func TestOneAddressIsEnough(t *testing.T) {
	c := startCluster(t, 3)
	for range 2 {
		l := leader(t, c)
		f := others(c, l)[0]
		s := newClient(t, f.Client).Session()
		name := fmt.Sprintf("user%d", time.Now().UnixNano())
		must(t, s, parley.CreateUser{Name: name})
		l.Kill()
		must(t, s, parley.Send{To: name, Body: "still there"})
		if err := l.Start(); err != nil {
			t.Fatal(err)
		}
		waitReady(t, c)
	}
}

func TestNobodyReachable(t *testing.T) {
	const addr = "127.0.0.1:1" // nobody listens there
	for _, args := range [][]string{{"list"}, {"create", "ann"}, {"send", "ann", "hello"}, {"status"}, {"listen", "ann"}} {
		began := time.Now()
		status, stdout, stderr := parleyCmd(t, append(args, "--servers", addr, "--timeout", "1s")...)
		took := time.Since(began)
		if status != 3 || stdout != "" || !strings.Contains(stderr, addr) || took > 5*time.Second {
			t.Errorf("parley %v: status %d after %v, stdout %q, stderr %q", args, status, took, stdout, stderr)
		}
	}
}

// Whatever a stranger sends is answered or cut off, costs little, and hurts nobody.
func TestHostileConnections(t *testing.T) {
	c := startCluster(t, 3, "--handshake-timeout", "1s", "--frame-timeout", "1s", "--idle-timeout", "2s")
	n := c.Nodes()[0]
	before := rss(t, n.PID())

	closed := func(conn net.Conn) error {
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, conn)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("still open after %v", patience)
		}
		return nil // closed or reset
	}
	t.Run("4 GiB frame", func(t *testing.T) {
		conn, command, _ := hello(t, n.Client, "any")
		if command != "ok" {
			t.Fatal(command)
		}
		if _, err := conn.Write(binary.BigEndian.AppendUint32(nil, 1<<32-1)); err != nil {
			t.Fatal(err)
		}
		if err := closed(conn); err != nil {
			t.Error(err)
		}
	})
	t.Run("frame that never ends", func(t *testing.T) {
		conn, _, _ := hello(t, n.Client, "any")
		if _, err := conn.Write([]byte{0, 0, 1, 0, 1}); err != nil { // 256 bytes announced, one sent
			t.Fatal(err)
		}
		if err := closed(conn); err != nil {
			t.Error(err)
		}
	})
	t.Run("half a header", func(t *testing.T) {
		conn, err := net.Dial("tcp", n.Client)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("cre")); err != nil {
			t.Fatal(err)
		}
		if err := closed(conn); err != nil {
			t.Error(err)
		}
	})
	t.Run("garbage", func(t *testing.T) {
		for i := range 200 {
			conn, err := net.Dial("tcp", n.Client)
			if err != nil {
				t.Fatal(err)
			}
			w := bufio.NewWriter(conn)
			for j := range 64 << 10 {
				_ = w.WriteByte(byte(j*i*2654435761>>7) ^ byte(j)) // errors: it may hang up early
			}
			_ = w.Flush()
			conn.Close()
		}
	})
	if after := rss(t, n.PID()); after > before+64<<20 {
		t.Errorf("memory grew from %d to %d bytes", before, after)
	}
	dialClassic(t, n).ask("ok", "create", "unharmed")
}

// rss is the resident memory of a process in bytes.
func rss(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Skipf("memory of a process is read from /proc: %v", err)
	}
	var size, resident int
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * os.Getpagesize()
}
