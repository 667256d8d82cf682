package peer

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// unackedLimit is how long sent bytes may go without a TCP acknowledgement.
const unackedLimit = 3 * time.Second

// failFast makes the kernel give up a connection whose other host has vanished
// within seconds rather than after its usual quarter of an hour, whatever the
// time-outs above it. The kernel of a host that is only busy acknowledges.
func failFast(c net.Conn) error {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	sc, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = sc.Control(func(fd uintptr) {
		serr = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unackedLimit/time.Millisecond))
	})
	if err != nil {
		return err
	}
	return serr
}
