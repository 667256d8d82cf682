package client

import (
	"testing"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/parleytest"
)

func TestConformance(t *testing.T) {
	t.Run("Leader", func(t *testing.T) {
		parleytest.Run(t, func(t *testing.T) parley.Service {
			cl := newCluster(t, 3)
			cl.fake.SetMembers(cl.members())
			return open(t, Config{Servers: cl.addrs(2)})
		})
	})
	t.Run("Any", func(t *testing.T) {
		parleytest.Run(t, func(t *testing.T) parley.Service {
			cl := newCluster(t, 3)
			cl.fake.SetMembers(cl.members())
			return open(t, Config{Servers: cl.addrs(), Any: true})
		})
	})
	t.Run("SmallWindow", func(t *testing.T) {
		parleytest.Run(t, func(t *testing.T) parley.Service {
			cl := newCluster(t, 1)
			cl.fake.SetMembers(cl.members())
			return open(t, Config{Servers: cl.addrs(), Window: 2})
		})
	})
}

func TestConformanceLimits(t *testing.T) {
	limits := parleytest.Limits{BodyBytes: 1000, MailboxMessages: 20, MailboxBytes: 5000, Users: 20, Sessions: 20}
	parleytest.RunLimits(t, limits, func(t *testing.T) parley.Service {
		cl := newCluster(t, 1)
		cl.fake.SetLimits(limits)
		return open(t, Config{Servers: cl.addrs()})
	})
}
