package main

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerUser returns the user at the other end of a Unix socket, as the kernel
// knows it.
func peerUser(nc *net.UnixConn) (uid int, known bool, err error) {
	raw, err := nc.SyscallConn()
	if err != nil {
		return 0, false, err
	}
	var cred *unix.Ucred
	e := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if e != nil {
		return 0, false, e
	}
	if err != nil {
		return 0, false, err
	}
	return int(cred.Uid), true, nil
}
