package link

import (
	"io"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// address adds to a message's header the server that it is meant for. Raft
// addresses servers by where they are; a server whose data was wiped is at the
// same place under the same name, and must not answer for what its predecessor
// has promised.
func address(h raft.RPCHeader, id raft.ServerID) raft.RPCHeader {
	h.Addr = slices.Concat(h.Addr, []byte{0}, []byte(id))
	return h
}

// AppendEntries implements raft.Transport. Heartbeats wait for their moment, and fail
// when they fail. Entries are tried again until they are delivered or not wanted any
// more: every failure that Raft sees doubles the time for which it leaves a follower
// alone.
func (t *Transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if isHeartbeat(args) {
		t.pause(t.pace.wait(id, time.Now()))
		begun := time.Now()
		err := t.Heartbeat(id, target, args, resp)
		t.pace.sent(id, begun, time.Now(), err)
		return err
	}
	for {
		if t.refused.Load() {
			return errRefused
		}
		req := t.entries(id, args) // each time: a transport in memory hands on the message itself, and the other end changes it
		*resp = raft.AppendEntriesResponse{}
		err := t.Transport.AppendEntries(id, target, &req, resp)
		if err == nil {
			return nil
		}
		if wanted := t.wanted.Load(); wanted == nil || !(*wanted)(args.Term, id) {
			return err
		}
		timer := time.NewTimer(retryEvery)
		select {
		case <-t.nextAnswer(id): // it is back
		case <-timer.C:
		case <-t.closing:
		}
		timer.Stop()
	}
}

// Heartbeat sends a heartbeat at once.
func (t *Transport) Heartbeat(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if t.refused.Load() {
		return errRefused
	}
	req := *args
	req.RPCHeader = address(args.RPCHeader, id)
	*resp = raft.AppendEntriesResponse{}
	err := t.Transport.AppendEntries(id, target, &req, resp)
	if err == nil {
		t.heartbeatAnswered(id)
	}
	return err
}

// pause waits for d, or until nothing goes out any more.
func (t *Transport) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.refusing:
	}
}

// entries is the message that is sent for Raft's.
func (t *Transport) entries(id raft.ServerID, args *raft.AppendEntriesRequest) raft.AppendEntriesRequest {
	req := *args
	req.RPCHeader = address(args.RPCHeader, id)
	if durable := t.durable.Load(); durable != nil {
		req.LeaderCommitIndex = (*durable)(args.LeaderCommitIndex)
	}
	return req
}

// isHeartbeat is what raft.NetworkTransport takes for one, too.
func isHeartbeat(a *raft.AppendEntriesRequest) bool {
	return a.PrevLogEntry == 0 && a.PrevLogTerm == 0 && len(a.Entries) == 0 && a.LeaderCommitIndex == 0
}

// AppendEntriesPipeline implements raft.Transport.
func (t *Transport) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	if t.refused.Load() {
		return nil, errRefused
	}
	p, err := t.Transport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	return &pipeline{AppendPipeline: p, t: t, id: id}, nil
}

type pipeline struct {
	raft.AppendPipeline
	t  *Transport
	id raft.ServerID
}

func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if p.t.refused.Load() {
		return nil, errRefused
	}
	req := p.t.entries(p.id, args)
	return p.AppendPipeline.AppendEntries(&req, resp)
}

// RequestVote implements raft.Transport.
func (t *Transport) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if t.refused.Load() {
		return errRefused
	}
	req := *args
	req.RPCHeader = address(args.RPCHeader, id)
	return t.Transport.RequestVote(id, target, &req, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (t *Transport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if t.refused.Load() {
		return errRefused
	}
	req := *args
	req.RPCHeader = address(args.RPCHeader, id)
	return t.prevotes.RequestPreVote(id, target, &req, resp)
}

// InstallSnapshot implements raft.Transport.
func (t *Transport) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if t.refused.Load() {
		return errRefused
	}
	t.cfg.OnInstall(id)
	req := *args
	req.RPCHeader = address(args.RPCHeader, id)
	return t.Transport.InstallSnapshot(id, target, &req, resp, data)
}

// TimeoutNow implements raft.Transport.
func (t *Transport) TimeoutNow(id raft.ServerID, target raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	if t.refused.Load() {
		return errRefused
	}
	req := *args
	req.RPCHeader = address(args.RPCHeader, id)
	return t.Transport.TimeoutNow(id, target, &req, resp)
}

// nextAnswer is closed at the next heartbeat that the server answers.
func (t *Transport) nextAnswer(id raft.ServerID) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.answers[id] == nil {
		t.answers[id] = make(chan struct{})
	}
	return t.answers[id]
}

func (t *Transport) heartbeatAnswered(id raft.ServerID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ch := t.answers[id]; ch != nil {
		close(ch)
		delete(t.answers, id)
	}
}
