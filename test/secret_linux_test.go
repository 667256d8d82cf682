package test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/local"
	"github.com/parley-chat/parley/wire"
)

// marks are texts that must not turn up where they do not belong.
const (
	markedBody     = "MARKED-BODY-7f3a"
	markedPassword = "MARKED-PASSWORD-91c2"
	markedName     = "markedname"
)

// A node's log, at its most talkative, holds no message and no password, and each
// of its lines is a record.
func TestLogHoldsNoSecrets(t *testing.T) {
	c := startCluster(t, 3, "--log-level", "debug")
	s := newClient(t, c.Servers()...).Session()
	must(t, s, parley.CreateUser{Name: markedName, Password: markedPassword})
	must(t, s, parley.CreateUser{Name: "ann"})
	must(t, s, parley.Send{To: "ann", From: "x", Body: markedBody})
	for _, n := range c.Nodes() {
		nc, err := net.Dial("tcp", n.Client)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range [][2]string{
			{"connect", markedName + "," + markedPassword}, {"connect", markedName + ",wrong" + markedPassword},
			{"send", "nobody," + markedBody}, {"send", "ann," + markedBody}, {"frobnicate", markedBody}, {"connect", "ann"},
		} {
			if _, err := nc.Write(wire.AppendClassic(nil, line[0], line[1])); err != nil {
				t.Fatal(err)
			}
		}
		nc.(*net.TCPConn).CloseWrite()
		nc.SetReadDeadline(time.Now().Add(patience))
		var answers bytes.Buffer
		answers.ReadFrom(nc)
		nc.Close()
		if !bytes.Contains(answers.Bytes(), []byte(markedBody)) {
			t.Errorf("%s: ann's mail did not come: %q", n.Name, answers.Bytes())
		}
	}
	old := leader(t, c)
	old.Kill() // errors are logged too
	must(t, s, parley.Send{To: "ann", Body: markedBody})
	for _, n := range c.Nodes() {
		log, err := os.ReadFile(n.Log)
		if err != nil {
			t.Fatal(err)
		}
		if len(log) < 2000 {
			t.Errorf("%s logged %d bytes; this test looks at the wrong place", n.Name, len(log))
		}
		for line := range bytes.Lines(log) {
			if bytes.Contains(line, []byte("MARKED")) {
				t.Errorf("%s logged a secret: %s", n.Name, line)
			}
			if !bytes.HasPrefix(line, []byte("time=")) {
				t.Errorf("%s logged something that is no record: %q", n.Name, line)
			}
		}
	}
}

// capture collects what crosses the loopback interface to or from each port.
type capture struct {
	bytes map[int]*bytes.Buffer // by port; valid after stop
	stop  func()
}

// startCapture listens in as tcpdump would.
func startCapture(t *testing.T, ports ...int) *capture {
	t.Helper()
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Skipf("SKIPPED: no packets can be captured here: %v", err)
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: lo.Index}); err != nil {
		t.Fatal(err)
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20)
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000})
	c := &capture{bytes: make(map[int]*bytes.Buffer)}
	for _, p := range ports {
		c.bytes[p] = &bytes.Buffer{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	c.stop = sync.OnceFunc(func() { cancel(); reading.Wait(); unix.Close(fd) })
	t.Cleanup(c.stop)
	reading.Go(func() {
		b := make([]byte, 128<<10)
		for {
			late := ctx.Err() != nil // what is in the socket's buffer by now belongs to it
			for range 10_000 {
				n, _, err := unix.Recvfrom(fd, b, 0)
				if err != nil {
					break
				}
				c.packet(b[:n])
			}
			if late {
				return
			}
		}
	})
	return c
}

// packet takes the payload of a TCP segment.
func (c *capture) packet(b []byte) {
	if len(b) < 40 || b[0]>>4 != 4 || b[9] != unix.IPPROTO_TCP {
		return
	}
	tcp := b[int(b[0]&15)*4:]
	if len(tcp) < 20 {
		return
	}
	for _, port := range []int{int(binary.BigEndian.Uint16(tcp)), int(binary.BigEndian.Uint16(tcp[2:]))} {
		if buf := c.bytes[port]; buf != nil && buf.Len() < 32<<20 {
			buf.Write(tcp[min(len(tcp), int(tcp[12]>>4)*4):])
		}
	}
}

// Under load nothing that crosses the peer port can be read: no text, no name, and
// nothing of Raft.
func TestPeerPortUnderLoad(t *testing.T) {
	c := startCluster(t, 3)
	port := func(addr string) int {
		_, p, _ := net.SplitHostPort(addr)
		n, _ := strconv.Atoi(p)
		return n
	}
	var ports []int
	for _, n := range c.Nodes() {
		ports = append(ports, port(n.Client), port(n.Peer))
	}
	capt := startCapture(t, ports...)
	s := newClient(t, c.Servers()...).Session()
	must(t, s, parley.CreateUser{Name: markedName})
	for i := range 300 {
		must(t, s, parley.Send{From: markedName, To: markedName, Body: fmt.Sprint(markedBody, i)})
	}
	follower := others(c, leader(t, c))[0]
	through(t, follower)
	capt.stop()

	plain, total := 0, 0
	for _, n := range c.Nodes() {
		seen := capt.bytes[port(n.Client)].Bytes()
		plain += bytes.Count(seen, []byte(markedBody))
		seen = capt.bytes[port(n.Peer)].Bytes()
		total += len(seen)
		for _, clear := range []string{markedBody, markedName, "parley-peer", "RPCHeader", "PrevLogEntry", "LeaderCommitIndex", "Entries", "Parley CA"} {
			if i := bytes.Index(seen, []byte(clear)); i >= 0 {
				t.Errorf("%q crosses the peer port of %s in clear text: %q", clear, n.Name, seen[max(0, i-40):min(len(seen), i+80)])
			}
		}
	}
	t.Logf("%d bytes on the peer ports", total)
	if total < 100_000 {
		t.Errorf("only %d bytes were captured", total)
	}
	if plain == 0 { // the client port has no TLS here
		t.Error("nothing was seen on the client port either: the capture does not work")
	}
}

// through sends by a follower, which forwards.
func through(t *testing.T, n *local.Node) {
	t.Helper()
	nc, err := net.Dial("tcp", n.Client)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Write(wire.AppendClassic(nil, "send", markedName+","+markedBody)); err != nil {
		t.Fatal(err)
	}
	nc.SetReadDeadline(time.Now().Add(patience))
	answer := make([]byte, wire.ClassicFrame)
	if _, err := nc.Read(answer); err != nil || !slices.Equal(answer[:2], []byte("ok")) {
		t.Fatalf("%q, %v", strings.Trim(string(answer), "\x00"), err)
	}
}
