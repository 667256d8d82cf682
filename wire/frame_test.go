package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/parley-chat/parley"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// samples has a frame of every kind, with every command, query and field of a result.
func samples() []sample {
	at := time.Date(2026, 2, 3, 4, 5, 6, 789, time.UTC)
	cur := parley.Cursor{Incarnation: 7, ID: 300}
	msgs := []parley.Message{
		{Cursor: cur, From: "ann", Body: "hello, wörld", Time: at},
		{Cursor: parley.Cursor{Incarnation: 7, ID: 301}},
	}
	hash := parley.Hash{1, 2, 3, 4, 5, 6, 7, 8, 31: 32}
	policy := parley.Policy{Auth: parley.AuthRequired, Registration: parley.RegistrationInvite, Tokens: 8, Invites: 300}
	do := func(c parley.Command) Frame {
		return Frame{Kind: KindDo, ID: 1, Request: parley.Request{Session: 9, Seq: 200, Answered: 199, Command: c}}
	}
	return []sample{
		{"do create", do(parley.CreateUser{Name: "ann"})},
		{"do delete", do(parley.DeleteUser{Name: "ann"})},
		{"do send", do(parley.Send{From: "ann", To: "bob", Body: "hi, bob"})},
		{"do send large", do(parley.Send{From: "ann", To: "bob", Body: strings.Repeat("x", 130)})},
		{"do send not UTF-8", do(parley.Send{To: "bob", Body: "\xff\xfe"})},
		{"do ack without session", Frame{Kind: KindDo, ID: 2, Request: parley.Request{Command: parley.Ack{User: "bob", UpTo: cur}}}},
		{"do open session", Frame{Kind: KindDo, ID: 3, Request: parley.Request{Command: parley.OpenSession{}}}},
		{"do close session", Frame{Kind: KindDo, ID: 4, Request: parley.Request{Command: parley.CloseSession{Session: 9}}}},
		{"do create with password", do(parley.CreateUser{Name: "ann", Password: "sesame, open", Invite: "parleyinvite_x"})},
		{"do set password", do(parley.SetPassword{User: "ann", Current: "old", New: "new"})},
		{"do add token", do(parley.AddToken{User: "ann", Token: parley.Token{Hash: hash, Scope: parley.ScopeSend, Label: "pager", Expires: at}})},
		{"do revoke token", do(parley.RevokeToken{User: "ann", ID: hash.ID()})},
		{"do set policy", do(parley.SetPolicy{Policy: policy})},
		{"do add invite", do(parley.AddInvite{Invite: parley.Invite{Hash: hash, Uses: 300, Expires: at}})},
		{"do revoke invite", do(parley.RevokeInvite{ID: hash.ID()})},
		{"do store user", do(parley.StoreUser{Name: "ann", Verifier: "$argon2id$", Invite: hash})},
		{"do store password", do(parley.StorePassword{User: "ann", Verifier: "$argon2id$", Was: 300, Rehash: true})},
		{"do as", Frame{Kind: KindDo, ID: 1, Request: parley.Request{
			As: &parley.Actor{User: "ann", Incarnation: 7, Credential: 300}, Command: parley.Send{From: "ann", To: "bob", Body: "hi"}}}},
		{"do as administrator", Frame{Kind: KindDo, ID: 1, Request: parley.Request{As: &parley.Actor{Admin: true}, Command: parley.DeleteUser{Name: "ann"}}}},
		{"login by password", Frame{Kind: KindLogin, ID: 4, Login: parley.Credentials{User: "ann", Password: "sesame"}}},
		{"login by token", Frame{Kind: KindLogin, ID: 4, Login: parley.Credentials{Token: "parley_abc"}}},
		{"get policy", Frame{Kind: KindGet, ID: 7, Query: parley.GetPolicy{}}},
		{"get tokens", Frame{Kind: KindGet, ID: 7, Query: parley.Tokens{User: "ann"}}},
		{"get invites", Frame{Kind: KindGet, ID: 7, Query: parley.Invites{After: 300}}},
		{"get users", Frame{Kind: KindGet, ID: 5, Query: parley.Users{Pattern: "^a", After: "ann", Limit: 10}}},
		{"get inbox", Frame{Kind: KindGet, ID: 6, Query: parley.Inbox{User: "bob", After: cur, Limit: -1}}},
		{"get status", Frame{Kind: KindGet, ID: 7, Query: parley.Status{}}},
		{"watch", Frame{Kind: KindWatch, ID: 8, User: "bob", After: cur, Credit: 128}},
		{"credit", Frame{Kind: KindCredit, ID: 8, Credit: 64}},
		{"cancel", Frame{Kind: KindCancel, ID: 8}},
		{"call", Frame{Kind: KindCall, ID: 9, Method: "identify", Body: []byte{1, 2, 3}}},
		{"result ok", Frame{Kind: KindResult, ID: 1, Result: parley.Result{Message: 42}}},
		{"result refusal", Frame{Kind: KindResult, ID: 1, Result: parley.Result{Code: parley.CodeNameTaken, Detail: "ann exists"}}},
		{"result created", Frame{Kind: KindResult, ID: 1, Result: parley.Result{Incarnation: 7}}},
		{"result session", Frame{Kind: KindResult, ID: 3, Result: parley.Result{Session: 9}}},
		{"result names", Frame{Kind: KindResult, ID: 5, Result: parley.Result{Names: []string{"ann", "Bob"}, More: true}}},
		{"result inbox", Frame{Kind: KindResult, ID: 6, Result: parley.Result{Messages: msgs, Cursor: cur, Unread: 2}}},
		{"result members", Frame{Kind: KindResult, ID: 7, Result: parley.Result{Members: []parley.Member{
			{ID: "n1", Server: "u-1", Role: parley.RoleLeader, Client: "h:3000", Peer: "h:7000", Term: 3, Applied: 99, Reachable: true},
			{ID: "n2", Role: parley.RoleUnknown},
		}}}},
		{"result policy", Frame{Kind: KindResult, ID: 7, Result: parley.Result{Policy: &policy}}},
		{"result tokens", Frame{Kind: KindResult, ID: 7, Result: parley.Result{Tokens: []parley.Token{{Hash: hash, Label: "pager"}, {Scope: parley.ScopeRead, Expires: at}}}}},
		{"result invites", Frame{Kind: KindResult, ID: 7, Result: parley.Result{More: true, Invites: []parley.Invite{{Hash: hash, Uses: 1}}}}},
		{"error", Frame{Kind: KindError, ID: 1, Err: &parley.Error{Code: parley.CodeNotLeader, Detail: "n2 leads", Leader: "n2"}}},
		{"error connection", Frame{Kind: KindError, Err: &parley.Error{Code: parley.CodeShuttingDown}}},
		{"push", Frame{Kind: KindPush, ID: 8, Messages: msgs}},
		{"reply", Frame{Kind: KindReply, ID: 9, Body: []byte("body")}},
		{"redirect", Frame{Kind: KindRedirect, Node: "n2", Addr: "host:3001"}},
		{"ping", Frame{Kind: KindPing, ID: 300}},
		{"pong", Frame{Kind: KindPong, ID: 300}},
	}
}

type sample struct {
	name  string
	frame Frame
}

func mustAppend(t testing.TB, dst []byte, f *Frame) []byte {
	t.Helper()
	b, err := AppendFrame(dst, f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readOne(b []byte, max int) (Frame, error) {
	var f Frame
	err := NewFrameReader(bufio.NewReader(bytes.NewReader(b)), max).Read(&f)
	return f, err
}

func TestFramesRoundTrip(t *testing.T) {
	kinds := map[Kind]bool{}
	var stream []byte
	for _, s := range samples() {
		kinds[s.frame.Kind] = true
		b := mustAppend(t, nil, &s.frame)
		got, err := readOne(b, 0)
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if !reflect.DeepEqual(got, s.frame) {
			t.Errorf("%s:\n got %+v\nwant %+v", s.name, got, s.frame)
		}
		stream = append(stream, b...)
	}
	if len(kinds) != 14 {
		t.Errorf("samples of %d kinds, want all 14", len(kinds))
	}
	for name, r := range map[string]io.Reader{
		"at once": bytes.NewReader(stream), "byte by byte": iotest.OneByteReader(bytes.NewReader(stream)),
		"with a small buffer": bufio.NewReaderSize(bytes.NewReader(stream), 16),
	} {
		br, ok := r.(*bufio.Reader)
		if !ok {
			br = bufio.NewReader(r)
		}
		fr := NewFrameReader(br, 0)
		for _, s := range samples() {
			var f Frame
			if err := fr.Read(&f); err != nil || !reflect.DeepEqual(f, s.frame) {
				t.Fatalf("%s: %s: %v", name, s.name, err)
			}
		}
		if err := fr.Read(new(Frame)); err != io.EOF {
			t.Errorf("%s: at the end: %v", name, err)
		}
	}
}

func TestShortcutsAgreeWithAppendFrame(t *testing.T) {
	for _, s := range samples() {
		f := s.frame
		want := mustAppend(t, []byte("x"), &f)
		var got []byte
		switch f.Kind {
		case KindDo:
			got, _ = AppendDo([]byte("x"), f.ID, &f.Request)
		case KindResult:
			got = AppendResult([]byte("x"), f.ID, &f.Result)
		case KindError:
			got = AppendError([]byte("x"), f.ID, fmt.Errorf("wrapped: %w", f.Err))
		default:
			continue
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", s.name, got, want)
		}
	}
	f, err := readOne(AppendError(nil, 5, io.ErrUnexpectedEOF), 0)
	if err != nil || f.Err.Code != parley.CodeInterrupted || f.Err.Detail != "unexpected EOF" {
		t.Errorf("an error without code: %+v, %v", f.Err, err)
	}
}

// TestGoldenFrames pins the bytes. A difference means that older clients and
// servers are cut off.
func TestGoldenFrames(t *testing.T) {
	const file = "testdata/frames.txt"
	var b strings.Builder
	b.WriteString("# One frame of each sort, length prefix included: go test ./wire -run Golden -update\n")
	for _, s := range samples() {
		enc := mustAppend(t, nil, &s.frame)
		fmt.Fprintf(&b, "\n%s\n", s.name)
		for len(enc) > 0 {
			n := min(len(enc), 32)
			fmt.Fprintf(&b, "  %s\n", hex.EncodeToString(enc[:n]))
			enc = enc[n:]
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("the bytes of frames have changed; got:\n%s", b.String())
	}
}

// frame puts a length prefix before hexadecimal bytes.
func frame(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

func TestBadFrames(t *testing.T) {
	for _, c := range []struct {
		name  string
		bytes []byte
		want  error
		says  string
	}{
		{"4 GiB", []byte{0xFF, 0xFF, 0xFF, 0xFF}, ErrTooLarge, "4294967295 bytes, limit 131072"},
		{"one too many", []byte{0, 2, 0, 1}, ErrTooLarge, "131073 bytes, limit 131072"},
		{"empty", []byte{0, 0, 0, 0}, ErrMalformed, "0 bytes"},
		{"kind only", frame("20"), ErrMalformed, "1 bytes"},
		{"unknown kind", frame("63 07 0102"), ErrUnsupported, "kind 99"},
		{"unknown command", frame("01 07 000000 63 0102"), ErrUnsupported, "kind 1"},
		{"unknown query", frame("02 07 63 0102"), ErrUnsupported, "kind 2"},
		{"trailing byte", frame("20 01 00"), ErrMalformed, "1 bytes left over"},
		{"long number", frame("20 8100"), ErrMalformed, "shortest form"},
		{"65-bit number", frame("20 ffffffffffffffffff02"), ErrMalformed, "64 bits"},
		{"ends in a number", frame("20 ff"), ErrMalformed, "too early"},
		{"ends before a field", frame("01 07 0000"), ErrMalformed, "too early"},
		{"string beyond the end", frame("01 07 000000 01 05 6161"), ErrMalformed, "length beyond"},
		{"huge string", frame("01 07 000000 01 ffffffffffffffffff01"), ErrMalformed, "length beyond"},
		{"answer not UTF-8", frame("10 01 02 01 02 fffe"), ErrMalformed, "UTF-8"},
		{"message not UTF-8", frame("12 01 01 0101 00 00 01ff"), ErrMalformed, "UTF-8"},
		{"count beyond the end", frame("12 01 ffffff7f 0101"), ErrMalformed, "count beyond"},
		{"count of more than fit", frame("12 01 05 0101 00 00 00 0101 00 00 00"), ErrMalformed, "count beyond"},
		{"time beyond 2262", frame("12 01 01 0101 80808080808080808001 00 00"), ErrMalformed, "2262"},
		{"field that is empty", frame("10 01 00 01 00"), ErrMalformed, "empty field"},
		{"empty list", frame("10 01 00 10 00"), ErrMalformed, "empty field"},
		{"field that is unknown", frame("10 01 00 8040"), ErrMalformed, "unknown fields"},
		{"huge code", frame("10 01 808004 00"), ErrMalformed, "65535"},
		{"bad boolean", frame("10 01 00 8004 01 00 00 00 00 00 01 01 02"), ErrMalformed, "boolean"},
		{"cut within the prefix", []byte{0, 0}, io.ErrUnexpectedEOF, ""},
		{"cut within the frame", frame("20 01")[:5], io.ErrUnexpectedEOF, ""},
		{"cut within a large frame", append([]byte{0, 1, 0, 0}, make([]byte, 5000)...), io.ErrUnexpectedEOF, ""},
		{"nothing", nil, io.EOF, ""},
	} {
		f, err := readOne(c.bytes, 0)
		if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: %v, want %v … %s", c.name, err, c.want, c.says)
		}
		if c.want == ErrUnsupported && f.ID != 7 {
			t.Errorf("%s: id %d, want it for the answer", c.name, f.ID)
		}
	}
}

// TestReadingGoesOnBehindUnsupported: newer clients can be told no.
func TestReadingGoesOnBehindUnsupported(t *testing.T) {
	b := append(frame("63 07 0102"), frame("20 05")...)
	fr := NewFrameReader(bufio.NewReader(bytes.NewReader(b)), 0)
	var f Frame
	if err := fr.Read(&f); !errors.Is(err, ErrUnsupported) {
		t.Fatal(err)
	}
	if err := fr.Read(&f); err != nil || f.Kind != KindPing || f.ID != 5 {
		t.Errorf("%+v, %v", f, err)
	}
}

// TestLengthIsNoPromise: the length prefix of a frame that never comes costs nothing.
func TestLengthIsNoPromise(t *testing.T) {
	head := binary.BigEndian.AppendUint32(nil, 64<<20)
	src := append(head, make([]byte, 100)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := readOne(src, 64<<20); err != io.ErrUnexpectedEOF {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 64<<10 {
		t.Errorf("%d bytes allocated for a frame of which 100 bytes came", got)
	}
}

// TestLargeBuffersAreNotKept: thousands of idle connections cost little.
func TestLargeBuffersAreNotKept(t *testing.T) {
	call := mustAppend(t, nil, &Frame{Kind: KindCall, ID: 1, Body: make([]byte, 100<<10)})
	r := NewFrameReader(bufio.NewReader(bytes.NewReader(call)), 0)
	if err := r.Read(new(Frame)); err != nil || cap(r.buf) > keep {
		t.Errorf("%d bytes kept, %v", cap(r.buf), err)
	}
}

func TestWhatCannotBeSent(t *testing.T) {
	for name, f := range map[string]Frame{
		"kind": {Kind: 99}, "command": {Kind: KindDo}, "query": {Kind: KindGet}, "error": {Kind: KindError},
	} {
		if b, err := AppendFrame([]byte("x"), &f); !errors.Is(err, ErrUnsupported) || string(b) != "x" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if b, err := AppendDo([]byte("x"), 1, &parley.Request{}); !errors.Is(err, ErrUnsupported) || string(b) != "x" {
		t.Errorf("AppendDo: %q, %v", b, err)
	}
	// Text and times that a server cannot put on the wire are replaced, so that a
	// mailbox never becomes unreadable.
	odd := []parley.Message{{From: "\xff", Body: "a\xffb", Time: time.Date(1950, 1, 1, 0, 0, 0, 0, time.UTC)}}
	f, err := readOne(mustAppend(t, nil, &Frame{Kind: KindPush, ID: 1, Messages: odd}), 0)
	want := []parley.Message{{From: "\uFFFD", Body: "a\uFFFDb"}}
	if err != nil || !reflect.DeepEqual(f.Messages, want) {
		t.Errorf("%+v, %v", f.Messages, err)
	}
}

func TestReady(t *testing.T) {
	b := frame("20 05")
	for _, c := range []struct {
		bytes []byte
		want  bool
	}{{b[:3], false}, {b[:4], false}, {b[:5], false}, {b, true}, {[]byte{255, 255, 255, 255}, true}} {
		br := bufio.NewReader(bytes.NewReader(c.bytes))
		br.Peek(len(c.bytes)) //nolint:errcheck // it is there
		if got := NewFrameReader(br, 0).Ready(); got != c.want {
			t.Errorf("%x: %v", c.bytes, got)
		}
	}
}
