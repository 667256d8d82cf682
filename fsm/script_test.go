package fsm

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
)

// TestScripts runs testdata/*.script. A line is something to do, and the
// indented lines below it are what came of it; -update writes them anew. A line
// may begin with "in SESSION SEQ ANSWERED". Numbers of sessions and incarnations
// are written INDEX.POSITION. The script is run three times: as it is, with a
// checkpoint after each line, and with a restart after each line.
func TestScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.script")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		for _, between := range []string{"", "checkpoint", "restart"} {
			name := strings.TrimSuffix(filepath.Base(path), ".script") + "/" + between
			t.Run(name, func(t *testing.T) {
				s := &script{t: t, dir: t.TempDir()}
				s.f = s.open()
				s.l = newLogger(t, s.f)
				golden(t, filepath.Base(path), s.run(path, between))
				if err := s.f.Close(); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

type script struct {
	t   *testing.T
	dir string
	f   *FSM
	l   *logger
}

func (s *script) open() *FSM {
	f, err := Open(Config{Dir: s.dir, MapBytes: 64 << 20, Fatal: func(err error) { s.t.Error(err) }})
	if err != nil {
		s.t.Fatal(err)
	}
	return f
}

func (s *script) run(path, between string) string {
	file, err := os.Open(path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer file.Close()
	var out strings.Builder
	for lines := bufio.NewScanner(file); lines.Scan(); {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "\t"):
			continue // what came of it last time
		case line == "" || line[0] == '#':
			out.WriteString(line + "\n")
			continue
		}
		out.WriteString(line + "\n")
		for _, l := range strings.Split(strings.TrimSuffix(s.line(line), "\n"), "\n") {
			if l != "" {
				out.WriteString("\t" + l + "\n")
			}
		}
		if between != "" {
			s.line(between)
		}
	}
	return out.String()
}

// line does what a line says and returns what came of it.
func (s *script) line(line string) string {
	w := strings.Fields(line)
	var r parley.Request
	if w[0] == "as" && len(w) > 5 && w[4] == "in" { // either order
		w = append(append(append([]string(nil), w[4:8]...), w[:4]...), w[8:]...)
	}
	if w[0] == "in" {
		r.Session, r.Seq, r.Answered = parley.SessionID(s.pos(w[1])), s.num(w[2]), s.num(w[3])
		w = w[4:]
	}
	if w[0] == "as" { // admin, or USER INCARNATION CREDENTIAL
		if r.As = (&parley.Actor{Admin: true}); w[1] == "admin" {
			w = w[2:]
		} else {
			r.As = &parley.Actor{User: w[1], Incarnation: parley.Incarnation(s.pos(w[2])), Credential: s.credential(w[3])}
			w = w[4:]
		}
	}
	for i := range w { // "_" is the empty text, x*N a long one
		w[i] = strings.TrimSuffix(w[i], "_")
		if a, b, ok := strings.Cut(w[i], "*"); ok && len(a) == 1 {
			w[i] = strings.Repeat(a, int(s.num(b)))
		}
	}
	switch w[0] {
	case "create":
		r.Command = parley.CreateUser{Name: w[1]}
	case "delete":
		r.Command = parley.DeleteUser{Name: w[1]}
	case "send":
		r.Command = parley.Send{From: w[1], To: w[2], Body: strings.Join(w[3:], " ")}
	case "ack":
		r.Command = parley.Ack{User: w[1], UpTo: s.cursor(w[2])}
	case "open":
		r.Command = parley.OpenSession{}
	case "close":
		r.Command = parley.CloseSession{Session: parley.SessionID(s.pos(w[1]))}
	default:
		if r.Command = s.account(w); r.Command == nil {
			return s.other(w)
		}
	}
	var b Batch
	if answer, answered := b.Add(r); answered {
		return "without the log: " + s.result(answer)
	}
	return s.apply(&b)
}

func (s *script) apply(b *Batch) string {
	s.l.index++
	l := &raft.Log{Index: s.l.index, Term: 1, Type: raft.LogCommand, Data: b.Encode(s.l.now)}
	return s.result(s.f.Apply(l).([]parley.Result)[0])
}

func (s *script) other(w []string) string {
	var b Batch
	switch w[0] {
	case "time": // passes, or goes back
		d, err := time.ParseDuration(w[1])
		if err != nil {
			s.t.Fatal(err)
		}
		s.l.now = s.l.now.Add(d)
		return ""
	case "expire":
		d, err := time.ParseDuration(w[1])
		if err != nil {
			s.t.Fatal(err)
		}
		b.AddExpireSessions(d)
		return s.apply(&b)
	case "limits": // body, messages, bytes, users, sessions, replies
		b.AddSetLimits(Limits{s.num(w[1]), s.num(w[2]), s.num(w[3]), s.num(w[4]), s.num(w[5]), s.num(w[6])})
		return s.apply(&b)
	case "member":
		b.AddSetMember(parley.Member{ID: w[1], Server: w[2], Client: w[3], Peer: w[4]})
		return s.apply(&b)
	case "unmember":
		b.AddRemoveMember(w[1])
		return s.apply(&b)
	case "users":
		q := parley.Users{Pattern: w[1]}
		if len(w) > 2 {
			q.After, q.Limit = w[2], int(s.num(w[3]))
		}
		return s.result(s.f.Users(q))
	case "inbox":
		q := parley.Inbox{User: w[1]}
		if len(w) > 2 {
			q.After, q.Limit = s.cursor(w[2]), int(s.num(w[3]))
		}
		return s.result(s.f.Inbox(q))
	case "tokens":
		return s.tokens(w[1])
	case "invites":
		return s.invites()
	case "checkpoint":
		if err := s.f.Checkpoint(context.Background()); err != nil {
			s.t.Fatal(err)
		}
		return ""
	case "restart":
		if err := s.f.Close(); err != nil {
			s.t.Fatal(err)
		}
		s.f = s.open()
		s.l.f = s.f
		return ""
	case "dump":
		return dump(s.t, s.f)
	}
	s.t.Fatalf("script: what is %q?", w)
	return ""
}

func (s *script) num(w string) uint64 {
	n, err := strconv.ParseUint(w, 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *script) pos(w string) uint64 {
	index, n, _ := strings.Cut(w, ".")
	return position(s.num(index), int(s.num(n)))
}

// cursor reads ID or INDEX.POSITION/ID.
func (s *script) cursor(w string) (c parley.Cursor) {
	if inc, id, ok := strings.Cut(w, "/"); ok {
		c.Incarnation, w = parley.Incarnation(s.pos(inc)), id
	}
	c.ID = parley.MessageID(s.num(w))
	return c
}

func (s *script) result(r parley.Result) string {
	var b strings.Builder
	b.WriteString(r.Code.String())
	if r.Detail != "" {
		fmt.Fprintf(&b, ": %s", r.Detail)
	}
	at := func(what string, n uint64) {
		if n != 0 {
			fmt.Fprintf(&b, " %s=%d.%d", what, n>>16, n&0xffff)
		}
	}
	at("session", uint64(r.Session))
	at("incarnation", uint64(r.Incarnation))
	if r.Message != 0 {
		fmt.Fprintf(&b, " message=%d", r.Message)
	}
	at("of", uint64(r.Cursor.Incarnation))
	if r.Cursor.Incarnation != 0 {
		fmt.Fprintf(&b, " cursor=%d unread=%d", r.Cursor.ID, r.Unread)
	}
	if r.More {
		b.WriteString(" more")
	}
	b.WriteByte('\n')
	for _, n := range r.Names {
		fmt.Fprintf(&b, "  %s\n", n)
	}
	for _, m := range r.Messages {
		fmt.Fprintf(&b, "  %d %s <%s> %s\n", m.ID, m.Time.Format("15:04:05"), m.From, m.Body)
	}
	return b.String()
}
