//go:build !linux && !darwin

package tcp

import "net"

// newProbe: elsewhere than on Linux and macOS nobody knows what a classic client
// has received. Its mail stays unread, and comes again with each connection, until
// a framed client acknowledges it. Nodes run on Linux; this lets the rest be
// developed on other systems.
func newProbe(net.Conn) probe { return nil }
