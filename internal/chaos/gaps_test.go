package chaos

import (
	"testing"
	"time"
)

func TestGaps(t *testing.T) {
	t0 := time.Now()
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	var g gaps
	if closed := g.acknowledged(at(1), at(2)); closed != nil {
		t.Errorf("closed %v before any kill", closed)
	}
	add := func(f Failure, began, complete int) { g.complete(g.begin(f, false, at(began)).Number, at(complete)) }
	add(Failure{Fault: Kill, Node: "n1", Leader: true}, 10, 15)
	for _, sent := range []int{5, 10, 12, 15} { // before the failure was complete
		if closed := g.acknowledged(at(sent), at(20)); closed != nil {
			t.Errorf("sent at %d closed %v", sent, closed)
		}
	}
	add(Failure{Fault: Kill, Node: "n2"}, 100, 100)
	closed := g.acknowledged(at(16), at(110)) // after the first, before the second
	if len(closed) != 1 || closed[0].Number != 1 || closed[0].Gap != 100*time.Millisecond {
		t.Errorf("closed %+v", closed)
	}
	if closed := g.acknowledged(at(101), at(120)); len(closed) != 1 || closed[0].Gap != 20*time.Millisecond {
		t.Errorf("closed %+v", closed)
	}
	if closed := g.acknowledged(at(130), at(131)); closed != nil {
		t.Errorf("closed again: %v", closed)
	}
}

// A node that is asked to stop answers for a while, and the gap may lie before
// its end or behind it.
func TestPlannedGap(t *testing.T) {
	t0 := time.Now()
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	var g gaps
	f := g.begin(Failure{Fault: Term, Leader: true}, true, at(0))
	for _, ms := range []int{2, 5, 45, 47, 46} { // 46 has been overtaken
		if closed := g.acknowledged(at(ms-1), at(ms)); closed != nil {
			t.Errorf("closed %+v while the node still stops", closed)
		}
	}
	g.complete(f.Number, at(60))
	if closed := g.acknowledged(at(50), at(61)); closed != nil {
		t.Errorf("closed %+v by a message from before the end", closed)
	}
	if closed := g.acknowledged(at(62), at(70)); len(closed) != 1 || closed[0].Gap != 40*time.Millisecond {
		t.Errorf("closed %+v, want a gap of 40 ms", closed)
	}
	f = g.begin(Failure{Fault: Term}, true, at(100))
	g.complete(f.Number, at(110))
	if closed := g.acknowledged(at(111), at(190)); len(closed) != 1 || closed[0].Gap != 90*time.Millisecond {
		t.Errorf("closed %+v, want a gap of 90 ms", closed)
	}
}

func TestLeaderGaps(t *testing.T) {
	if _, ok := LeaderGaps([]Failure{{Closed: true, Gap: time.Second}, {Leader: true}}); ok {
		t.Error("numbers from no leader kill")
	}
	kills := []Failure{{Closed: true, Gap: time.Hour}} // not a leader
	for i := range 100 {
		kills = append(kills, Failure{Leader: true, Closed: true, Gap: time.Duration(100 - i)})
	}
	if q, ok := LeaderGaps(kills); !ok || q != (Quantiles{P50: 50, P99: 99, Max: 100}) {
		t.Errorf("got %+v, %v", q, ok)
	}
	if q, _ := LeaderGaps(kills[:2]); q != (Quantiles{100, 100, 100}) {
		t.Errorf("one kill: %+v", q)
	}
	if q, _ := LeaderGaps(kills[:4]); q != (Quantiles{99, 100, 100}) {
		t.Errorf("three kills: %+v", q)
	}
}
