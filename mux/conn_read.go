package mux

import (
	"fmt"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/wire"
)

// handle does what a frame from the server asks for.
func (c *Conn) handle(f *wire.Frame) error {
	switch f.Kind {
	case wire.KindResult:
		p, ok := c.take(f.ID)
		if !ok {
			return nil // nobody waits any more
		}
		if p.result == nil {
			err := fmt.Errorf("%w: a result in answer to a call", wire.ErrMalformed)
			p.fail(err)
			return err
		}
		p.result(f.Result, nil)
	case wire.KindReply:
		p, ok := c.take(f.ID)
		if !ok {
			return nil
		}
		if p.reply == nil {
			err := fmt.Errorf("%w: a reply in answer to a command or query", wire.ErrMalformed)
			p.fail(err)
			return err
		}
		p.reply(f.Body, nil)
	case wire.KindError:
		c.handleError(f.ID, f.Err)
	case wire.KindPush:
		return c.handlePush(f.ID, f.Messages)
	case wire.KindRedirect:
		if c.cfg.OnRedirect != nil {
			c.cfg.OnRedirect(f.Node, f.Addr)
		}
	case wire.KindPing:
		c.out.mu.Lock()
		defer c.out.mu.Unlock()
		if c.out.size() >= c.cfg.MaxBuffered {
			return fmt.Errorf("%w: pings, and nothing is read", wire.ErrMalformed)
		}
		return c.post(&wire.Frame{Kind: wire.KindPong, ID: f.ID})
	case wire.KindPong:
	default:
		return fmt.Errorf("%w: kind %d from a server", wire.ErrMalformed, f.Kind)
	}
	return nil
}

// take removes and returns what waits for id.
func (c *Conn) take(id uint64) (pending, bool) {
	c.out.mu.Lock()
	p, ok := c.pending[id]
	delete(c.pending, id)
	c.out.mu.Unlock()
	return p, ok
}

func (c *Conn) handleError(id uint64, e *parley.Error) {
	if p, ok := c.take(id); ok {
		p.fail(e)
		return
	}
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if id == 0 { // the server is about to close; answers to what it has read may still come
		c.parting = e
		c.refuse = parley.Errorf(parley.CodeShuttingDown, "not sent: the server is closing: %v", e)
	} else if w := c.watches[id]; w != nil {
		delete(c.watches, id)
		w.end(e)
	}
}
