package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The preface is the first thing on a connection behind TLS. The dialler writes
//
//	"parley-peer" | u8 version | u64 group | u8 kind | u8 n | n bytes: its own name
//
// (integers big-endian) and waits for
//
//	u8 version | u8 verdict | u8 n | n bytes: why not, "" if accepted
//
// before it writes anything else. A version that is not known is refused before
// the rest is read, whatever that may be.
const (
	magic   = "parley-peer"
	version = 1
)

// kind is what a connection is for.
type kind byte

const (
	kindRaft    kind = 1 // hashicorp/raft's network transport
	kindForward kind = 2 // frames of package wire
)

func (k kind) String() string {
	switch k {
	case kindRaft:
		return "raft"
	case kindForward:
		return "forward"
	}
	return fmt.Sprintf("kind %d", byte(k))
}

const (
	accepted = 0
	refused  = 1
)

// preface is what the dialler declares.
type preface struct {
	group uint64
	kind  kind
	from  string
}

func (p preface) write(w io.Writer) error {
	b := append([]byte(magic), version)
	b = binary.BigEndian.AppendUint64(b, p.group)
	b = append(b, byte(p.kind), byte(len(p.from)))
	b = append(b, p.from...)
	_, err := w.Write(b)
	return err
}

// readPreface reads no byte beyond the preface.
func readPreface(r io.Reader) (preface, error) {
	var p preface
	head := make([]byte, len(magic)+1)
	if _, err := io.ReadFull(r, head); err != nil {
		return p, fmt.Errorf("preface: %w", err)
	}
	if string(head[:len(magic)]) != magic {
		return p, errors.New("preface: not that of a Parley node")
	}
	if v := head[len(magic)]; v != version {
		return p, fmt.Errorf("preface: version %d, this node speaks version %d only", v, version)
	}
	rest := make([]byte, 8+1+1)
	if _, err := io.ReadFull(r, rest); err != nil {
		return p, fmt.Errorf("preface: %w", err)
	}
	p.group = binary.BigEndian.Uint64(rest)
	p.kind = kind(rest[8])
	name := make([]byte, rest[9])
	if _, err := io.ReadFull(r, name); err != nil {
		return p, fmt.Errorf("preface: %w", err)
	}
	p.from = string(name)
	return p, nil
}

// writeVerdict answers a preface: nil accepts.
func writeVerdict(w io.Writer, why error) error {
	b := []byte{version, accepted, 0}
	if why != nil {
		text := why.Error()
		text = text[:min(len(text), 255)]
		b[1], b[2] = refused, byte(len(text))
		b = append(b, text...)
	}
	_, err := w.Write(b)
	return err
}

// readVerdict returns nil if the preface was accepted. It reads no byte beyond
// the verdict.
func readVerdict(r io.Reader) error {
	head := make([]byte, 3)
	if _, err := io.ReadFull(r, head); err != nil {
		return fmt.Errorf("no answer to the preface: %w", err)
	}
	text := make([]byte, head[2])
	if _, err := io.ReadFull(r, text); err != nil {
		return fmt.Errorf("no answer to the preface: %w", err)
	}
	if head[1] != accepted {
		return fmt.Errorf("refused by a node of version %d: %q", head[0], text)
	}
	return nil
}
