package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

func TestAppendClassic(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"", ""}, {"a,b", "a,b"}, {strings.Repeat("x", 1009), strings.Repeat("x", 1009)},
		{strings.Repeat("x", 1010), strings.Repeat("x", 1009)},
		{strings.Repeat("x", 1008) + "ä", strings.Repeat("x", 1008)},
		{strings.Repeat("x", 1007) + "ä", strings.Repeat("x", 1007) + "ä"},
		{strings.Repeat("x", 1006) + "😀", strings.Repeat("x", 1006)},
		{"a\x00b", "a\uFFFDb"},
	} {
		b := AppendClassic([]byte("x"), "string", c.args)
		if len(b) != 1+ClassicFrame {
			t.Fatalf("%d bytes", len(b))
		}
		got, err := ParseClassic(b[1:])
		if err != nil || got != (Classic{"string", c.want}) {
			t.Errorf("%q, %v; want %q", got, err, c.want)
		}
	}
}

func TestAppendClassicText(t *testing.T) {
	for _, text := range []string{"", "short", strings.Repeat("ä", 505), strings.Repeat("x😀y", 3000), strings.Repeat("\xbf", 5000)} {
		var got strings.Builder
		b := AppendClassicText(nil, "string", text)
		if want := max(1, (len(text)+ClassicText-4)/(ClassicText-3)); len(b)/ClassicFrame > want {
			t.Errorf("%d frames for %d bytes", len(b)/ClassicFrame, len(text))
		}
		for f := range slices.Chunk(b, ClassicFrame) {
			c, err := ParseClassic(f)
			if err != nil && utf8.ValidString(text) {
				t.Fatal(err)
			}
			got.WriteString(c.Args)
		}
		if utf8.ValidString(text) && got.String() != text {
			t.Errorf("%d bytes became %d", len(text), got.Len())
		}
	}
}

func TestAppendClassicList(t *testing.T) {
	for _, n := range []int{0, 1, 2, 144, 145, 5000} {
		var names []string
		for i := range n {
			names = append(names, fmt.Sprintf("üser%d", i))
		}
		var got []string
		b := AppendClassicList(nil, "list", names)
		for f := range slices.Chunk(b, ClassicFrame) {
			c, err := ParseClassic(f)
			if err != nil || c.Command != "list" {
				t.Fatalf("%v, %v", c, err)
			}
			if c.Args != "" {
				got = append(got, strings.Split(c.Args, ",")...)
			}
		}
		if !slices.Equal(got, names) {
			t.Errorf("%d names became %d", n, len(got))
		}
		if len(b) == 0 || len(b)/ClassicFrame > 1+n/90 {
			t.Errorf("%d names in %d frames", n, len(b)/ClassicFrame)
		}
	}
}

func TestParseClassicRefuses(t *testing.T) {
	if _, err := ParseClassic(make([]byte, 1023)); !errors.Is(err, ErrClassic) {
		t.Errorf("1,023 bytes: %v", err)
	}
	if _, err := ParseClassic(make([]byte, 1024)); !errors.Is(err, ErrClassicHeader) {
		t.Errorf("NULs: %v", err)
	}
}

// patient reads from r as a ClassicReader would from a connection on which the
// next bytes always come in time.
func patient(r io.Reader) *ClassicReader {
	c := NewClassicReader(bufio.NewReader(r))
	c.Waiting = func(ClassicWait) {}
	return c
}

// all reads all frames, errors written as frames.
func all(r *ClassicReader) (frames []Classic) {
	for range 10000 {
		f, err := r.Next()
		if err != nil {
			f = Classic{"error", err.Error()}
		}
		frames = append(frames, f)
		if err != nil && !errors.Is(err, ErrClassic) {
			return frames
		}
	}
	panic("no end")
}

// TestClassicStreams: random conversations, padded or not, come out as they went
// in, whatever the borders of the reads.
func TestClassicStreams(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	text := func(n int) string {
		var s strings.Builder
		for s.Len() < n {
			s.WriteString([]string{"a", ",", " ", "ü", "😀", "create ", "list.", "0"}[rnd.IntN(8)])
		}
		return s.String()
	}
	for round := range 300 {
		padded := round%2 == 0
		var want []Classic
		var stream []byte
		for range 1 + rnd.IntN(20) {
			c := Classic{[]string{"create", "connect", "delete", "list", "send"}[rnd.IntN(5)], text(1+rnd.IntN(30)) + "."}
			if rnd.IntN(10) == 0 {
				c.Args = text(900) + "."
			}
			if c.Command == "list" && rnd.IntN(2) == 0 {
				c.Args = ""
			}
			want = append(want, c)
			b := AppendClassic(nil, c.Command, c.Args)
			if !padded {
				b = b[:ClassicHeader+len(c.Args)]
			}
			stream = append(stream, b...)
		}
		want = append(want, Classic{"error", "EOF"})
		for name, r := range map[string]io.Reader{
			"at once": bytes.NewReader(stream), "byte by byte": iotest.OneByteReader(bytes.NewReader(stream)),
			"random": &pieces{rnd, bytes.NewReader(stream)},
		} {
			if got := all(patient(r)); !slices.Equal(got, want) {
				t.Fatalf("padded %v, %s:\n got %q\nwant %q\nfrom %q", padded, name, got, want, stream)
			}
		}
	}
}

// pieces reads a random number of bytes at a time.
type pieces struct {
	rnd *rand.Rand
	r   io.Reader
}

func (p *pieces) Read(b []byte) (int, error) { return p.r.Read(b[:1+p.rnd.IntN(min(len(b), 700))]) }
