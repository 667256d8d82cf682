package mux

import (
	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/fair"
)

// command is a command under way at the server's end. When it has its answer it
// is used again for another: what is allocated for it is allocated once, and not
// for each.
type command struct {
	conn *serverConn
	id   uint64
	took load
	pass fair.Pass
	done func(parley.Result, error) // outcome, bound once
}

// command returns a command under way for which admit has taken what it needs.
func (s *serverConn) command(id uint64, took load, pass fair.Pass) *command {
	k, ok := s.commands.Get().(*command)
	if !ok {
		k = new(command)
		k.done = k.outcome
	}
	k.conn, k.id, k.took, k.pass = s, id, took, pass
	return k
}

// outcome is called once for each use, as [parley.Service] promises.
func (k *command) outcome(r parley.Result, err error) {
	s, id, took, pass := k.conn, k.id, k.took, k.pass
	k.conn = nil // a second call would be a bug; let it be seen
	s.commands.Put(k)
	pass.Leave()
	s.answer(id, &r, err, took)
}
