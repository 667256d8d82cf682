package parley

import "context"

// vigil waits for the end of a context on behalf of all commands that were
// started with it and have no outcome yet: a program that starts thousands with
// one context pays for it once. Guarded by Session.mu.
type vigil struct {
	attempts []*attempt
	stop     func() bool
}

// watch has a given up when its context ends. mu is held.
func (s *Session) watch(a *attempt) {
	done := a.ctx.Done()
	v := s.vigils[done]
	if v == nil {
		if v = s.spare; v == nil {
			v = &vigil{}
		}
		s.spare = nil
		v.stop = context.AfterFunc(a.ctx, func() { s.ended(done, v) })
		if s.vigils == nil {
			s.vigils = make(map[<-chan struct{}]*vigil)
		}
		s.vigils[done] = v
	}
	a.vigil, a.place = v, len(v.attempts)
	v.attempts = append(v.attempts, a)
}

// unwatch undoes watch. mu is held.
func (s *Session) unwatch(a *attempt) {
	v := a.vigil
	if v == nil {
		return
	}
	a.vigil = nil
	last := len(v.attempts) - 1
	v.attempts[a.place] = v.attempts[last]
	v.attempts[a.place].place = a.place
	v.attempts[last] = nil
	if v.attempts = v.attempts[:last]; last == 0 {
		delete(s.vigils, a.ctx.Done())
		if v.stop() { // otherwise ended is going to be called
			s.spare = v
		}
	}
}

// ended gives up all that was started with a context that has ended.
func (s *Session) ended(done <-chan struct{}, v *vigil) {
	s.mu.Lock()
	attempts := v.attempts
	v.attempts = nil
	for _, a := range attempts {
		a.vigil = nil
	}
	if s.vigils[done] == v { // those that are started from now on have another
		delete(s.vigils, done)
	}
	sortBySeq(attempts)
	s.mu.Unlock()
	for _, a := range attempts {
		a.giveUp()
	}
}
