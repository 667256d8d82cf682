package tcp

import (
	"net"
	"sync"
	"time"

	"github.com/parley-chat/parley/wire"
)

// deadlines sets the read deadline of a connection: for each wait its own, and
// one in the past once the connection drains.
type deadlines struct {
	nc   net.Conn
	rest time.Duration // for the rest of a frame; used by the reading goroutine only

	mu       sync.Mutex
	draining bool
}

// waiting is a [wire.ClassicReader]'s Waiting.
func (d *deadlines) waiting(w wire.ClassicWait) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch limit := w.Limit(d.rest); {
	case d.draining:
	case limit == 0:
		d.nc.SetReadDeadline(time.Time{})
	default:
		d.nc.SetReadDeadline(time.Now().Add(limit))
	}
}

// drain makes reading end, now and later.
func (d *deadlines) drain() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.draining = true
	d.nc.SetReadDeadline(time.Unix(1, 0))
}
