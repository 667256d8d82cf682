package client

import "context"

// endings watches over the contexts of the calls that have no outcome yet, over
// each once, however many calls have it. [Client.mu] guards it.
type endings map[<-chan struct{}]*ending

type ending struct {
	done  <-chan struct{} // of the context
	calls int
	stop  func() bool
}

// add begins to watch for k: ended is called when its context has ended.
func (e endings) add(k *call, ended func(done <-chan struct{})) {
	done := k.ctx.Done()
	if done == nil {
		return
	}
	if k.ending = e[done]; k.ending == nil {
		k.ending = &ending{done: done, stop: context.AfterFunc(k.ctx, func() { ended(done) })}
		e[done] = k.ending
	}
	k.ending.calls++
}

// remove undoes add, if it was called for k.
func (e endings) remove(k *call) {
	w := k.ending
	if w == nil {
		return
	}
	if w.calls--; w.calls == 0 {
		w.stop()
		delete(e, w.done)
	}
}
