package tcp

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/parley-chat/parley/transport"
)

// socketProbe asks the kernel. Two numbers tell all there is to know:
// tcpi_bytes_acked, which counts what the other end has confirmed, and SIOCOUTQ,
// how much was written and is not confirmed. Their sum is the position, if
// nothing was confirmed between asking for the one and for the other. Nothing
// has to be counted here, so TLS may well put its own bytes into the stream.
type socketProbe struct{ raw syscall.RawConn }

// newProbe returns the probe of a connection, nil if it is not TCP. Of MPTCP,
// which Go's listeners accept unless told not to, the two numbers are about
// different things: one subflow, and the whole.
func newProbe(nc net.Conn) probe {
	tcp, ok := transport.TCPConn(nc)
	if !ok {
		return nil
	}
	if multi, err := tcp.MultipathTCP(); err != nil || multi {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	p := socketProbe{raw}
	if _, err := p.info(); err != nil {
		return nil
	}
	return p
}

// steadyTries is how often position looks before it takes an upper bound.
const steadyTries = 8

func (p socketProbe) position() (uint64, error) {
	before, err := p.info()
	for try := 0; err == nil; try++ {
		var queued uint64
		if queued, err = p.queued(); err != nil {
			break
		}
		var after *unix.TCPInfo
		if after, err = p.info(); err != nil {
			break
		}
		// An upper bound errs on the safe side: confirmed.empty makes up for it.
		if after.Bytes_acked == before.Bytes_acked || try == steadyTries {
			return after.Bytes_acked + queued, nil
		}
		before = after
	}
	return 0, err
}

// States of a TCP connection in which the other end can confirm, from
// include/net/tcp_states.h.
const (
	tcpEstablished = 1
	tcpFinWait1    = 4
	tcpCloseWait   = 8
	tcpLastAck     = 9
	tcpClosing     = 11
)

func (p socketProbe) confirmed() (confirmation, error) {
	queued, err := p.queued()
	if err != nil {
		return confirmation{}, err
	}
	info, err := p.info()
	if err != nil {
		return confirmation{}, err
	}
	c := confirmation{upTo: info.Bytes_acked}
	switch info.State {
	case tcpEstablished, tcpFinWait1, tcpCloseWait, tcpLastAck, tcpClosing:
		c.alive = true
		c.empty = queued == 0
	}
	return c, nil
}

func (p socketProbe) info() (info *unix.TCPInfo, err error) {
	e := p.raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if e != nil {
		return nil, e
	}
	return info, err
}

// queued is how many bytes were written and are not confirmed.
func (p socketProbe) queued() (n uint64, err error) {
	e := p.raw.Control(func(fd uintptr) {
		var v int
		v, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		n = uint64(max(0, v))
	})
	if e != nil {
		return 0, e
	}
	return n, err
}
