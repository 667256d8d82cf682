package wire

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

// FuzzFrame: whatever can be read is written back as the same bytes.
func FuzzFrame(f *testing.F) {
	for _, s := range samples() {
		f.Add(mustAppend(f, nil, &s.frame))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		const limit = 4096
		r := NewFrameReader(bufio.NewReaderSize(bytes.NewReader(in), 64), limit)
		rest := in
		for {
			var frame Frame
			err := r.Read(&frame)
			switch {
			case errors.Is(err, ErrUnsupported):
				rest = rest[prefix+r.Len():]
				continue
			case err != nil:
				if err == io.EOF && len(rest) > 0 {
					t.Fatalf("%d bytes ignored", len(rest))
				}
				return
			}
			if r.Len() > limit {
				t.Fatalf("a frame of %d bytes", r.Len())
			}
			out := mustAppend(t, nil, &frame)
			if !bytes.Equal(out, rest[:prefix+r.Len()]) {
				t.Fatalf("%+v\nread from %x\n written %x", frame, rest[:prefix+r.Len()], out)
			}
			var again Frame
			if again, err = readOne(out, limit); err != nil || !reflect.DeepEqual(again, frame) {
				t.Fatalf("%+v became %+v, %v", frame, again, err)
			}
			rest = rest[len(out):]
		}
	})
}

// FuzzClassic: any bytes make the same frames however the reads fall, and no
// frame that a server or client could not have meant.
func FuzzClassic(f *testing.F) {
	text, err := os.ReadFile("testdata/classic.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range strings.Split(string(text), "\ncase ")[1:] {
		var stream []byte
		for _, line := range strings.Split(c, "\n") {
			if arg, ok := strings.CutPrefix(line, "recv "); ok {
				stream = append(stream, expand(arg)...)
			}
		}
		if len(stream) < 8000 {
			f.Add(stream)
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 32<<10 {
			return
		}
		atOnce := all(patient(bytes.NewReader(in)))
		for name, r := range map[string]io.Reader{
			"byte by byte": iotest.OneByteReader(bytes.NewReader(in)), "by halves": iotest.HalfReader(bytes.NewReader(in)),
		} {
			if got := all(patient(r)); !slices.Equal(got, atOnce) {
				t.Fatalf("%s:\n got %q\n instead of %q", name, got, atOnce)
			}
		}
		for _, c := range atOnce {
			if strings.Contains(c.Command+c.Args, "\x00") || !utf8.ValidString(c.Command+c.Args) || len(c.Args) > ClassicText || c.Command == "" {
				t.Fatalf("frame %q", c)
			}
		}
	})
}

// FuzzWelcome: the answer to a hello may be anything.
func FuzzWelcome(f *testing.F) {
	f.Add("ok", "1,n1,131072,90")
	f.Add("redirect", "1,0,n2,host:3000")
	f.Add("notok", "1,107,version 2")
	f.Fuzz(func(t *testing.T, command, args string) {
		if len(command) > ClassicHeader {
			return
		}
		w, err := ReadWelcome(bytes.NewReader(AppendClassic(nil, command, args)))
		if err == nil && (w.Node == "" || w.MaxFrame < minFrame || w.Idle <= 0) {
			t.Fatalf("%+v", w)
		}
	})
}

// FuzzHello: the first frame of a connection is a hello that can be written
// again, or is refused with an answer that fits into a frame.
func FuzzHello(f *testing.F) {
	f.Add("hello", "1,leader")
	f.Add("hello", "1,any")
	f.Add("hello", "2,any")
	f.Add("hello", "01,any")
	f.Add("create", "ann")
	f.Fuzz(func(t *testing.T, command, args string) {
		if len(command) > ClassicHeader || len(args) > ClassicText {
			return
		}
		h, refusal := ParseHello(Classic{Command: command, Args: args})
		if refusal != nil {
			if b := AppendHelloRefusal(nil, refusal); len(b) != ClassicFrame {
				t.Fatalf("the refusal has %d bytes", len(b))
			}
			return
		}
		c, err := ParseClassic(AppendHello(nil, h))
		if err != nil {
			t.Fatal(err)
		}
		if again, refusal := ParseHello(c); refusal != nil || again != h {
			t.Fatalf("%+v became %+v, %v", h, again, refusal)
		}
	})
}
