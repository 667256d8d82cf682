package tcp_test

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/parleytest"
	"github.com/parley-chat/parley/transport/tcp"
)

// TestConversation is the exercise's.
func TestConversation(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	a, b := w.dial(), w.dial()
	a.ask("create", "user2", "ok")
	a.ask("create", "user3", "ok")
	a.ask("list", "", "list user2,user3")
	a.ask("send", "user3,hello", "ok")
	b.ask("connect", "user3", "string hello", "ok")
	a.ask("send", "user3,helloagain", "ok")
	b.expect("string helloagain")
	a.ask("delete", "user3", "ok")
	a.ask("list", "", "list user2")
}

func TestCreate(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	c := w.dial()
	c.ask("create", "Ünal", "ok")
	c.ask("create", "Ünal", "notok")
	c.ask("create", "ünal", "notok")
	c.ask("list", "", "list Ünal")
}

func TestConnectQueuedThenOKThenLive(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	w.run(parley.CreateUser{Name: "u"})
	c := w.dial()
	c.ask("connect", "nobody", "notok")
	for i := range 300 {
		w.run(parley.Send{To: "u", Body: fmt.Sprint(i)})
	}
	c.say("connect", "u")
	for i := range 300 {
		c.expect(fmt.Sprintf("string %d", i))
	}
	c.expect("ok")
	for i := range 20 {
		w.run(parley.Send{To: "u", Body: fmt.Sprint("live", i)})
		c.expect(fmt.Sprint("string live", i))
	}
	w.allRead("u")
	c.silent()
}

// TestConnectWhileMailComes: the answer comes once, behind the queued messages,
// and no message is lost or repeated around it.
func TestConnectWhileMailComes(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	w.run(parley.CreateUser{Name: "u"})
	const n = 400
	var sender sync.WaitGroup
	half := make(chan struct{})
	sender.Go(func() {
		for i := range n {
			if i == n/2 {
				close(half)
			}
			w.run(parley.Send{To: "u", Body: fmt.Sprint(i)})
		}
	})
	defer sender.Wait()
	<-half
	c := w.dial()
	c.say("connect", "u")
	at := -1
	for i := 0; i < n; {
		switch got := c.hear(); {
		case got == "ok" && at < 0:
			at = i
		case got == fmt.Sprintf("string %d", i):
			i++
		default:
			t.Fatalf("%q in place of message %d", got, i)
		}
	}
	if at < 0 {
		c.expect("ok")
		at = n
	}
	if at < n/2 {
		t.Errorf("the answer came behind %d of %d queued messages", at, n/2)
	}
	c.silent()
}

func TestDelete(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	c := w.dial()
	c.ask("delete", "nobody", "ok")
	c.ask("create", "u", "ok")
	c.ask("send", "u,never read", "ok")
	c.ask("delete", "u", "ok")
	c.ask("delete", "u", "ok")
	c.ask("list", "", "list")
	c.ask("send", "u,x", "notok")
	c.ask("connect", "u", "notok")
	c.ask("create", "u", "ok")
	c.ask("connect", "u", "ok") // without old mail
	c.silent()
}

// TestDeleteWhileConnected: the user's connections go on without a user.
func TestDeleteWhileConnected(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	for _, u := range []string{"User", "other"} {
		w.run(parley.CreateUser{Name: u})
	}
	self, second, other := w.dial(), w.dial(), w.dial()
	self.ask("connect", "User", "ok")
	second.ask("connect", "uSER", "ok")
	other.ask("connect", "other", "ok")
	self.ask("send", "other,from a user", "ok")
	self.ask("delete", "USER", "ok")
	self.ask("send", "other,from nobody", "ok")
	w.eventually("only the other's watch is left", func() bool { return w.fake.Watches() == 1 })
	second.ask("send", "other,from nobody either", "ok")
	other.expect("string from a user", "string from nobody", "string from nobody either")

	self.ask("create", "User", "ok") // somebody else
	self.ask("send", "User,news", "ok")
	second.silent()
	self.silent()
	w.wantUnread("User", "news")
	second.ask("connect", "User", "string news", "ok")
	other.ask("delete", "User", "ok") // not its own
	self.ask("send", "other,still connected", "ok")
	other.expect("string still connected")
}

// lateWatch is a service whose watches learn of a deletion late, as those on a
// follower do.
type lateWatch struct{ *parleytest.Fake }

func (l lateWatch) Watch(ctx context.Context, user string, after parley.Cursor) iter.Seq2[parley.Message, error] {
	return func(yield func(parley.Message, error) bool) {
		for m, err := range l.Fake.Watch(ctx, user, after) {
			if err != nil {
				<-ctx.Done()
			}
			if !yield(m, err) {
				return
			}
		}
	}
}

// TestDeleteSelf: who deletes the user it is connected as is nobody from the
// answer on.
func TestDeleteSelf(t *testing.T) {
	fake := parleytest.NewFake()
	w := newWorld(t, tcp.Config{Service: lateWatch{fake}})
	w.fake = fake
	for _, u := range []string{"u", "to"} {
		w.run(parley.CreateUser{Name: u})
	}
	c := w.dial()
	c.ask("connect", "u", "ok")
	c.ask("delete", "U", "ok")
	c.ask("send", "to,x", "ok")
	r, err := fake.Get(t.Context(), parley.Inbox{User: "to"})
	if err != nil || len(r.Messages) != 1 || r.Messages[0].From != "" {
		t.Errorf("got %+v, %v", r, err)
	}
}

// TestSenderName: the sender is the connected user, or nobody.
func TestSenderName(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	for _, u := range []string{"a", "b", "to"} {
		w.run(parley.CreateUser{Name: u})
	}
	c := w.dial()
	c.ask("send", "to,x", "ok")
	c.ask("connect", "a", "ok")
	c.ask("send", "to,x", "ok")
	c.ask("connect", "b", "ok")
	c.ask("send", "to,x", "ok")
	c.ask("connect", "nobody", "notok") // changes nothing
	c.ask("send", "to,x", "ok")
	c.ask("delete", "b", "ok")
	c.ask("send", "to,x", "ok")
	r, err := w.fake.Get(t.Context(), parley.Inbox{User: "to"})
	if err != nil {
		t.Fatal(err)
	}
	var from []string
	for _, m := range r.Messages {
		from = append(from, m.From)
	}
	if want := []string{"", "a", "b", "b", ""}; !slices.Equal(from, want) {
		t.Errorf("senders %q, want %q", from, want)
	}
}

// TestConnectSwitches: a second connect on the same connection is one to
// another user, and the end of the first.
func TestConnectSwitches(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	for _, u := range []string{"a", "b"} {
		w.run(parley.CreateUser{Name: u})
		w.run(parley.Send{To: u, Body: "old " + u})
	}
	c := w.dial()
	c.ask("connect", "a", "string old a", "ok")
	c.ask("connect", "b", "string old b", "ok")
	w.run(parley.Send{To: "a", Body: "new a"})
	w.run(parley.Send{To: "b", Body: "new b"})
	c.expect("string new b")
	w.allRead("b")
	w.wantUnread("a", "new a")
	c.ask("connect", "b", "ok") // again the same
	c.ask("connect", "a", "string new a", "ok")
	w.allRead("a")
}

// TestConnectAgain: what a connection has been sent does not come again because
// it has not been acknowledged yet.
func TestConnectAgain(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	for _, u := range []string{"a", "b"} {
		w.run(parley.CreateUser{Name: u})
		for i := range 3 {
			w.run(parley.Send{To: u, Body: fmt.Sprint(u, i)})
		}
	}
	w.fake.OnStart(func(r parley.Request) parleytest.Fault {
		if _, ok := r.Command.(parley.Ack); ok {
			return parleytest.Fault{Err: parley.Errorf(parley.CodeNoQuorum, "")}
		}
		return parleytest.Fault{}
	})
	c := w.dial()
	c.ask("connect", "a", "string a0", "string a1", "string a2", "ok")
	c.ask("connect", "a", "ok")
	c.ask("connect", "b", "string b0", "string b1", "string b2", "ok")
	w.run(parley.Send{To: "a", Body: "a3"})
	c.ask("connect", "a", "string a3", "ok")
	w.run(parley.Send{To: "a", Body: "a4"})
	c.expect("string a4")
	other := w.dial() // but another connection gets it all
	other.ask("connect", "b", "string b0", "string b1", "string b2", "ok")
	w.fake.OnStart(nil)
	w.allRead("a")
	w.allRead("b")
}

func TestList(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	c := w.dial()
	c.ask("list", "", "list")
	for _, u := range []string{"beta", "Alpha", "gamma", "alps", "b+"} {
		w.run(parley.CreateUser{Name: u})
	}
	c.ask("list", "", "list Alpha,alps,b+,beta,gamma")
	c.ask("list", "a$", "list Alpha,beta,gamma")
	c.ask("list", "^al", "list alps")
	c.ask("list", "(?i)^al", "list Alpha,alps")
	c.ask("list", "m{2}", "list gamma")
	c.ask("list", "a{2,}", "list")
	c.ask("list", `\+`, "list b+")
	c.ask("list", "x", "list")
}

// TestListMany: 5,000 users take several frames, cut between names.
func TestListMany(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	var want []string
	for i := range 5000 {
		name := fmt.Sprintf("user-%04d-%s", i, strings.Repeat("é", i%7))
		want = append(want, name)
		w.run(parley.CreateUser{Name: name})
	}
	c := w.dial()
	c.say("list", "")
	c.say("list", "^no such user$")
	var got []string
	for {
		names, ok := strings.CutPrefix(c.hear(), "list ")
		if !ok {
			break // the second, empty list
		}
		got = append(got, strings.Split(names, ",")...)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d names, want %d", len(got), len(want))
	}
}

// TestRefused: what cannot be understood or done is answered notok, and the
// connection stays.
func TestRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, tcp.Config{})
	w.run(parley.CreateUser{Name: "u"})
	c := w.dial()
	long := strings.Repeat("x", 65)
	for _, f := range [][2]string{
		{"list", "("}, {"list", "a**"}, {"list", "[z-a]"}, // bad pattern
		{"create", ""}, {"connect", ""}, {"delete", ""}, {"send", ""}, {"send", "u"}, {"send", "u,"}, {"send", ",x"}, // missing argument
		{"create", "a b"}, {"create", "a,b"}, {"create", long}, {"create", "a\tb"}, {"create", "a\u200bb"}, // bad name
		{"delete", "a b"}, {"delete", "a,b"}, {"delete", long}, {"connect", "a b"}, {"connect", "a,b"}, {"send", "a b,x"},
		{"dance", "u"}, {"CREATE", "v"}, {"string", "u"}, {"ok", ""}, // unknown command
		{"connect", "v"}, {"send", "v,x"}, // unknown user
	} {
		c.say(f[0], f[1])
		if got := c.hear(); got != "notok" {
			t.Errorf("%s %q: %q", f[0], f[1], got)
		}
	}
	c.write(strings.Repeat("x", 3000)) // oversized
	c.expect("notok")
	c.write(header("create") + "\xff\xfe")
	c.expect("notok")
	c.ask("list", "", "list u")
	if got := w.unread("u"); len(got) != 0 {
		t.Errorf("unread: %q", got)
	}
}

func TestSendCommas(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	w.run(parley.CreateUser{Name: "u"})
	c := w.dial()
	texts := []string{"a,b", ",", "a,,b,", " , ", "u,send u,x", "ünïcode, 🎉", strings.Repeat("x", 1024-15-2)}
	for _, text := range texts {
		c.ask("send", "u,"+text, "ok")
	}
	w.wantUnread("u", texts...)
	c.say("connect", "u")
	for _, text := range texts {
		c.expect("string " + strings.TrimRight(text, " "))
	}
	c.expect("ok")
}

// TestLongTexts: what does not fit into one frame is cut between characters.
func TestLongTexts(t *testing.T) {
	w := newWorld(t, tcp.Config{})
	w.run(parley.CreateUser{Name: "u"})
	text := strings.Repeat("é", 700) + "." + strings.Repeat("🎉", 700)
	w.run(parley.Send{To: "u", Body: text})
	c := w.dial()
	c.say("connect", "u")
	var got strings.Builder
	for {
		f := c.hear()
		if f == "ok" {
			break
		}
		got.WriteString(strings.TrimPrefix(f, "string "))
	}
	if got.String() != text {
		t.Errorf("received %d bytes of %d", got.Len(), len(text))
	}
	w.allRead("u")
}
