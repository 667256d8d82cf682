package client

import (
	"math/rand/v2"
	"slices"

	"github.com/parley-chat/parley"
)

// maxLearned bounds what a server can make a client remember.
const maxLearned = 64

// book is what the client knows about where servers are. [Client.mu] guards it.
//
// The addresses that members advertise may mean nothing here (port mappings,
// container names), so those under which a node was reached, and those in the
// configuration, come first.
type book struct {
	configured []string
	reached    map[string]string // node id → address under which it answered
	advertised map[string]string // node id → address that the cluster names
	leader     string            // node id of who led last, as far as is known
	lost       string            // address of the connection lost last: tried late
}

// target is an address to try.
type target struct {
	addr string
	node string // who must answer there; "" if any member may
}

func newBook(servers []string) *book {
	return &book{
		configured: slices.Clone(servers),
		reached:    make(map[string]string),
		advertised: make(map[string]string),
	}
}

// arrived notes that node answered at addr.
func (b *book) arrived(node, addr string) {
	for id, a := range b.reached {
		if a == addr {
			delete(b.reached, id) // somebody else now
		}
	}
	if len(b.reached) < maxLearned {
		b.reached[node] = addr
	}
}

// named notes that the cluster names addr for node.
func (b *book) named(node, addr string) {
	_, known := b.advertised[node]
	if node == "" || addr == "" || !known && len(b.advertised) >= maxLearned {
		return
	}
	b.advertised[node] = addr
}

// follow notes that node leads and is said to be at addr. It returns what to try
// before everything else, if anything, and what to try after it.
func (b *book) follow(node, addr string) (first, last target) {
	b.named(node, addr)
	b.leader = node
	first = b.reachable(node)
	return first, b.target(addr, node)
}

// learn notes the members that a node told about, and forgets former ones.
func (b *book) learn(members []parley.Member) {
	if len(members) == 0 || len(members) > maxLearned {
		return
	}
	clear(b.advertised)
	for _, m := range members {
		b.named(m.ID, m.Client)
	}
}

// round lists what to try, best first: where the leader was reached, the
// configured servers in random order, other places where members were reached,
// and what the cluster names. The configured server lost last is put behind the
// others.
func (b *book) round() []target {
	var list []target
	add := func(t target) {
		if t.addr != "" && !slices.ContainsFunc(list, func(o target) bool { return o.addr == t.addr }) {
			list = append(list, t)
		}
	}
	if b.leader != "" && b.reached[b.leader] != b.lost {
		add(b.reachable(b.leader))
	}
	configured := slices.Clone(b.configured)
	rand.Shuffle(len(configured), func(i, j int) { configured[i], configured[j] = configured[j], configured[i] })
	for _, addr := range late(configured, b.lost) {
		add(target{addr: addr})
	}
	for id, addr := range b.reached {
		add(b.target(addr, id))
	}
	for _, id := range b.others() {
		add(b.target(b.advertised[id], id))
	}
	return list
}

// target is node at addr. The configuration is trusted, whoever it leads to; at
// any other address the node in question must answer.
func (b *book) target(addr, node string) target {
	if slices.Contains(b.configured, addr) {
		node = ""
	}
	return target{addr: addr, node: node}
}

// reachable is the address under which node was reached, or the advertised one
// if it is also a configured one.
func (b *book) reachable(node string) target {
	if addr, ok := b.reached[node]; ok {
		return b.target(addr, node)
	}
	if addr := b.advertised[node]; slices.Contains(b.configured, addr) {
		return b.target(addr, node)
	}
	return target{}
}

// others lists the nodes with advertised addresses, the leader first.
func (b *book) others() []string {
	var ids []string
	for id := range b.advertised {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(x, y string) int {
		switch {
		case x == b.leader:
			return -1
		case y == b.leader:
			return 1
		}
		return 0 // random enough: the order of a map
	})
	return ids
}

// late moves addr to the end.
func late(list []string, addr string) []string {
	if i := slices.Index(list, addr); i >= 0 {
		list = append(slices.Delete(list, i, i+1), addr)
	}
	return list
}
