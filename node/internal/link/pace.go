package link

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// pace says when a leader's heartbeats go out. Raft would send one to each follower
// every 25 to 50 ms, at moments of their own, for a time-out of 250 ms: that is most
// of what an idle leader has to do. Here they go out to all followers at the same
// moments, every so often, so that both ends wake up less.
//
// That is for followers that answer at once. One that does not, because it is
// gone or because processors or disks are busy, gets heartbeats as Raft sends them:
// the slack that is given up is the slack that was not needed.
type pace struct {
	every time.Duration // 0: heartbeats never wait
	start time.Time     // heartbeats go out whole multiples of every after it

	mu   sync.Mutex
	last map[raft.ServerID]time.Time // begin of the last heartbeat to a server that answered it at once
}

// prompt is how soon a heartbeat is answered when nobody is busy.
const prompt = 10 * time.Millisecond

func newPace(every time.Duration) *pace {
	return &pace{every: every, start: time.Now(), last: make(map[raft.ServerID]time.Time)}
}

// wait is how long a heartbeat to a server has to wait, less than p.every after the last one.
func (p *pace) wait(id raft.ServerID, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, ok := p.last[id]
	if !ok || p.every <= 0 {
		return 0
	}
	beats := last.Sub(p.start)/p.every + 1
	return p.start.Add(beats * p.every).Sub(now)
}

// sent is told of a heartbeat when its answer is there, or will not come.
func (p *pace) sent(id raft.ServerID, begun, now time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil || now.Sub(begun) > prompt {
		delete(p.last, id)
		return
	}
	p.last[id] = begun
}
