package peer

import (
	"bytes"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

func TestHandshakesAreLimited(t *testing.T) {
	dir := authority(t, "n1")
	n1, log := listen(t, dir, "n1", func(c *Config) { c.MaxHandshakes, c.HandshakeTimeout = 3, 2*time.Second })
	var silent []net.Conn
	for range 3 {
		c, err := net.Dial("tcp", n1.Addr().String())
		must(t, err)
		defer c.Close()
		silent = append(silent, c)
	}
	eventually(t, "all are being greeted", func() bool {
		n1.mu.Lock()
		defer n1.mu.Unlock()
		return len(n1.greeting) == 3
	})
	fourth, err := net.Dial("tcp", n1.Addr().String())
	must(t, err)
	defer fourth.Close()
	drainUntilClosed(t, fourth)
	eventually(t, "a line about the fourth", func() bool { return len(log.lines("too many connections")) == 1 })
	for _, c := range silent {
		drainUntilClosed(t, c) // by the time-out
	}
	eventually(t, "a line each", func() bool { return len(log.lines("i/o timeout")) == 3 })
}

// A node that takes its time to start is nothing to complain about.
func TestForwardingWaitsForServe(t *testing.T) {
	dir := authority(t, "n1", "n2")
	n1, _ := listen(t, dir, "n1")
	n2, log := listen(t, dir, "n2", func(c *Config) { c.HandshakeTimeout = time.Second })
	n1.Learn("n2", n2.Addr().String())
	_, err := n1.Peer("n2").Call(t.Context(), "m", nil)
	if err == nil || !strings.Contains(err.Error(), "still starting") {
		t.Errorf("Call: %v, want that the node is still starting", err)
	}
	eventually(t, "a line at debug level", func() bool { return len(log.lines("still starting")) > 0 })
	n2.Serve(fake())
	connected(t, n1, "n2")
	if lines := log.lines("level=WARN"); len(lines) != 0 {
		t.Errorf("logged %q", lines)
	}
}

func TestProbesAreNotLogged(t *testing.T) {
	dir := authority(t, "n1")
	n1, log := listen(t, dir, "n1")
	c, err := net.Dial("tcp", n1.Addr().String())
	must(t, err)
	c.Close()
	eventually(t, "a line at debug level", func() bool { return len(log.lines("before it was let in")) == 1 })
	if lines := log.lines("level=WARN"); len(lines) != 0 {
		t.Errorf("logged %q", lines)
	}
}

func TestQuiet(t *testing.T) {
	var q quiet
	now := time.Now()
	for i := range 100 {
		if ok, dropped := q.allow(now); ok != (i < 60) || dropped != 0 {
			t.Fatalf("line %d: %v, %d", i, ok, dropped)
		}
	}
	if ok, dropped := q.allow(now.Add(2 * time.Minute)); !ok || dropped != 40 {
		t.Errorf("later: %v, %d dropped; want true, 40", ok, dropped)
	}
}

func TestPreface(t *testing.T) {
	want := preface{group: 1 << 40, kind: kindForward, from: strings.Repeat("n", 63)}
	var buf bytes.Buffer
	must(t, want.write(&buf))
	whole := bytes.Clone(buf.Bytes())
	buf.WriteString("rest")
	if got, err := readPreface(&buf); got != want || err != nil {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if buf.String() != "rest" {
		t.Errorf("%q is left, want what follows the preface", buf.String())
	}
	for i := range whole {
		if _, err := readPreface(bytes.NewReader(whole[:i])); err == nil {
			t.Errorf("%d bytes of %d were enough", i, len(whole))
		}
	}
	must(t, writeVerdict(&buf, errors.New(strings.Repeat("because ", 99))))
	buf.Next(len("rest"))
	if err := readVerdict(&buf); err == nil || !strings.Contains(err.Error(), "because because") || buf.Len() != 0 {
		t.Errorf("verdict: %v, %d bytes left", err, buf.Len())
	}
}
