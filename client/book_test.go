package client

import (
	"slices"
	"testing"

	"github.com/parley-chat/parley"
)

func addrs(list []target) []string {
	var as []string
	for _, t := range list {
		as = append(as, t.addr)
	}
	return as
}

func TestBookRound(t *testing.T) {
	b := newBook([]string{"a:1", "b:1", "c:1"})
	orders := make(map[string]bool)
	for range 100 {
		orders[addrs(b.round())[0]] = true
	}
	if len(orders) != 3 {
		t.Errorf("first is always one of %v", orders)
	}
	b.arrived("n1", "a:1")
	b.arrived("n9", "far:1")
	b.leader = "n9"
	b.named("n8", "inside:1")
	for range 20 {
		got := addrs(b.round())
		if got[0] != "far:1" || got[4] != "inside:1" || len(got) != 5 {
			t.Fatalf("round %v", got)
		}
	}
	b.leader, b.lost = "n1", "a:1" // it died
	for range 20 {
		if got := addrs(b.round()); got[2] != "a:1" || len(got) != 5 {
			t.Fatalf("round %v", got)
		}
	}
}

// Only an address from the configuration may lead to any node.
func TestBookExpects(t *testing.T) {
	b := newBook([]string{"a:1"})
	b.arrived("n1", "a:1")
	b.arrived("n2", "far:1")
	b.named("n3", "inside:1")
	for _, target := range b.round() {
		want := map[string]string{"a:1": "", "far:1": "n2", "inside:1": "n3"}[target.addr]
		if target.node != want {
			t.Errorf("at %s %q is expected, want %q", target.addr, target.node, want)
		}
	}
}

func TestBookFollow(t *testing.T) {
	b := newBook([]string{"a:1", "b:1"})
	if first, last := b.follow("n3", "c:1"); first.addr != "" || last != (target{"c:1", "n3"}) {
		t.Errorf("unknown node: %v, %v", first, last)
	}
	if first, _ := b.follow("n2", "b:1"); first.addr != "b:1" {
		t.Errorf("a configured address: %v", first)
	}
	b.arrived("n2", "a:1") // behind a port mapping
	if first, _ := b.follow("n2", "b:1"); first.addr != "a:1" {
		t.Errorf("reached before: %v", first)
	}
}

func TestBookIsBounded(t *testing.T) {
	b := newBook([]string{"a:1"})
	for i := range 1000 {
		b.named(string(rune('a'+i)), "x:1")
		b.arrived(string(rune('a'+i)), string(rune('a'+i)))
	}
	b.learn(slices.Repeat([]parley.Member{{ID: "n", Client: "y:1"}}, 1000))
	if len(b.advertised) > maxLearned || len(b.reached) > maxLearned {
		t.Errorf("%d advertised, %d reached", len(b.advertised), len(b.reached))
	}
}
