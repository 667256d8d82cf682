package wire

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/iotest"
	"time"
)

// pairs are connections of which the second end is read by an Input: one of which
// it can ask the kernel, and one of which it cannot.
func pairs(t *testing.T) map[string]func() (net.Conn, net.Conn) {
	return map[string]func() (net.Conn, net.Conn){
		"tcp": func() (net.Conn, net.Conn) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			near, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			far, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			return near, far
		},
		"pipe": net.Pipe,
	}
}

func eachPair(t *testing.T, test func(t *testing.T, near, far net.Conn, in *Input)) {
	for name, pair := range pairs(t) {
		t.Run(name, func(t *testing.T) {
			near, far := pair()
			defer near.Close()
			defer far.Close()
			test(t, near, far, NewInput(far, new(Buffers)))
		})
	}
}

// TestInput reads what a bufio.Reader of the same size would.
func TestInput(t *testing.T) {
	eachPair(t, func(t *testing.T, near, _ net.Conn, in *Input) {
		want := make([]byte, 5*bufferSize+123)
		rand.Read(want)
		go func() {
			for rest := want; len(rest) > 0; {
				n := min(len(rest), 1+len(rest)/3)
				near.Write(rest[:n])
				rest = rest[n:]
			}
			near.Close()
		}()
		var got []byte
		for n := 1; ; n = n*3%bufferSize + 1 {
			b, err := in.Peek(n)
			got = append(got, b...)
			in.Discard(len(b))
			if err == io.EOF {
				break
			}
			if err != nil || len(b) != n {
				t.Fatalf("%d bytes instead of %d: %v", len(b), n, err)
			}
			b = make([]byte, 100)
			n, err := in.Read(b)
			got = append(got, b[:n]...)
			if err != nil && err != io.EOF {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes, different from the %d that were written", len(got), len(want))
		}
		if in.buf != nil {
			t.Error("it keeps its buffer at the end")
		}
	})
}

// TestInputBorrows: there is no buffer while nothing is buffered.
func TestInputBorrows(t *testing.T) {
	eachPair(t, func(t *testing.T, near, far net.Conn, in *Input) {
		far.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err := in.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) || in.buf != nil {
			t.Fatalf("%v, buffer %v", err, in.buf != nil)
		}
		far.SetReadDeadline(time.Time{})
		go near.Write([]byte("hello"))
		for range 2 { // looking at it takes nothing away
			if b, err := in.Peek(5); string(b) != "hello" || err != nil {
				t.Fatalf("%q, %v", b, err)
			}
		}
		if n, err := in.Discard(3); n != 3 || err != nil || in.Buffered() != 2 || in.buf == nil {
			t.Errorf("%d, %v, %d bytes left, buffer %v", n, err, in.Buffered(), in.buf != nil)
		}
		if n, err := in.Discard(3); n != 2 || !errors.Is(err, bufio.ErrBufferFull) || in.Buffered() != 0 || in.buf != nil {
			t.Errorf("%d, %v, %d bytes left, buffer %v", n, err, in.Buffered(), in.buf != nil)
		}
		near.Close()
		if b, err := in.Peek(1); err != io.EOF || len(b) > 0 {
			t.Errorf("%q, %v", b, err)
		}
	})
}

// TestInputTooMuch: no more can be peeked at than fits.
func TestInputTooMuch(t *testing.T) {
	eachPair(t, func(t *testing.T, near, _ net.Conn, in *Input) {
		go near.Write(make([]byte, bufferSize+1))
		if b, err := in.Peek(bufferSize + 1); len(b) != bufferSize || err != bufio.ErrBufferFull {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	})
}

// TestInputReset: an error of the connection is handed on.
func TestInputReset(t *testing.T) {
	near, far := pairs(t)["tcp"]()
	in := NewInput(far, new(Buffers))
	near.(*net.TCPConn).SetLinger(0)
	near.Close()
	if b, err := in.Peek(1); err == nil || err == io.EOF || len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
	far.Close()
	if _, err := in.Peek(1); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// oneByte is a connection that hands over single bytes.
type oneByte struct {
	net.Conn
	r io.Reader
}

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p) }

// TestInputFrames: both protocols read from an Input what they read from a
// bufio.Reader.
func TestInputFrames(t *testing.T) {
	eachPair(t, func(t *testing.T, near, far net.Conn, _ *Input) {
		in := NewInput(oneByte{far, iotest.OneByteReader(far)}, new(Buffers))
		large := bytes.Repeat([]byte("x"), 2*bufferSize)
		var b []byte
		b = AppendHello(b, Hello{Mode: ModeAny})
		b = mustAppend(t, b, &Frame{Kind: KindPing, ID: 7})
		b = mustAppend(t, b, &Frame{Kind: KindReply, ID: 8, Body: large})
		b = mustAppend(t, b, &Frame{Kind: KindPing, ID: 9})
		go near.Write(b)
		if c, err := NewClassicReader(in).Next(); c.Command != CommandHello || err != nil {
			t.Fatalf("%v, %v", c, err)
		}
		r := NewFrameReader(in, 0)
		for id := uint64(7); id <= 9; id++ {
			var f Frame
			if err := r.Wait(); err != nil {
				t.Fatal(err)
			}
			if err := r.Read(&f); err != nil || f.ID != id || id == 8 && !bytes.Equal(f.Body, large) {
				t.Fatalf("frame %d: %d, %d bytes, %v", id, f.ID, len(f.Body), err)
			}
		}
	})
}
