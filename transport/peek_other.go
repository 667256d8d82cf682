//go:build !unix

package transport

import (
	"errors"
	"net"
)

const canPeek = false

func peek(*net.TCPConn, []byte, int) (int, error) { return 0, errors.ErrUnsupported }
