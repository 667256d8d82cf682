package mux

import (
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/parley-chat/parley/wire"
)

const (
	// chunk is the most bytes given to the connection under one deadline, so that
	// a slow peer is measured by its progress.
	chunk = 64 << 10
	// keep is the largest buffer that a connection holds on to that does not
	// borrow them.
	keep = 64 << 10
	// armEvery is how stale a read deadline may get before it is set anew.
	armEvery = time.Second
)

// outbox collects frames and writes them, all there are with one call. Anybody
// appends to tail under mu and calls wake or flush. It has no limit of its own:
// whoever appends looks at size first.
//
// A goroutine, run, writes for as long as there is something to be written, so
// that an idle connection has none. The owner waits for it by finished.
//
// The owner guards its own state by mu as well, so that what belongs together
// happens under one lock.
type outbox struct {
	nc      net.Conn
	timeout time.Duration // for each chunk
	lender  *wire.Buffers // of memory for frames; nil: they are kept
	start   func()        // run, bound once
	now     *immediate    // nil: nc cannot be written to without waiting

	mu      sync.Mutex
	changed sync.Cond // others wait for room or for a change of the owner's state
	buf     []byte    // frames to be written; nil: none
	spare   []byte    // for use as buf, if there is no lender
	current []byte    // what is being written; its owner is who has set writing
	writing bool      // by run or flush
	last    time.Time // if set, no frame follows, and all must be written by then
	err     error     // writing has failed, or the connection has ended
}

func (o *outbox) init(nc net.Conn, timeout time.Duration, lender *wire.Buffers) {
	o.nc, o.timeout, o.lender = nc, timeout, lender
	o.start, o.now = o.run, newImmediate(nc)
	o.changed.L = &o.mu
}

// size is how many bytes wait for the peer. mu is held.
func (o *outbox) size() int { return len(o.buf) + len(o.current) }

// tail is where the next frame is appended. mu is held.
func (o *outbox) tail() []byte {
	switch {
	case o.buf != nil:
	case o.lender != nil:
		o.buf = o.lender.Get()
	default:
		o.buf, o.spare = o.spare, nil
	}
	return o.buf
}

// wake sees to it that what is in buf gets written, soon and together with what
// is appended until then. mu is held.
func (o *outbox) wake() {
	if !o.writing && o.err == nil {
		o.writing = true
		go o.start()
	}
}

// flush is wake for who has time for a system call, and knows that nothing will
// be appended soon: it writes what the kernel takes at once. It does not wait.
// mu is held, but not while writing.
func (o *outbox) flush() {
	if o.writing || !o.next() {
		return
	}
	if b := o.current; o.now != nil {
		o.mu.Unlock()
		n := o.now.write(b)
		o.mu.Lock()
		if o.wrote(n); !o.next() {
			return
		}
	}
	go o.start()
}

// run writes until there is nothing more to be written.
func (o *outbox) run() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.next() {
		b, limit := o.current, o.last
		o.mu.Unlock()
		err := o.write(b, limit)
		o.mu.Lock()
		if err != nil {
			o.stop(err)
			o.nc.Close() //nolint:errcheck // it has failed already
		}
		o.wrote(len(b))
	}
}

// next takes what is to be written now, if there is anything. mu is held.
func (o *outbox) next() bool {
	switch {
	case o.err != nil:
		o.current = nil
	case len(o.current) == 0 && len(o.buf) > 0:
		o.current, o.buf = o.buf, nil
	}
	was := o.writing
	o.writing = len(o.current) > 0
	if was && !o.writing {
		o.changed.Broadcast()
	}
	return o.writing
}

// write writes a chunk at a time.
func (o *outbox) write(b []byte, limit time.Time) error {
	for len(b) > 0 {
		n := min(len(b), chunk)
		if o.now != nil {
			if n := o.now.write(b[:n]); n > 0 {
				b = b[n:]
				continue
			}
		}
		deadline := time.Now().Add(o.timeout)
		if !limit.IsZero() && limit.Before(deadline) {
			deadline = limit
		}
		if err := o.nc.SetWriteDeadline(deadline); err != nil {
			return err
		}
		if _, err := o.nc.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// wrote notes that n bytes of current have been written. mu is held.
func (o *outbox) wrote(n int) {
	b := o.current
	if o.current = b[n:]; len(o.current) > 0 {
		return // where it began is not known any more: it is not used again
	}
	o.current = nil
	switch {
	case o.lender != nil:
		o.lender.Put(b)
	case cap(b) <= keep:
		o.spare = b[:0]
	}
	o.changed.Broadcast()
}

// finished waits until nothing more is going to be written. mu is held, but not
// while waiting.
func (o *outbox) finished() {
	for o.writing {
		o.changed.Wait()
	}
}

// stop ends run without writing what is left. The first reason counts. mu is held.
func (o *outbox) stop(err error) {
	if o.err == nil {
		o.err = err
	}
	o.buf, o.spare = nil, nil
	o.changed.Broadcast()
}

// immediate writes to a TCP connection without ever waiting.
type immediate struct {
	raw syscall.RawConn
	try func(fd uintptr) bool // tryWrite, bound once
	b   []byte
	n   int
}

func newImmediate(nc net.Conn) *immediate {
	tcp, ok := nc.(*net.TCPConn)
	if !ok || !canTryWrite {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	w := &immediate{raw: raw}
	w.try = w.tryWrite
	return w
}

// write writes what the kernel takes and returns how much that was. Of errors,
// those who write next will hear.
func (w *immediate) write(b []byte) int {
	w.b, w.n = b, 0
	err := w.raw.Write(w.try)
	w.b = nil
	if err != nil {
		return 0
	}
	return w.n
}
