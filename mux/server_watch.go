package mux

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/wire"
)

// feed is one watch at the server's end. Its fields are guarded by out.mu.
type feed struct {
	credit uint64             // messages that may still be sent
	cancel context.CancelFunc // ends the service's watch
	over   bool               // nothing more is sent for it
	more   sync.Cond          // feed waits for credit
}

// watch begins a watch.
func (s *serverConn) watch(ctx context.Context, f *wire.Frame) error {
	id, user, after := f.ID, f.User, f.After
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	if err := s.waitRoom(); err != nil {
		return err
	}
	if s.watches[id] != nil {
		return fmt.Errorf("%w: a second watch with id %d", wire.ErrMalformed, id)
	}
	if s.feeding >= s.cfg.MaxWatches {
		s.send(wire.AppendError(s.out.tail(), id,
			parley.Errorf(parley.CodeOverloaded, "%d watches on this connection, limit %d", s.feeding, s.cfg.MaxWatches)))
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &feed{credit: f.Credit, cancel: cancel, more: sync.Cond{L: &s.out.mu}}
	if s.watches == nil {
		s.watches = make(map[uint64]*feed)
	}
	s.watches[id] = w
	s.feeding++
	s.wg.Add(1)
	parley.Subscribe(ctx, s.svc, user, after, func(m parley.Message, err error) bool {
		if err == nil {
			err = s.push(id, w, &m)
		}
		if err != nil {
			s.endFeed(id, w, err)
		}
		return err == nil
	})
	return nil
}

// endFeed tells the client why a watch has ended.
func (s *serverConn) endFeed(id uint64, w *feed, err error) {
	defer s.wg.Done()
	defer w.cancel()
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	s.feeding--
	if w.over || s.mute() {
		return
	}
	delete(s.watches, id)
	s.send(wire.AppendError(s.out.tail(), id, err))
}

var errOver = errors.New("the watch is over")

// push sends one message as soon as the client allows it and there is room.
func (s *serverConn) push(id uint64, w *feed, m *parley.Message) error {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	for w.credit == 0 || s.full(0) {
		switch {
		case w.over || s.mute():
			return errOver
		case w.credit == 0:
			w.more.Wait()
		default:
			s.out.changed.Wait()
		}
	}
	if w.over || s.mute() {
		return errOver
	}
	one := [1]parley.Message{*m}
	b, err := wire.AppendFrame(s.out.tail(), &wire.Frame{Kind: wire.KindPush, ID: id, Messages: one[:]})
	if err != nil {
		return err
	}
	if !s.fits(b) {
		return parley.Errorf(parley.CodeBadRequest, "message %d takes a frame of %d bytes, the connection's limit is %d",
			m.ID, len(b)-len(s.out.buf), s.cfg.MaxFrame)
	}
	w.credit--
	s.send(b)
	return nil
}

// grant lets a watch send n more messages.
func (s *serverConn) grant(id, n uint64) error {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	w := s.watches[id]
	if w == nil {
		return nil // it has ended; this was under way
	}
	if w.credit+n < n {
		return fmt.Errorf("%w: credit beyond 64 bits", wire.ErrMalformed)
	}
	w.credit += n
	w.more.Signal()
	return nil
}

// cancelWatch ends a watch at the client's request. Nothing more is sent for it.
func (s *serverConn) cancelWatch(id uint64) {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	if w := s.watches[id]; w != nil {
		delete(s.watches, id)
		s.end(w)
	}
}

func (s *serverConn) end(w *feed) {
	w.over = true
	w.cancel()
	w.more.Signal()
	s.out.changed.Broadcast()
}

// endWatches ends all watches and tells the client why, if e says so. out.mu is held.
func (s *serverConn) endWatches(e *parley.Error) {
	for id, w := range s.watches {
		delete(s.watches, id)
		s.end(w)
		if e != nil {
			s.send(wire.AppendError(s.out.tail(), id, e))
		}
	}
}
