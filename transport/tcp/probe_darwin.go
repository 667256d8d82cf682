package tcp

import (
	"math"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/parley-chat/parley/transport"
)

// socketProbe asks the kernel, which on macOS says how much is in the send
// buffer, that is, was written and is not confirmed, but not how much was
// confirmed. So it only ever tells when all is: every position is as far away as
// can be.
type socketProbe struct{ raw syscall.RawConn }

// newProbe returns the probe of a connection, nil if it is not TCP.
func newProbe(nc net.Conn) probe {
	tcp, ok := transport.TCPConn(nc)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	p := socketProbe{raw}
	if _, err := p.confirmed(); err != nil {
		return nil
	}
	return p
}

func (socketProbe) position() (uint64, error) { return math.MaxUint64, nil }

// States of a TCP connection in which the other end can confirm, from
// netinet/tcp_fsm.h. In the others the buffer may be empty because its contents
// were thrown away.
const (
	tcpsEstablished = 4
	tcpsCloseWait   = 5
	tcpsFinWait1    = 6
	tcpsClosing     = 7
	tcpsLastAck     = 8
)

func (p socketProbe) confirmed() (c confirmation, err error) {
	var info *unix.TCPConnectionInfo
	e := p.raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPConnectionInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_CONNECTION_INFO)
	})
	if e != nil {
		return c, e
	}
	if err != nil {
		return c, err
	}
	switch info.State {
	case tcpsEstablished, tcpsCloseWait, tcpsFinWait1, tcpsClosing, tcpsLastAck:
		c.alive = true
		c.empty = info.Snd_sbbytes == 0
	}
	return c, nil
}
