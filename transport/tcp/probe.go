package tcp

// A probe looks at the send queue of a TCP connection. Positions count the bytes
// that this end has put into the stream, from an arbitrary origin.
type probe interface {
	// position is where the next byte goes. Only the writer may ask.
	position() (uint64, error)
	// confirmed is the position up to which the other end's TCP has confirmed.
	confirmed() (confirmation, error)
}

type confirmation struct {
	upTo  uint64
	empty bool // nothing at all was unconfirmed
	alive bool // more may be confirmed later
}
