package node

import (
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley/fsm"
)

// disk has the entry that was asked for last, or fails, when it is told so.
type disk struct {
	have  chan error
	asked chan uint64
}

func (d disk) Await(index uint64) error {
	d.asked <- index
	return <-d.have
}

func (disk) Follows(uint64, uint64) {}

// Entries that are not on this node's disk are not applied, whatever Raft says.
func TestNothingBeforeTheDisk(t *testing.T) {
	f, err := fsm.Open(fsm.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := durable{f, disk{make(chan error), make(chan uint64, 2)}}
	log := &raft.Log{Index: 3, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(raft.Configuration{})}
	done := make(chan any)
	go func() { done <- d.Apply(log) }()
	select {
	case r := <-done:
		t.Fatalf("applied before the entry is on disk: %v", r)
	case <-time.After(20 * time.Millisecond):
	}
	broken := errors.New("input/output error")
	d.store.(disk).have <- broken
	if r := <-done; r != broken || f.Applied() != 0 {
		t.Errorf("response %v, applied %d: want the disk's error and nothing applied", r, f.Applied())
	}
	go func() { done <- d.Apply(log) }()
	d.store.(disk).have <- nil
	if r := <-done; r != nil || f.Applied() != 3 {
		t.Errorf("response %v, applied %d", r, f.Applied())
	}
	if a, b := <-d.store.(disk).asked, <-d.store.(disk).asked; a != 3 || b != 3 {
		t.Errorf("the disk was asked for %d and %d, want 3", a, b)
	}
}
