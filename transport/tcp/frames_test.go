package tcp_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/parleytest"
	"github.com/parley-chat/parley/transport/tcp"
)

// TestFramesReceived: padded or not, coalesced or split.
func TestFramesReceived(t *testing.T) {
	for _, c := range []struct {
		name   string
		pieces []string // written one by one
		want   []string
	}{
		{"padded", []string{padded("create", "a"), padded("send", "a,x"), padded("list", "")}, []string{"ok", "ok", "list a"}},
		{"coalesced", []string{header("create") + "a" + header("create") + "b" + header("send") + "a,x" + header("list")},
			[]string{"ok", "ok", "ok", "list a,b"}},
		{"coalesced, padded", []string{padded("create", "a") + padded("create", "b") + padded("list", "")}, []string{"ok", "ok", "list a,b"}},
		{"commas before the next frame", []string{header("create") + "a" + header("send") + "a,x,y," + header("list") + "z"}, []string{"ok", "ok", "list"}},
		{"split header", []string{header("create")[:3], header("create")[3:] + "a"}, []string{"ok"}},
		{"split padded frame", []string{padded("create", "a")[:500], padded("create", "a")[500:]}, []string{"ok"}},
		{"split between two", []string{header("create") + "a" + "cre", header("create")[3:] + "b", header("list")}, []string{"ok", "ok", "list a,b"}},
		{"unknown between", []string{header("create") + "a" + header("dance") + "x,y" + header("list")}, []string{"ok", "notok", "list a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tcp.Config{})
			cl := w.dial()
			for _, p := range c.pieces {
				cl.write(p)
			}
			cl.expect(c.want...)
		})
	}
}

// TestByteByByte: a conversation over a pipe that hands over single bytes.
func TestByteByByte(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	near, far := net.Pipe()
	handled := make(chan struct{})
	g := tcp.New(tcp.Config{Service: w.fake, NodeID: "n1"})
	go func() {
		defer close(handled)
		g.Handle(t.Context(), slow{far, iotest.OneByteReader(far)})
	}()
	c := w.client(near)
	go io.WriteString(near, padded("create", "a")+padded("send", "a,hello")+padded("connect", "a"))
	c.expect("ok", "ok", "string hello", "ok")
	w.wantUnread("a", "hello") // no TCP, no confirmations: that it was written is not enough
	near.Close()
	<-handled
	if n := w.fake.Sessions(); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

type slow struct {
	net.Conn
	r io.Reader
}

func (s slow) Read(b []byte) (int, error) { return s.r.Read(b) }

// TestFramesDoNotInterleave: answers and pushes come as whole frames, and
// answers in the order of the commands.
func TestFramesDoNotInterleave(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	w.run(parley.CreateUser{Name: "u"})
	for i := range 200 {
		w.run(parley.CreateUser{Name: fmt.Sprintf("user%03d-%s", i, strings.Repeat("x", 30))})
	}
	c := w.dial()
	c.ask("connect", "u", "ok")
	var senders sync.WaitGroup
	const each = 100
	for n := range 3 {
		senders.Go(func() {
			for i := range each {
				w.run(parley.Send{To: "u", Body: fmt.Sprintf("%d.%d", n, i)})
			}
		})
	}
	const lists = 20
	senders.Go(func() {
		for range lists {
			io.WriteString(c.nc, padded("list", "^user")+padded("create", "u"))
		}
	})
	defer senders.Wait()
	names, refused, next := 0, 0, [3]int{}
	for names < 200*lists || refused < lists || next != [3]int{each, each, each} {
		command, args, _ := strings.Cut(c.hear(), " ")
		switch command {
		case "list":
			names += len(strings.Split(args, ","))
		case "notok":
			if refused++; names != 200*refused {
				t.Fatalf("answer %d to create comes behind %d names", refused, names)
			}
		case "string":
			var n, i int
			if _, err := fmt.Sscanf(args, "%d.%d", &n, &i); err != nil || next[n] != i {
				t.Fatalf("message %q, want number %d", args, next[n])
			}
			next[n]++
		default:
			t.Fatalf("%q", command)
		}
	}
}

// TestPartialFrame: who begins a frame has to end it.
func TestPartialFrame(t *testing.T) {
	const short, long = 50 * time.Millisecond, time.Hour
	for name, c := range map[string]struct {
		cfg   tcp.Config
		bytes string
	}{
		"first": {tcp.Config{HandshakeTimeout: short, FrameTimeout: long}, "cre"},
		"hello": {tcp.Config{HandshakeTimeout: short, FrameTimeout: long}, header("hello") + "1,any"},
		"later": {tcp.Config{HandshakeTimeout: long, FrameTimeout: short}, padded("list", "") + "c"},
	} {
		cl := newWorld(t, c.cfg).dial()
		begin := time.Now()
		cl.write(c.bytes)
		if name == "later" {
			cl.expect("list")
		}
		if rest := cl.gone(); rest != "" {
			t.Errorf("%s: sent %q", name, rest)
		}
		if d := time.Since(begin); d < short {
			t.Errorf("%s: closed after %v", name, d)
		}
	}
	w := newWorld(t, tcp.Config{FrameTimeout: short, HandshakeTimeout: short})
	// Silence between frames has no limit.
	idle := w.dial()
	idle.ask("list", "", "list")
	time.Sleep(2 * short) // not synchronisation: longer than any limit
	idle.ask("list", "", "list")
}

// TestGarbage: garbage is answered, skipped and in the end too much.
func TestGarbage(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	c := w.dial()
	c.write("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff") // a length of 4 GiB, and more
	c.expect("notok")
	c.ask("list", "", "list")
	c.write("GET / HTTP/1.1\r\nHost: parley\r\n\r\n")
	c.expect("notok")
	c.ask("list", "", "list")

	flood := w.dial()
	go func() {
		for {
			if _, err := io.WriteString(flood.nc, strings.Repeat("garbage ", 1<<10)); err != nil {
				return
			}
		}
	}()
	flood.gone()
}

// TestDeafFlood: a client that only talks is held up, not buffered.
func TestDeafFlood(t *testing.T) {
	w := newWorld(t, tcp.Config{WriteTimeout: 100 * time.Millisecond, Buffered: 16 << 10})
	c := w.dial()
	c.nc.(*net.TCPConn).SetReadBuffer(4 << 10)
	frame := padded("list", "^x")
	sent := 0
	for {
		c.nc.SetWriteDeadline(time.Now().Add(patience))
		n, err := io.WriteString(c.nc, frame)
		sent += n
		if err != nil {
			break
		}
		if sent > 64<<20 {
			t.Fatal("still served after 64 MiB of unread answers")
		}
	}
}

// TestDrainInTheMiddle: half a frame that could be a whole one is not taken for
// one because the gateway stops.
func TestDrainInTheMiddle(t *testing.T) {
	for name, before := range map[string]string{"first": "", "later": padded("delete", "nobody")} {
		t.Run(name, func(t *testing.T) {
			fake := parleytest.NewFake()
			defer fake.Close()
			w := &world{T: t, fake: fake}
			w.run(parley.CreateUser{Name: "u"})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			near, far := net.Pipe() // a write there ends when it has been read
			handled := make(chan struct{})
			go func() {
				defer close(handled)
				tcp.New(tcp.Config{Service: fake, NodeID: "n1"}).Handle(ctx, far)
			}()
			c := w.client(near)
			if before != "" {
				c.write(before)
				c.expect("ok")
			}
			c.say("send", "u,half of a text that looks like one sen")
			cancel()
			if rest := c.gone(); rest != "" {
				t.Errorf("answered %q", rest)
			}
			<-handled
			w.wantUnread("u")
		})
	}
}
