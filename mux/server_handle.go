package mux

import (
	"context"
	"fmt"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/wire"
)

// handle does what a frame from the client asks for. An error ends the connection.
func (s *serverConn) handle(ctx context.Context, f *wire.Frame) error {
	id := f.ID
	if id == 0 && f.Kind != wire.KindPing && f.Kind != wire.KindPong {
		return fmt.Errorf("%w: kind %d with id 0", wire.ErrMalformed, f.Kind)
	}
	switch f.Kind {
	case wire.KindGet, wire.KindCall, wire.KindWatch:
		if err := s.cfg.Gate.Turn(s.turns, &s.flow, s.backlog); err != nil {
			return err
		}
	}
	switch f.Kind {
	case wire.KindDo:
		pass, err := s.cfg.Gate.Enter(s.turns, &s.flow, s.backlog)
		if err != nil {
			return err
		}
		if _, ok := f.Request.Command.(parley.Ack); ok {
			pass = pass.Unasked()
		}
		took, err := s.admit(0)
		if err != nil {
			pass.Unasked().Leave()
			return err
		}
		s.svc.Start(ctx, f.Request, s.command(id, took, pass).done)
	case wire.KindGet:
		return s.get(ctx, id, f.Query)
	case wire.KindCall:
		return s.call(ctx, id, f.Method, f.Body)
	case wire.KindLogin:
		return s.login(ctx, id, f.Login)
	case wire.KindWatch:
		return s.watch(ctx, f)
	case wire.KindCredit:
		return s.grant(id, f.Credit)
	case wire.KindCancel:
		s.cancelWatch(id)
	case wire.KindPing:
		return s.post(&wire.Frame{Kind: wire.KindPong, ID: id})
	case wire.KindPong:
	default:
		return fmt.Errorf("%w: kind %d from a client", wire.ErrMalformed, f.Kind)
	}
	return nil
}

// admit waits until one more command, query or call may be under way and there
// are room bytes of room for its answer, and takes both.
func (s *serverConn) admit(room int) (load, error) {
	took := load{n: 1, bytes: s.in.Len(), room: room}
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	for s.busy(took.bytes) || s.full(room) {
		if err := s.ended(); err != nil {
			return took, err
		}
		s.out.changed.Wait()
	}
	if err := s.ended(); err != nil {
		return took, err
	}
	s.inFlight.n++
	s.inFlight.bytes += took.bytes
	s.inFlight.room += room
	return took, nil
}

// busy reports whether one more request of so many bytes would be too much. One
// is always let through. out.mu is held.
func (s *serverConn) busy(bytes int) bool {
	return s.inFlight.n >= s.cfg.MaxInFlight || s.inFlight.n > 0 && s.inFlight.bytes+bytes > s.cfg.MaxInFlightBytes
}

// full reports whether an answer of room bytes would be too much. One is always
// let through. out.mu is held.
func (s *serverConn) full(room int) bool {
	n := s.out.size() + s.inFlight.room
	return n >= s.cfg.MaxBuffered || n > 0 && n+room > s.cfg.MaxBuffered
}

// ended says why nothing more may be begun, if so. out.mu is held.
func (s *serverConn) ended() error {
	if s.draining || s.closed {
		return errDraining
	}
	return s.out.err
}

// answer sends the answer to a command or query and gives back what admit took.
func (s *serverConn) answer(id uint64, r *parley.Result, err error, took load) {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	s.giveBack(took)
	switch {
	case s.mute():
	case err != nil:
		s.send(wire.AppendError(s.out.tail(), id, err))
	default:
		if b := wire.AppendResult(s.out.tail(), id, r); s.fits(b) {
			s.send(b)
		} else {
			s.sendTooLarge(id, b)
		}
	}
}

// giveBack gives back what admit took. out.mu is held.
func (s *serverConn) giveBack(took load) {
	s.inFlight.n -= took.n
	s.inFlight.bytes -= took.bytes
	s.inFlight.room -= took.room
	s.out.changed.Broadcast()
}

// mute reports whether what is sent would reach nobody. out.mu is held.
func (s *serverConn) mute() bool { return s.closed || s.out.err != nil }

// send makes b, which is out.buf and one frame more, the new out.buf. out.mu is held.
func (s *serverConn) send(b []byte) {
	s.out.buf = b
	s.out.wake()
}

// fits reports whether the frame that b has more than out.buf is within the
// limit. out.mu is held.
func (s *serverConn) fits(b []byte) bool {
	const prefix = 4
	return len(b)-len(s.out.buf)-prefix <= s.cfg.MaxFrame
}

// sendTooLarge sends an error instead of the frame that b has more than out.buf.
func (s *serverConn) sendTooLarge(id uint64, b []byte) {
	err := parley.Errorf(parley.CodeBadRequest, "the answer takes a frame of %d bytes, the connection's limit is %d",
		len(b)-len(s.out.buf), s.cfg.MaxFrame)
	s.send(wire.AppendError(s.out.tail(), id, err))
}

// post sends a small frame as soon as there is room.
func (s *serverConn) post(f *wire.Frame) error {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	if err := s.waitRoom(); err != nil {
		return err
	}
	b, err := wire.AppendFrame(s.out.tail(), f)
	if err == nil {
		s.send(b)
	}
	return err
}

// refuse answers a request with an error as soon as there is room.
func (s *serverConn) refuse(id uint64, e *parley.Error) error {
	return s.post(&wire.Frame{Kind: wire.KindError, ID: id, Err: e})
}

// waitRoom waits until something may be sent. out.mu is held.
func (s *serverConn) waitRoom() error {
	for {
		if err := s.ended(); err != nil {
			return err
		}
		if !s.full(0) {
			return nil
		}
		s.out.changed.Wait()
	}
}

func (s *serverConn) get(ctx context.Context, id uint64, q parley.Query) error {
	room := pageRoom
	if inbox, ok := q.(parley.Inbox); ok && inbox.Limit < 0 {
		room = smallRoom
	}
	took, err := s.admit(room)
	if err != nil {
		return err
	}
	svc := s.svc
	s.wg.Go(func() {
		r, err := svc.Get(ctx, q)
		s.answer(id, &r, err, took)
	})
	return nil
}

func (s *serverConn) call(ctx context.Context, id uint64, method string, body []byte) error {
	if s.cfg.Call == nil {
		return s.refuse(id, parley.Errorf(parley.CodeUnsupported, "no calls on this connection"))
	}
	took, err := s.admit(smallRoom)
	if err != nil {
		return err
	}
	s.wg.Go(func() {
		body, err := s.cfg.Call(ctx, method, body)
		s.reply(id, body, err, took)
	})
	return nil
}

// reply sends the answer to a call and gives back what admit took.
func (s *serverConn) reply(id uint64, body []byte, err error, took load) {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	s.giveBack(took)
	if s.mute() {
		return
	}
	if err != nil {
		s.send(wire.AppendError(s.out.tail(), id, err))
		return
	}
	b, err := wire.AppendFrame(s.out.tail(), &wire.Frame{Kind: wire.KindReply, ID: id, Body: body})
	switch {
	case err != nil:
		s.send(wire.AppendError(s.out.tail(), id, err))
	case !s.fits(b):
		s.sendTooLarge(id, b)
	default:
		s.send(b)
	}
}
