package local

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports that are picked lie here: above what services use, below what Linux and
// most others take for outgoing connections. Otherwise a connection made while
// a node is down may sit on the node's port when it comes back.
const portFrom, portTo = 15000, 32000

// ports returns the client, peer and ops ports of the nodes.
func (c *Cluster) ports() (ports [3][]int, err error) {
	host := func(i int) string {
		if c.cfg.Hosts != nil {
			return c.cfg.Hosts[i]
		}
		return "127.0.0.1"
	}
	taken := map[int]bool{}
	for kind, first := range []int{c.cfg.ClientPort, c.cfg.PeerPort, c.cfg.OpsPort} {
		for i := range c.cfg.Nodes {
			port := first + i
			if first == 0 {
				if port, err = FreePort(host(i), taken); err != nil {
					return ports, err
				}
			}
			if port < 1 || port > 65535 {
				return ports, fmt.Errorf("port %d: must be 1 to 65535", port)
			}
			if taken[port] && host(i) == host(0) {
				return ports, fmt.Errorf("port %d is given twice", port)
			}
			taken[port] = true
			ports[kind] = append(ports[kind], port)
		}
	}
	return ports, nil
}

// FreePort picks a port on which nobody listens just now, and that no outgoing
// connection is given, except those that are taken.
func FreePort(host string, taken map[int]bool) (int, error) {
	var last error
	for range 1000 {
		port := portFrom + rand.IntN(portTo-portFrom)
		if taken[port] {
			continue
		}
		ln, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			last = err
			continue
		}
		ln.Close()
		return port, nil
	}
	return 0, fmt.Errorf("no free port found: %w", last)
}

// CheckPorts returns an error that names the first address of the cluster on
// which somebody else listens.
func (c *Cluster) CheckPorts() error {
	for _, n := range c.nodes {
		for _, addr := range []string{n.Client, n.Peer, n.Ops} {
			ln, err := net.Listen("tcp", addr)
			if err != nil {
				return err
			}
			ln.Close()
		}
	}
	return nil
}
