package check_test

import (
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/check"
)

// Two readers that see different messages at one position do not see one order.
func TestOneMessageAtAPosition(t *testing.T) {
	l := check.NewLog()
	for range 2 {
		l.Acknowledge(aliceToBob, l.Send(aliceToBob))
		l.Acknowledge(carolToBob, l.Send(carolToBob))
	}
	one, two := l.Reader("one", "bob"), l.Reader("two", "bob")
	one.Deliver(message(aliceToBob, 1, at(1)))
	two.Deliver(message(aliceToBob, 1, at(1)))
	one.Deliver(message(aliceToBob, 2, at(2)))
	one.Deliver(message(carolToBob, 1, at(3)))
	if v := l.Verdict(); v.Reordered != 0 {
		t.Errorf("%v %q", v, l.Problems())
	}
	two.Deliver(message(carolToBob, 2, at(2)))
	if v := l.Verdict(); v.Reordered != 1 || !strings.Contains(l.Problems()[0], "where another message was shown") {
		t.Errorf("%v %q", v, l.Problems())
	}
}

func TestTimeGoesBack(t *testing.T) {
	l := check.NewLog()
	r := l.Reader("r", "bob")
	for i, sec := range []int64{5, 5, 4} {
		n := l.Send(aliceToBob)
		m := message(aliceToBob, n, at(parley.MessageID(i+1)))
		m.Time = time.Unix(sec, 0)
		r.Deliver(m)
		if v := l.Verdict(); (v.Reordered != 0) != (sec == 4) {
			t.Errorf("second %d: %v %q", sec, v, l.Problems())
		}
	}
}

// Mail that was acknowledged before a user was created is somebody else's.
func TestFormerIncarnation(t *testing.T) {
	l := check.NewLog()
	l.Creating("bob")(1)
	l.Acknowledge(aliceToBob, l.Send(aliceToBob)) // read
	l.Acknowledge(aliceToBob, l.Send(aliceToBob)) // not read, and gone
	under := l.Send(aliceToBob)                   // under way when bob is created again
	r := l.Reader("r", "bob")
	m := message(aliceToBob, 1, at(1))
	m.Incarnation = 1
	r.Deliver(m)
	if l.Missing() != 1 {
		t.Errorf("missing: %d", l.Missing())
	}
	deleted := l.Deleting("bob")
	deleted()
	if v := l.Verdict(); !v.OK() || l.Missing() != 0 {
		t.Errorf("unread mail of a deleted user counts as lost: %v %q", v, l.Problems())
	}
	created := l.Creating("bob")
	l.Acknowledge(aliceToBob, under)
	created(2)
	m = message(aliceToBob, under, at(1))
	m.Incarnation = 2
	r.Deliver(m)
	if v := l.Verdict(); !v.OK() {
		t.Errorf("%v %q", v, l.Problems())
	}
	m = message(aliceToBob, 2, at(2))
	m.Incarnation = 2
	l.Reader("another", "bob").Deliver(m)
	if v := l.Verdict(); v.Phantom != 1 || !strings.Contains(l.Problems()[0], "former bearer") {
		t.Errorf("%v %q", v, l.Problems())
	}
	l.Acknowledge(aliceToBob, l.Send(aliceToBob))
	if l.Missing() != 1 {
		t.Error("mail after the deletion may be lost")
	}
}
