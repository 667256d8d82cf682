package peer

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley/certs"
)

// FuzzPreface: what can be read as a preface is written back as the same bytes,
// and no byte behind it is read.
func FuzzPreface(f *testing.F) {
	for _, p := range []preface{{}, {group: 1 << 40, kind: kindForward, from: "n2"}, {kind: kindRaft, from: strings.Repeat("n", 255)}} {
		var b bytes.Buffer
		must(f, p.write(&b))
		f.Add(b.Bytes())
		f.Add(append(b.Bytes(), "rest"...))
	}
	f.Add([]byte(magic + "\x02"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		p, err := readPreface(r)
		if err != nil {
			return
		}
		var out bytes.Buffer
		must(t, p.write(&out))
		if read := in[:len(in)-r.Len()]; !bytes.Equal(out.Bytes(), read) {
			t.Fatalf("read from %x\n written %x", read, out.Bytes())
		}
	})
}

// FuzzVerdict: the answer to a preface may be anything; only one says yes.
func FuzzVerdict(f *testing.F) {
	f.Add([]byte{version, accepted, 0})
	f.Add([]byte{version, refused, 3, 'w', 'h', 'y'})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		err := readVerdict(r)
		if used := len(in) - r.Len(); used > 3+255 {
			t.Fatalf("%d bytes read", used)
		}
		if err == nil && in[1] != accepted {
			t.Fatalf("%x was taken for a yes", in)
		}
	})
}

// FuzzGreet: bytes of somebody without a key never get through TLS, whatever
// they are, and what is said to them in return gives nothing of a preface away.
func FuzzGreet(f *testing.F) {
	dir := authority(f, "n1", "n2")
	source, err := certs.NewSource(certs.Paths(dir, "n1"), nil)
	must(f, err)
	member, err := certs.NewSource(certs.Paths(dir, "n2"), nil)
	must(f, err)
	f.Add(flight(f, member.Dial("n1")))
	f.Add(flight(f, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}))
	f.Add([]byte(magic + "\x01"))
	f.Fuzz(func(t *testing.T, in []byte) {
		c := &script{in: in}
		if err := tls.Server(c, source.Accept()).HandshakeContext(t.Context()); err == nil {
			t.Fatalf("%x was let in", in)
		}
		if bytes.Contains(c.out.Bytes(), []byte(magic)) {
			t.Fatalf("%x was told %x", in, c.out.Bytes())
		}
	})
}

// flight is what a TLS client says first.
func flight(t testing.TB, cfg *tls.Config) []byte {
	c := &script{}
	if err := tls.Client(c, cfg).Handshake(); err == nil {
		t.Fatal("a handshake with nobody succeeded")
	}
	return c.out.Bytes()
}

// script is a connection on which the other end says what it says, and then ends.
type script struct {
	net.Conn
	in  []byte
	out bytes.Buffer
}

func (s *script) Read(b []byte) (int, error) {
	if len(s.in) == 0 {
		return 0, io.EOF
	}
	n := copy(b, s.in)
	s.in = s.in[n:]
	return n, nil
}

func (s *script) Write(b []byte) (int, error)      { return s.out.Write(b) }
func (s *script) Close() error                     { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }
