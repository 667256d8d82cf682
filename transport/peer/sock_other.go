//go:build !linux

package peer

import "net"

// failFast has no portable form: elsewhere keep-alives and time-outs must do.
func failFast(net.Conn) error { return nil }
