package node

import (
	"errors"
	"io"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley/fsm"
)

// durable is the state machine as Raft gets it: entries are applied, and with
// that answered and read, only when this server has them on disk. A leader writes
// its log while its followers do, and Raft counts it among those that have.
type durable struct {
	*fsm.FSM
	store interface {
		Await(index uint64) error
		Follows(index, term uint64)
	}
}

var (
	_ raft.BatchingFSM        = durable{}
	_ raft.ConfigurationStore = durable{}
)

// Apply implements raft.FSM.
func (d durable) Apply(l *raft.Log) any { return d.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM.
func (d durable) ApplyBatch(logs []*raft.Log) []any {
	if err := d.store.Await(logs[len(logs)-1].Index); err != nil {
		responses := make([]any, len(logs))
		for i := range responses {
			responses[i] = err
		}
		return responses
	}
	return d.FSM.ApplyBatch(logs)
}

// Restore implements raft.FSM.
func (d durable) Restore(r io.ReadCloser) error {
	if err := d.FSM.Restore(r); err != nil {
		return err
	}
	snapshots, err := d.FSM.Snapshots().List()
	if err != nil || len(snapshots) == 0 {
		return errors.Join(err, errors.New("the snapshot that was restored is not there"))
	}
	d.store.Follows(snapshots[0].Index, snapshots[0].Term)
	return nil
}
