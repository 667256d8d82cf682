// Package mux is both ends of a framed connection after its hello: [Conn] is
// the client's, [Serve] the server's end over any [parley.Service].
//
// Many commands, queries and watches share one connection. Commands reach the
// service in the order in which they were given to [Conn.Do].
package mux

// Leader is who leads, as a node knows it.
type Leader struct {
	ID     string // node id, "" if unknown
	Client string // its advertised client address
	Self   bool   // it is this node
}

// Leadership returns who leads and a channel that is closed when that changes.
type Leadership func() (Leader, <-chan struct{})

// orDefault gives a setting that is not set its default.
func orDefault[T ~int | ~int64](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}
