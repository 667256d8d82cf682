package tcp

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/parley-chat/parley"
)

// chunk is the most bytes written under one deadline, and between two looks at
// what has been confirmed.
const chunk = 32 << 10

// mark says that with the byte at which it stands, a message has been sent.
type mark struct {
	end    int            // offset in the outbox's buffer of the byte behind the message
	svc    parley.Service // as the user sees it
	user   string
	cursor parley.Cursor
}

// outbox collects whole frames for a classic client and writes them one after
// the other. It holds no more than limit bytes, or one piece if that is larger;
// who adds to it waits.
//
// A goroutine, run, writes for as long as there is something to write; close
// waits for it.
type outbox struct {
	nc      net.Conn
	timeout time.Duration // a client that takes nothing for so long is given up
	limit   int
	// written is told, by run, which messages the kernel has been given, and the
	// offset up to which it has been given bytes.
	written func(marks []mark, offset int)
	// failed is told, by run, why nothing is written any more.
	failed func(error)

	mu      sync.Mutex
	buf     []byte
	marks   []mark        // in buf
	writing int           // bytes taken out of buf and not written yet
	running bool          // run is
	closed  bool          // nothing is added any more
	err     error         // why nothing is written any more
	room    chan struct{} // closed when bytes have been written or run has ended; nil: nobody waits
}

var errOutboxClosed = errors.New("connection is closing")

// add appends frames, all or none, once there is room. If m is not nil, the
// message it names is complete with them. The frames are the outbox's afterwards.
func (o *outbox) add(ctx context.Context, frames []byte, m *mark) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		switch size := len(o.buf) + o.writing; {
		case o.err != nil:
			return o.err
		case o.closed:
			return errOutboxClosed
		case ctx.Err() != nil:
			return ctx.Err()
		case size == 0 || size+len(frames) <= o.limit:
			if o.buf == nil {
				o.buf = frames
			} else {
				o.buf = append(o.buf, frames...)
			}
			if m != nil {
				m.end = len(o.buf)
				o.marks = append(o.marks, *m)
			}
			if !o.running {
				o.running = true
				go o.run()
			}
			return nil
		}
		o.wait(ctx.Done())
	}
}

// wait waits until there is more room or stop is closed. mu is held, but not
// while waiting.
func (o *outbox) wait(stop <-chan struct{}) {
	if o.room == nil {
		o.room = make(chan struct{})
	}
	room := o.room
	o.mu.Unlock()
	select {
	case <-room:
	case <-stop:
	}
	o.mu.Lock()
}

// signal wakes all who wait. mu is held.
func (o *outbox) signal() {
	if o.room != nil {
		close(o.room)
		o.room = nil
	}
}

// close lets nothing be added any more and waits until everything is written or
// nothing can be.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	for o.running {
		o.wait(nil)
	}
}

// run writes until nothing is left to be written, or writing fails. An idle
// connection has no buffer.
func (o *outbox) run() {
	for {
		b, marks := o.take()
		if b == nil {
			return
		}
		if err := o.write(b, marks); err != nil {
			o.fail(err)
			return
		}
	}
}

// take takes what is to be written; nil: there is nothing, and run ends.
func (o *outbox) take() ([]byte, []mark) {
	o.mu.Lock()
	defer o.mu.Unlock()
	b, marks := o.buf, o.marks
	o.buf, o.marks, o.writing = nil, nil, len(b)
	if b == nil {
		o.running = false
		o.signal()
	}
	return b, marks
}

// fail ends the writing.
func (o *outbox) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = err
	o.buf, o.marks, o.writing = nil, nil, 0
	o.signal()
	o.mu.Unlock()
	o.failed(err)
	o.mu.Lock()
	o.running = false
	o.signal()
}

func (o *outbox) write(b []byte, marks []mark) error {
	for offset := 0; offset < len(b); {
		o.nc.SetWriteDeadline(time.Now().Add(o.timeout))
		n, err := o.nc.Write(b[offset:min(offset+chunk, len(b))])
		offset += n
		done := 0
		for done < len(marks) && marks[done].end <= offset {
			done++
		}
		if done > 0 {
			o.written(marks[:done], offset)
			marks = marks[done:]
		}
		o.mu.Lock()
		o.writing -= n
		o.signal()
		o.mu.Unlock()
		if err != nil && (n == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return err
		}
	}
	return nil
}
