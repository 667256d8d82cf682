package client

import (
	"fmt"
	"time"
)

// EventKind says what happened to the connection.
type EventKind uint8

// The kinds of events.
const (
	Connected  EventKind = iota + 1 // to Node at Addr
	Lost                            // the connection to Node at Addr, because of Err
	Redirected                      // a server says that Node, advertised at Addr, leads; not connected yet
	Retrying                        // no server could be used (Err says why); the next round is in Wait
)

// Event is something that happened to the connection, for showing it to people.
type Event struct {
	Kind EventKind
	Time time.Time
	Node string        // node id
	Addr string        // host:port
	Err  error         // Lost, Retrying
	Wait time.Duration // Retrying
}

// String describes the event in a few words.
func (e Event) String() string {
	switch e.Kind {
	case Connected:
		return fmt.Sprintf("connected to %s (%s)", e.Node, e.Addr)
	case Lost:
		return fmt.Sprintf("lost %s (%s): %v", e.Node, e.Addr, e.Err)
	case Redirected:
		return fmt.Sprintf("redirected to %s (%s)", e.Node, e.Addr)
	case Retrying:
		return fmt.Sprintf("retrying in %v: %v", e.Wait.Round(time.Millisecond), e.Err)
	}
	return fmt.Sprintf("event %d", e.Kind)
}

// emit tells the log and the caller's callback.
func (c *Client) emit(e Event) {
	e.Time = time.Now()
	c.eventMu.Lock()
	defer c.eventMu.Unlock()
	c.log.Debug("client: " + e.String())
	if c.cfg.Events != nil {
		c.cfg.Events(e)
	}
}
