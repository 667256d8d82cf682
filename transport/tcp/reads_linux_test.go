package tcp_test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/parleytest"
	"github.com/parley-chat/parley/transport/tcp"
)

// dialDeaf connects a client whose kernel takes little on its behalf.
func (w *world) dialDeaf() (*client, *net.TCPConn) {
	w.Helper()
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		e := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<10) })
		if e != nil {
			return e
		}
		return err
	}}
	nc, err := d.Dial("tcp", w.addr)
	if err != nil {
		w.Fatal(err)
	}
	return w.client(nc), nc.(*net.TCPConn)
}

// received is how many bytes the kernel holds for a client that has not read them.
func (w *world) received(nc *net.TCPConn) (n int) {
	w.Helper()
	raw, err := nc.SyscallConn()
	if err != nil {
		w.Fatal(err)
	}
	raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
	if err != nil {
		w.Fatal(err)
	}
	return n
}

// fill sends n messages of one frame each to u.
func (w *world) fill(n int) []string {
	w.Helper()
	w.run(parley.CreateUser{Name: "u"})
	texts := make([]string, n)
	for i := range texts {
		texts[i] = fmt.Sprint(i)
		w.run(parley.Send{To: "u", Body: texts[i]})
	}
	return texts
}

// TestLostConnection: what the client's TCP has not confirmed stays unread, to
// the message, however the connection ends.
func TestLostConnection(t *testing.T) {
	t.Parallel()
	for name, kill := range map[string]func(*net.TCPConn){
		"reset": func(nc *net.TCPConn) { nc.SetLinger(0); nc.Close() },
		// With unread data in its buffer, closing resets as well.
		"close":    func(nc *net.TCPConn) { nc.Close() },
		"half":     func(nc *net.TCPConn) { nc.CloseWrite() }, // and never reads
		"time-out": func(nc *net.TCPConn) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tcp.Config{WriteTimeout: 500 * time.Millisecond})
			texts := w.fill(1000)
			c, nc := w.dialDeaf()
			c.say("connect", "u")
			// Wait until the receive buffer is full and what is in it acknowledged.
			read := func() int { return 1000 - len(w.unread("u")) }
			var got int
			w.eventually("the mail that was received is read", func() bool {
				got = w.received(nc)
				return got > 0 && read() == got/1024
			})
			kill(nc)
			w.eventually("the connection has ended", func() bool { return w.fake.Watches() == 0 })
			w.stop()
			if n := read(); n < got/1024 || n > got/1024+4 || n >= 900 {
				t.Errorf("%d messages read, %d bytes received", n, got)
			}
			w.wantUnread("u", texts[read():]...)
		})
	}
}

// TestSlowReader: nothing is buffered for it beyond the limits; it gets all, at
// its own pace.
func TestSlowReader(t *testing.T) {
	reg := prometheus.NewRegistry()
	w := newWorld(t, tcp.Config{Metrics: reg})
	const n = 4000
	w.fill(n)
	c, nc := w.dialDeaf()
	c.say("connect", "u")
	last := -1
	w.eventually("pushing pauses", func() bool {
		now := int(counter(t, reg, "parley_classic_messages_pushed_total"))
		paused := now > 0 && now == last
		last = now
		time.Sleep(20 * time.Millisecond) // between two looks
		return paused
	})
	if kib := last - w.received(nc)/1024; kib > 256+256 {
		t.Errorf("%d KiB are buffered", kib)
	}
	for i := range n {
		c.expect(fmt.Sprintf("string %d", i))
	}
	c.expect("ok")
	w.allRead("u")
}

// TestSteadyReader: a client that takes a little all the time is not given up,
// however long all of it takes.
func TestSteadyReader(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tcp.Config{WriteTimeout: 500 * time.Millisecond, Buffered: 32 << 10})
	const n = 80
	w.fill(n)
	c, _ := w.dialDeaf()
	c.say("connect", "u")
	for i := range n {
		c.expect(fmt.Sprintf("string %d", i))
		time.Sleep(25 * time.Millisecond) // its pace: the first write takes longer than the time-out
	}
	c.expect("ok")
}

func counter(t *testing.T, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// TestReadAndGone: a client that reads and leaves at once has read.
func TestReadAndGone(t *testing.T) {
	for _, n := range []int{1, 50, 500} {
		w := newWorld(t, tcp.Config{})
		w.fill(n)
		c := w.dial()
		c.say("connect", "u")
		for i := range n {
			c.expect(fmt.Sprintf("string %d", i))
		}
		c.expect("ok")
		c.nc.Close()
		w.allRead("u")
		w.eventually("the session is closed", func() bool { return w.fake.Sessions() == 0 })
	}
}

// TestHalfClose: a client that says all it has to say and closes its direction
// gets its answers.
func TestHalfClose(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	c := w.dial()
	c.write(header("create") + "u" + header("send") + "u,x" + header("connect") + "u" + header("list"))
	c.nc.(*net.TCPConn).CloseWrite()
	c.expect("ok", "ok", "string x", "ok", "list u")
	if rest := c.gone(); rest != "" {
		t.Errorf("then %q", rest)
	}
	w.allRead("u")
}

// TestAcksAreBatched: not one acknowledgement per message, neither of a queue nor
// of live ones.
func TestAcksAreBatched(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	const queued, live = 3000, 1000
	w.fill(queued)
	var acks atomic.Int64
	w.fake.OnStart(func(r parley.Request) parleytest.Fault {
		if _, ok := r.Command.(parley.Ack); ok {
			acks.Add(1)
		}
		return parleytest.Fault{}
	})
	begin := time.Now()
	c := w.dial()
	c.say("connect", "u")
	for range queued + 1 {
		c.hear()
	}
	for range live {
		w.run(parley.Send{To: "u", Body: "x"})
		c.hear()
	}
	w.allRead("u")
	if most := (queued+live)/100 + int64(time.Since(begin)/(50*time.Millisecond)) + 2; acks.Load() > most {
		t.Errorf("%d acknowledgements, at most %d expected", acks.Load(), most)
	}
}

// TestNothingConfirmed: a client whose TCP stops confirming is given up, even if
// all that it was sent fits into the kernel's buffer.
func TestNothingConfirmed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tcp.Config{IdleTimeout: 100 * time.Millisecond, WriteTimeout: time.Hour})
	w.fill(60)
	c, _ := w.dialDeaf()
	c.say("connect", "u")
	w.eventually("some mail is read", func() bool { return len(w.unread("u")) < 60 })
	w.eventually("the connection has ended", func() bool { return w.fake.Watches() == 0 })
	if len(w.unread("u")) == 0 {
		t.Error("all mail is read, though the client cannot have received it")
	}
}

// TestAckInsists: an acknowledgement that fails is tried again.
func TestAckInsists(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tcp.Config{CommandTimeout: 20 * time.Millisecond})
	w.fill(3)
	var refusals atomic.Int64
	w.fake.OnStart(func(r parley.Request) parleytest.Fault {
		if _, ok := r.Command.(parley.Ack); ok && refusals.Add(1) <= 10 {
			return parleytest.Fault{Err: parley.Errorf(parley.CodeNoQuorum, "")}
		}
		return parleytest.Fault{}
	})
	c := w.dial()
	c.ask("connect", "u", "string 0", "string 1", "string 2", "ok")
	w.allRead("u")
	c.silent()
}

// TestConnectAfterAck: the rest of the queue is acknowledged through another
// connection while connect is under way; it is answered all the same.
func TestConnectAfterAck(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	w.fill(2)
	w.fake.OnWatch(func(string) error { // the watch does not come about before
		w.run(parley.Ack{User: "u", UpTo: parley.Cursor{ID: 2}})
		return nil
	})
	c := w.dial()
	c.ask("connect", "u", "ok")
	w.run(parley.Send{To: "u", Body: "live"})
	c.expect("string live")
}

// TestDrain: when the gateway stops, commands under way are answered, mail that
// was received is acknowledged, sessions are closed.
func TestDrain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tcp.Config{})
	w.run(parley.CreateUser{Name: "u"})
	idle, busy, reader := w.dial(), w.dial(), w.dial()
	idle.ask("list", "", "list u")
	busy.ask("send", "u,first", "ok")
	reader.ask("connect", "u", "string first", "ok")
	started, release := make(chan struct{}), make(chan struct{})
	w.fake.OnStart(func(r parley.Request) parleytest.Fault {
		if s, ok := r.Command.(parley.Send); ok && s.Body == "second" {
			close(started)
			return parleytest.Fault{Hold: release}
		}
		return parleytest.Fault{}
	})
	busy.say("send", "u,second")
	<-started
	busy.write(strings.Repeat(padded("list", ""), 100)) // nobody will read this
	reader.expect("string second")
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		w.stop()
	}()
	if rest := idle.gone(); rest != "" {
		t.Errorf("the idle connection got %q", rest)
	}
	close(release)
	busy.expect("ok")
	for _, c := range []*client{busy, reader} {
		if rest, err := io.ReadAll(c.nc); err != nil || strings.Trim(string(rest), "list\x00") != "" {
			t.Errorf("then %q, %v", rest, err)
		}
	}
	<-stopped
	w.wantUnread("u")
	if n := w.fake.Sessions(); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

// TestClientGoes: whatever a client leaves in the middle of, nothing stays behind.
func TestClientGoes(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	w.run(parley.CreateUser{Name: "u"})
	for _, last := range []string{"", "cre", header("send"), header("send") + "u,x", padded("connect", "u"), strings.Repeat("x", 5000)} {
		c := w.dial()
		c.ask("connect", "u", "ok")
		c.ask("delete", "nobody", "ok")
		io.WriteString(c.nc, last)
		c.nc.Close()
		w.eventually("watch and session end", func() bool { return w.fake.Watches() == 0 && w.fake.Sessions() == 0 })
		w.run(parley.Ack{User: "u", UpTo: parley.Cursor{ID: 1000}})
	}
}

// TestMultipath: of a connection about which the kernel does not tell enough,
// no mail is taken as read.
func TestMultipath(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	texts := w.fill(3)
	var d net.Dialer
	d.SetMultipathTCP(true)
	nc, err := d.DialContext(t.Context(), "tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	c := w.client(nc)
	if multi, err := nc.(*net.TCPConn).MultipathTCP(); err != nil || !multi {
		t.Skip("no MPTCP here")
	}
	c.ask("connect", "u", "string 0", "string 1", "string 2", "ok")
	c.nc.Close()
	w.eventually("the connection has ended", func() bool { return w.fake.Watches() == 0 })
	w.stop()
	w.wantUnread("u", texts...)
}
