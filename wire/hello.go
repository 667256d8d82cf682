package wire

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/parley-chat/parley"
)

// Version is the version of the framed protocol that this package speaks.
const Version = 1

// The commands of the frames that open the framed protocol.
const (
	CommandHello    = "hello"
	CommandOK       = "ok"
	CommandRedirect = "redirect"
	CommandNotOK    = "notok"
	CommandError    = "error"
)

// Mode says what a framed client wants from a node that does not lead.
type Mode string

// The modes.
const (
	ModeLeader Mode = "leader" // be redirected to the leader, now and whenever it changes
	ModeAny    Mode = "any"    // be kept and served through forwarding
)

// Hello opens the framed protocol.
type Hello struct {
	Version int // AppendHello: 0 means Version
	Mode    Mode
}

// Welcome is the answer to a hello that was accepted.
type Welcome struct {
	Node     string        // node id
	MaxFrame int           // most bytes behind the length prefix, in both directions
	Idle     time.Duration // a server that hears nothing for so long closes; whole seconds
}

// Redirect says where the leader is. It is the error of [ReadWelcome] when the
// hello was answered by a redirect.
type Redirect struct {
	Group uint64 // Raft group; 0
	Node  string // the leader's node id
	Addr  string // its advertised client address, "" if unknown
}

func (r *Redirect) Error() string {
	return fmt.Sprintf("redirected to the leader %s at %s", r.Node, r.Addr)
}

// AppendHello appends the opening frame of a client.
func AppendHello(dst []byte, h Hello) []byte {
	if h.Version == 0 {
		h.Version = Version
	}
	return AppendClassic(dst, CommandHello, fmt.Sprintf("%d,%s", h.Version, h.Mode))
}

// ParseHello reads the opening frame of a client. The error, nil if all is
// well, is what to refuse the hello with ([AppendHelloRefusal]).
func ParseHello(c Classic) (Hello, *parley.Error) {
	version, mode, ok := strings.Cut(c.Args, ",")
	v, good := number(version)
	switch {
	case c.Command != CommandHello || !ok || !good:
		return Hello{}, parley.Errorf(parley.CodeBadRequest, "a hello is 'hello' and '<version>,<mode>'")
	case v != Version:
		return Hello{}, parley.Errorf(parley.CodeUnsupported, "version %d of the framed protocol; this node speaks %d", v, Version)
	case Mode(mode) != ModeLeader && Mode(mode) != ModeAny:
		return Hello{}, parley.Errorf(parley.CodeUnsupported, "mode %q; there are leader and any", mode)
	}
	return Hello{Version: Version, Mode: Mode(mode)}, nil
}

// AppendWelcome appends the frame that accepts a hello.
func AppendWelcome(dst []byte, w Welcome) []byte {
	args := fmt.Sprintf("%d,%s,%d,%d", Version, w.Node, w.MaxFrame, int(w.Idle/time.Second))
	return AppendClassic(dst, CommandOK, args)
}

// AppendRedirect appends the frame that answers a hello with the leader's
// address. The server closes the connection behind it.
func AppendRedirect(dst []byte, r Redirect) []byte {
	return AppendClassic(dst, CommandRedirect, fmt.Sprintf("%d,%d,%s,%s", Version, r.Group, r.Node, r.Addr))
}

// AppendHelloRefusal appends the frame that refuses a hello: "error" when trying
// again can help (no leader known), "notok" when it cannot.
func AppendHelloRefusal(dst []byte, e *parley.Error) []byte {
	command := CommandNotOK
	if e.Code.Retryable() {
		command = CommandError
	}
	return AppendClassic(dst, command, fmt.Sprintf("%d,%d,%s", Version, e.Code, e.Detail))
}

// ReadWelcome reads the 1,024 bytes that answer a hello. A refusal is returned
// as a *parley.Error, a redirect as a *Redirect.
func ReadWelcome(r io.Reader) (Welcome, error) {
	frame := make([]byte, ClassicFrame)
	if _, err := io.ReadFull(r, frame); err != nil {
		return Welcome{}, err
	}
	c, err := ParseClassic(frame)
	if err != nil {
		return Welcome{}, err
	}
	version, args, _ := strings.Cut(c.Args, ",")
	if v, ok := number(version); !ok || v != Version {
		return Welcome{}, parley.Errorf(parley.CodeUnsupported, "%s %q in answer to a hello of version %d", c.Command, c.Args, Version)
	}
	switch c.Command {
	case CommandOK:
		return parseWelcome(args)
	case CommandRedirect:
		return Welcome{}, parseRedirect(args)
	case CommandNotOK, CommandError:
		return Welcome{}, parseRefusal(args)
	}
	return Welcome{}, badAnswer(c.Command, args)
}

func parseWelcome(args string) (Welcome, error) {
	f := strings.Split(args, ",")
	if len(f) != 3 || f[0] == "" {
		return Welcome{}, badAnswer(CommandOK, args)
	}
	limit, ok1 := number(f[1])
	idle, ok2 := number(f[2])
	if !ok1 || !ok2 || limit < minFrame || idle == 0 {
		return Welcome{}, badAnswer(CommandOK, args)
	}
	return Welcome{Node: f[0], MaxFrame: int(limit), Idle: time.Duration(idle) * time.Second}, nil
}

func parseRedirect(args string) error {
	f := strings.Split(args, ",")
	if len(f) != 3 || f[1] == "" {
		return badAnswer(CommandRedirect, args)
	}
	group, ok := number(f[0])
	if !ok {
		return badAnswer(CommandRedirect, args)
	}
	return &Redirect{Group: uint64(group), Node: f[1], Addr: f[2]}
}

func parseRefusal(args string) error {
	code, detail, _ := strings.Cut(args, ",")
	n, ok := number(code)
	if !ok || n > 0xFFFF {
		return badAnswer(CommandError, args)
	}
	return &parley.Error{Code: parley.Code(n), Detail: detail}
}

func badAnswer(command, args string) error {
	return fmt.Errorf("%w: %s %q in answer to a hello", ErrMalformed, command, args)
}

// number reads a decimal number of at most 31 bits without sign.
func number(s string) (uint32, bool) {
	if s == "" || s[0] < '0' || s[0] > '9' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 31)
	return uint32(n), err == nil
}
