package wire

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// script is one case of testdata/classic.txt. It is the reader below the
// ClassicReader, and checks at the same time what that one does.
type script struct {
	t     *testing.T
	name  string
	steps []string // still to come
	line  string   // the one at hand, for messages
	rest  []byte   // of what a recv brought
	ended bool
}

// next returns the argument of the next step if it is of the given kind.
func (s *script) next(kind string) (string, bool) {
	if len(s.steps) == 0 {
		return "", false
	}
	got, arg, _ := strings.Cut(s.steps[0], " ")
	if got != kind {
		return "", false
	}
	s.line, s.steps = s.steps[0], s.steps[1:]
	return arg, true
}

func (s *script) Read(p []byte) (int, error) {
	if arg, ok := s.next("recv"); ok {
		s.rest = expand(arg)
	}
	if len(s.rest) > 0 {
		n := copy(p, s.rest)
		s.rest = s.rest[n:]
		return n, nil
	}
	if _, ok := s.next("silence"); ok {
		return 0, fmt.Errorf("time-out: %w", os.ErrDeadlineExceeded)
	}
	if _, ok := s.next("eof"); ok || s.ended || len(s.steps) == 0 {
		s.ended = true
		return 0, io.EOF
	}
	s.t.Fatalf("%s: reads when %q should follow", s.name, s.steps[0])
	return 0, io.EOF
}

func (s *script) waiting(w ClassicWait) {
	names := map[ClassicWait]string{WaitRest: "rest", WaitMore: "more", WaitLikely: "likely"}
	if w == WaitFrame {
		return
	}
	arg, ok := s.next("waits")
	name, times, repeated := strings.Cut(arg, "*")
	if !ok || name != names[w] {
		s.t.Fatalf("%s: waits for %s after %q", s.name, names[w], s.line)
	}
	if n, _ := strconv.Atoi(times); repeated && n > 1 {
		s.steps = append([]string{fmt.Sprintf("waits %s*%d", name, n-1)}, s.steps...)
	}
}

func (s *script) run() {
	br := bufio.NewReader(s)
	r := NewClassicReader(br)
	r.Waiting = s.waiting
	for len(s.steps) > 0 {
		f, err := r.Next()
		switch {
		case err == nil:
			want, ok := s.next("frame")
			got := strings.TrimSpace(f.Command + " " + f.Args)
			if !ok || got != string(expand(want)) {
				s.t.Fatalf("%s: after %q got frame %q, want %q %v", s.name, s.line, got, want, s.steps)
			}
		default:
			want, ok := s.next("error")
			if !ok || !strings.Contains(err.Error(), want) {
				s.t.Fatalf("%s: after %q: %v, want %q %v", s.name, s.line, err, want, s.steps)
			}
			if !errors.Is(err, ErrClassic) && len(s.steps) > 0 {
				s.t.Fatalf("%s: final error %v, but there is more: %q", s.name, err, s.steps)
			}
		}
		if left, ok := s.next("left"); ok && strconv.Itoa(br.Buffered()) != left {
			s.t.Fatalf("%s: %d bytes left, want %s", s.name, br.Buffered(), left)
		}
	}
}

var macro = regexp.MustCompile(`\{(\w+)\}|\{(\w+)\|([^}]*)\}|(\\0|.)\*(\d+)|\\x([0-9a-f]{2})|\\0`)

// expand turns the notation of the scripts into bytes.
func expand(s string) []byte {
	return macro.ReplaceAllFunc([]byte(s), func(m []byte) []byte {
		sub := macro.FindSubmatch(m)
		switch {
		case len(sub[1]) > 0:
			return AppendClassic(nil, string(sub[1]), "")[:ClassicHeader]
		case len(sub[2]) > 0:
			frame := make([]byte, ClassicFrame)
			copy(frame, sub[2])
			copy(frame[ClassicHeader:], expand(string(sub[3])))
			return frame
		case len(sub[4]) > 0:
			n, _ := strconv.Atoi(string(sub[5]))
			return []byte(strings.Repeat(string(expand(string(sub[4]))), n))
		case len(sub[6]) > 0:
			n, _ := strconv.ParseUint(string(sub[6]), 16, 8)
			return []byte{byte(n)}
		}
		return []byte{0}
	})
}

func TestClassicConversations(t *testing.T) {
	text, err := os.ReadFile("testdata/classic.txt")
	if err != nil {
		t.Fatal(err)
	}
	cases := strings.Split(string(text), "\ncase ")[1:]
	if len(cases) < 30 {
		t.Fatalf("only %d cases found", len(cases))
	}
	for _, c := range cases {
		name, rest, _ := strings.Cut(c, "\n")
		steps := strings.Split(strings.TrimSpace(rest), "\n")
		t.Run(name, func(t *testing.T) { (&script{t: t, name: name, steps: steps}).run() })
	}
}
