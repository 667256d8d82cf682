package node

import (
	"testing"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/fsm"
	"github.com/parley-chat/parley/parleytest"
)

func TestConformanceLeader(t *testing.T) {
	parleytest.Run(t, func(t *testing.T) parley.Service { return newCluster(t, 3, nil).leader() })
}

func TestConformanceFollower(t *testing.T) {
	parleytest.Run(t, func(t *testing.T) parley.Service { return newCluster(t, 3, nil).follower() })
}

func TestConformanceLimits(t *testing.T) {
	limits := parleytest.Limits{Users: 20, Sessions: 10, BodyBytes: 100, MailboxMessages: 5, MailboxBytes: 350}
	parleytest.RunLimits(t, limits, func(t *testing.T) parley.Service {
		return newCluster(t, 1, func(cfg *Config) {
			cfg.Limits = fsm.Limits{Users: 20, Sessions: 10, BodyBytes: 100, MailboxMessages: 5, MailboxBytes: 350} // which has room for the senders' names, too
		}).leader()
	})
}
