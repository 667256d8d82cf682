package mux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/fair"
	"github.com/parley-chat/parley/wire"
)

// ServerConfig configures the server's end.
type ServerConfig struct {
	// Service does the work, for clients that have not logged in. Required.
	Service parley.Service
	// Login gives clients another service for what they log in with; nil: logins are
	// answered CodeUnsupported.
	Login parley.Login
	// Seats bounds the connections of each user who has logged in; nil: nothing does.
	Seats *fair.Seats[parley.Incarnation]
	// Call answers calls between members; nil: they are answered CodeUnsupported.
	Call func(ctx context.Context, method string, body []byte) ([]byte, error)
	// Leadership makes the client follow the leader: it is told when another node
	// leads. nil: never (peers, and clients that asked to be kept).
	Leadership Leadership
	// MaxFrame is the most bytes in a frame behind its length; default 128 KiB.
	MaxFrame int
	// IdleTimeout: a client that sends nothing for so long, not even a ping, is
	// closed; so is one that takes longer for one frame; default 90 s.
	IdleTimeout time.Duration
	// WriteTimeout: a client that takes nothing for so long is closed; default 10 s.
	// It also bounds how long a drain waits for commands under way.
	WriteTimeout time.Duration
	// MaxBuffered is how many bytes may wait for a slow client before its watches
	// and the reading of its commands pause; default 256 KiB. Room for the answers
	// to its queries is taken before they are asked.
	MaxBuffered int
	// MaxInFlight is how many commands, queries and calls of one connection may be
	// under way before reading pauses; default 4,096.
	MaxInFlight int
	// MaxInFlightBytes is how many bytes of requests of one connection may be under
	// way before reading pauses; default 1 MiB.
	MaxInFlightBytes int
	// MaxWatches is how many watches one connection may have; default 256.
	MaxWatches int
	// Gate bounds the commands of all connections together that are under way, and
	// shares them fairly; nil: only the limits for each connection hold.
	Gate *fair.Gate
	// Logger is told why connections end, at debug level; nil: nobody is.
	Logger *slog.Logger
}

func (c *ServerConfig) setDefaults() {
	orDefault(&c.MaxFrame, wire.DefaultMaxFrame)
	orDefault(&c.IdleTimeout, 90*time.Second)
	orDefault(&c.WriteTimeout, 10*time.Second)
	orDefault(&c.MaxBuffered, 256<<10)
	orDefault(&c.MaxInFlight, 4096)
	orDefault(&c.MaxInFlightBytes, 1<<20)
	orDefault(&c.MaxWatches, 256)
	if c.Seats == nil {
		c.Seats = fair.NewSeats[parley.Incarnation](0)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

const (
	// pageRoom is the room taken for the answer to a query: a page of it.
	pageRoom = 64 << 10
	// smallRoom is that for answers known to be small.
	smallRoom = 1 << 10
	// linger is how long a closing connection waits for the client to close too,
	// so that unread input does not make TCP discard what was sent last.
	linger = time.Second
)

// Server serves framed connections. It has what they share: the settings, the
// goroutine that tells them who leads (see herald), and memory for reuse.
type Server struct {
	cfg      ServerConfig
	herald   herald
	commands sync.Pool // of *command
	buffers  wire.Buffers
}

// NewServer returns a server. Nothing needs to be closed at its end.
func NewServer(cfg ServerConfig) *Server {
	cfg.setDefaults()
	return &Server{cfg: cfg, herald: herald{leadership: cfg.Leadership}}
}

// Serve is [Server.Serve] for a single connection.
func Serve(ctx context.Context, nc net.Conn, br wire.Buffer, cfg ServerConfig) error {
	return NewServer(cfg).Serve(ctx, nc, br)
}

// Serve serves a connection on which a hello has been accepted, until the
// client closes it, breaks the protocol or a limit, or ctx ends. When ctx ends,
// the client is told (CodeShuttingDown) and commands under way are answered, for
// at most WriteTimeout. Serve closes nc and leaves no goroutine behind. It
// returns nil when the client closed the connection or ctx ended.
//
// The calling goroutine reads; commands are started on it in the order in which
// they arrive. Another writes while there is something to write. Each query and call
// has one of its own; messages of watches come on those of the service.
func (s *Server) Serve(ctx context.Context, nc net.Conn, br wire.Buffer) error {
	c := &serverConn{Server: s, nc: nc, svc: s.cfg.Service, in: wire.NewFrameReader(br, s.cfg.MaxFrame)}
	c.out.init(nc, s.cfg.WriteTimeout, &s.buffers)
	return c.run(ctx)
}

// serverConn is the server's end of one connection.
//
// At most MaxBuffered bytes of answers wait for the client, room for queries
// under way included, plus the (small) answers to commands under way and one
// message for each watch.
type serverConn struct {
	*Server
	nc   net.Conn
	svc  parley.Service     // for what is read from now on; the reading goroutine's own
	user parley.Incarnation // who has logged in and holds a seat, 0: nobody; the reading goroutine's own
	in   *wire.FrameReader
	out  outbox
	wg   sync.WaitGroup // queries, calls, watches

	turns   context.Context // of waits in the gate: ends when the draining begins
	flow    fair.Flow       // in the gate
	backlog bool            // frames were there behind the last one; the reading goroutine's own

	// Guarded by out.mu.
	inFlight load             // what is under way
	watches  map[uint64]*feed // nil until there is one
	feeding  int              // watches of the service, cancelled ones that have not ended included
	draining bool             // nothing more is read
	closed   bool             // nothing more is sent
}

// load is what requests under way weigh.
type load struct {
	n     int // requests
	bytes int // of those requests
	room  int // bytes kept free for their answers
}

// Why reading ended, other than for an error.
var errDraining = errors.New("draining")

func (s *serverConn) run(ctx context.Context) error {
	// Work goes on for a while after ctx, and ends with the connection.
	work, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	s.turns = ctx
	if s.cfg.Leadership != nil {
		s.herald.join(s)
		defer s.herald.leave(s)
	}
	defer func() { s.cfg.Seats.Move(s.user, 0) }()
	stop := context.AfterFunc(ctx, s.drain)
	err := s.read(work)
	stop()
	return s.conclude(err, cancel)
}

// conclude brings everything to an end once reading has ended with err, and
// returns what Serve does.
func (s *serverConn) conclude(err error, cancel context.CancelCauseFunc) error {
	s.finish(err)
	cancel(err)
	s.out.mu.Lock()
	s.out.finished()
	s.out.mu.Unlock()
	if err != io.EOF {
		s.linger()
	}
	s.nc.Close() //nolint:errcheck // nothing to be done about it
	s.wg.Wait()
	err = s.verdict(err)
	s.cfg.Logger.Debug("framed connection ended", "remote", s.nc.RemoteAddr(), "err", err)
	return err
}

// verdict is what Serve returns when reading ended with err.
func (s *serverConn) verdict(err error) error {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	switch {
	case err == io.EOF:
		return nil
	case err == errDraining && s.out.err != nil:
		return fmt.Errorf("writing to the client: %w", s.out.err)
	case err == errDraining:
		return nil
	}
	return err
}

// drain stops the reading.
func (s *serverConn) drain() {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	s.draining = true
	s.nc.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // reading fails all the same
	s.out.changed.Broadcast()
}

// arm sets the read deadline for the next frame, unless the connection drains.
func (s *serverConn) arm(now time.Time) error {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	if s.draining {
		return errDraining
	}
	return s.nc.SetReadDeadline(now.Add(s.cfg.IdleTimeout))
}

// read handles frames until it may not or cannot go on. It waits here, where
// little is on the stack, and not in handleAll.
func (s *serverConn) read(ctx context.Context) error {
	var armed time.Time
	for {
		now := time.Now()
		if now.Sub(armed) >= min(armEvery, s.cfg.IdleTimeout/4) {
			armed = now
			if err := s.arm(now); err != nil {
				return err
			}
		}
		err := s.in.Wait()
		if err == nil {
			s.backlog = time.Since(now) < fair.Idle
			err = s.handleAll(ctx)
		}
		if err != nil {
			return s.whyEnded(err)
		}
	}
}

// handleAll handles the frame that has begun and what is there behind it.
func (s *serverConn) handleAll(ctx context.Context) error {
	var f wire.Frame
	for more := true; more; more, s.backlog = s.in.Ready(), true {
		err := s.in.Read(&f)
		switch {
		case err == nil:
			err = s.handle(ctx, &f)
		case errors.Is(err, wire.ErrUnsupported) && f.ID != 0:
			err = s.refuse(f.ID, parley.Errorf(parley.CodeUnsupported, "%v", err))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// whyEnded makes sense of the error that ended the reading.
func (s *serverConn) whyEnded(err error) error {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	var timeout net.Error
	switch {
	case s.out.err != nil: // reading failed because of it
		return fmt.Errorf("writing to the client: %w", s.out.err)
	case s.draining:
		return errDraining
	case errors.Is(err, wire.ErrMalformed), errors.Is(err, wire.ErrTooLarge), errors.Is(err, wire.ErrUnsupported):
		return parley.Errorf(parley.CodeBadRequest, "%v", err)
	case errors.As(err, &timeout) && timeout.Timeout():
		return parley.Errorf(parley.CodeInterrupted, "no whole frame within %v", s.cfg.IdleTimeout)
	}
	return err
}

// finish sees to it that what must still be sent is given to the writer, and
// that nothing more is.
func (s *serverConn) finish(err error) {
	var told *parley.Error
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	switch {
	case err == errDraining:
		told = parley.Errorf(parley.CodeShuttingDown, "this node is shutting down")
		s.send(wire.AppendError(s.out.tail(), 0, told))
		s.endWatches(told)
		s.settle()
	case err == io.EOF:
		s.endWatches(nil)
		s.settle()
	case errors.As(err, &told):
		s.send(wire.AppendError(s.out.tail(), 0, told))
		s.endWatches(told)
	default:
		s.endWatches(nil)
		s.out.stop(err)
	}
	s.closed = true
	s.out.last = time.Now().Add(s.cfg.WriteTimeout)
	s.out.changed.Broadcast()
}

// settle waits until nothing is in flight, for at most WriteTimeout. out.mu is
// held, but not while waiting.
func (s *serverConn) settle() {
	s.draining = true
	late := false
	timer := time.AfterFunc(s.cfg.WriteTimeout, func() {
		s.out.mu.Lock()
		late = true
		s.out.changed.Broadcast()
		s.out.mu.Unlock()
	})
	defer timer.Stop()
	for s.inFlight.n > 0 && !late && s.out.err == nil {
		s.out.changed.Wait()
	}
}

// linger waits for the client to close its end after ours.
func (s *serverConn) linger() {
	half, ok := s.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	if s.nc.SetReadDeadline(time.Now().Add(linger)) != nil {
		return
	}
	io.Copy(io.Discard, s.nc) //nolint:errcheck // only to wait
}
