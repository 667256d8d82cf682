package wire

import (
	"bufio"
	"bytes"
	"testing"

	"github.com/parley-chat/parley"
)

// endless repeats its bytes.
type endless struct {
	b   []byte
	off int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.b[e.off:])
	e.off = (e.off + n) % len(e.b)
	return n, nil
}

var hot = parley.Request{Session: 12345, Seq: 678910, Answered: 678900,
	Command: parley.Send{From: "ann", To: "bob", Body: "a message of the usual length, more or less"}}

// hotPath has the operations that are done for every message.
func hotPath(t testing.TB) map[string]func() {
	var buf []byte
	result := parley.Result{Message: 12345}
	do, err := AppendDo(nil, 1, &hot)
	if err != nil {
		t.Fatal(err)
	}
	push := mustAppend(t, nil, &Frame{Kind: KindPush, ID: 1, Messages: []parley.Message{
		{Cursor: parley.Cursor{Incarnation: 5, ID: 6}, From: "ann", Body: "a message of the usual length, more or less"}}})
	return map[string]func(){
		"AppendDo":     func() { buf, _ = AppendDo(buf[:0], 1, &hot) },
		"AppendResult": func() { buf = AppendResult(buf[:0], 1, &result) },
		"ReadDo":       reading(t, do),
		"ReadResult":   reading(t, AppendResult(nil, 1, &result)),
		"ReadPush":     reading(t, push),
	}
}

// reading reads the frame again and again.
func reading(t testing.TB, frame []byte) func() {
	r := NewFrameReader(bufio.NewReaderSize(&endless{b: bytes.Repeat(frame, 100)}, 32<<10), 0)
	var f Frame
	return func() {
		if err := r.Read(&f); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkHotPath(b *testing.B) {
	for name, op := range hotPath(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				op()
			}
		})
	}
}

// TestAllocations holds the hot path to what it needs: a command is one string
// and the interface it is in, a message one string and the slice it is in, an
// answer nothing at all.
func TestAllocations(t *testing.T) {
	most := map[string]float64{"ReadDo": 2, "ReadPush": 2}
	for name, op := range hotPath(t) {
		if got := testing.AllocsPerRun(1000, op); got > most[name] {
			t.Errorf("%s: %v allocations, want %v", name, got, most[name])
		}
	}
}
