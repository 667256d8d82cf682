package main

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"time"

	"github.com/parley-chat/parley/certs"
)

// adminSocketName is the socket's name in the data directory.
const adminSocketName = "admin.sock"

// acts are what administrators may do to this node and its cluster.
func (v *server) acts() map[string]adminAct {
	return map[string]adminAct{
		"status": func(ctx context.Context, _ adminArgs) (any, error) {
			members, warnings, err := clusterStatus(ctx, v.node)
			return adminStatus{v.s.name, buildVersion().Version, v.ops.drained.Load(), statusView{members, warnings}}, err
		},
		"transfer": func(ctx context.Context, a adminArgs) (any, error) {
			err := v.node.HandOver(ctx, a.Name)
			leader, _ := v.node.Leadership()
			return map[string]string{"leader": leader.ID}, err
		},
		"member-remove": func(ctx context.Context, a adminArgs) (any, error) {
			return map[string]string{"removed": a.Name}, v.node.Remove(ctx, a.Name)
		},
		"drain": func(ctx context.Context, _ adminArgs) (any, error) {
			return map[string]string{"drained": v.s.name}, v.drain(ctx)
		},
	}
}

// adminStatus is the result of the act "status".
type adminStatus struct {
	Node    string `json:"node"`
	Version string `json:"version"`
	Drained bool   `json:"drained"`
	statusView
}

// listenAdmin opens the listeners for administrators. Without the socket in its
// usual place the node runs all the same: the file system may not have any, or the
// path may be too long for one.
func (v *server) listenAdmin(files certs.Files) error {
	acts := v.acts()
	maps.Copy(acts, v.userActs())
	v.admin = newAdminServer(v.log, acts)
	path := v.s.adminSocket
	if path == "" {
		path = filepath.Join(v.s.data, adminSocketName)
	}
	if err := v.admin.listenSocket(path); err != nil {
		if v.s.adminSocket != "" {
			return err
		}
		v.log.Warn("there is no admin socket; --admin-socket puts it elsewhere", "path", path, "err", err)
	}
	if v.s.adminListen == "" {
		return nil
	}
	source, err := certs.NewSource(files, v.log)
	if err != nil {
		return err
	}
	v.trust.add("admin", source)
	return v.admin.listenTLS(v.s.adminListen, source)
}

// drain frees this node of clients and of leadership, for good: it goes on
// replicating and voting until it is stopped, so that stopping it is felt by
// nobody.
func (v *server) drain(ctx context.Context) error {
	if v.ops.drained.Swap(true) {
		return nil
	}
	v.log.Warn("this node is drained: it takes no clients and does not lead until it is started again", "node", v.s.name)
	if err := v.node.Transfer(ctx); err != nil {
		v.log.Warn("leadership could not be handed over, will try again", "err", err)
	}
	go v.keepOff() // ends with the process
	v.gateway()
	select {
	case <-v.gatewayDone:
		return nil
	case <-ctx.Done():
		return errors.New("there are still clients whose commands are under way; they are not waited for any longer")
	}
}

// keepOff hands leadership over whenever it comes to this node.
func (v *server) keepOff() {
	for {
		leader, changed := v.node.Leadership()
		var again <-chan time.Time // when it still leads
		if leader.Self {
			again = time.After(time.Second)
			ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
			if err := v.node.Transfer(ctx); err != nil {
				v.log.Warn("a drained node leads, and could not hand over", "err", err)
			}
			cancel()
		}
		select {
		case <-changed:
		case <-again:
		case <-v.node.Done():
			return
		}
	}
}
