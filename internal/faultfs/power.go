package faultfs

import (
	"math/rand/v2"
	"slices"
)

// PowerLoss returns the disk as it may be found when the machine has power again,
// all of it synced. The disk itself stays as it is.
func (d *Disk) PowerLoss(rng *rand.Rand) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	found := New()
	found.next = d.next
	names := d.survivingNames(rng)
	var visit func(id uint64)
	visit = func(id uint64) {
		n := d.nodes[id]
		if n.typ != directory {
			b := surviving(n, rng)
			found.nodes[id] = &node{id: id, typ: n.typ, now: b, safe: slices.Clone(b)}
			return
		}
		dir := newDir(id)
		found.nodes[id] = dir
		for _, name := range sortedNames(names[id]) {
			child := names[id][name]
			dir.names[name], dir.kept[name] = child, child
			if found.nodes[child] == nil {
				visit(child)
			}
		}
	}
	visit(root)
	return found
}

// luck is how much of what was not synced survives.
type luck uint8

const (
	none    luck = iota
	all          // the disk was quick
	prefix       // in the order in which it was done, the last one in part
	scatter      // any part
	kinds
)

// surviving are the bytes of a file after a power loss. mu is held.
func surviving(n *node, rng *rand.Rand) []byte {
	b := slices.Clone(n.safe)
	if len(n.wait) == 0 {
		return b
	}
	switch luck(rng.IntN(int(kinds))) {
	case none:
	case all:
		b = slices.Clone(n.now)
	case prefix:
		whole := rng.IntN(len(n.wait))
		for _, o := range n.wait[:whole] {
			b = changed(b, o)
		}
		b = torn(b, n.wait[whole:whole+1], rng)
	case scatter:
		b = torn(b, n.wait, rng)
	}
	return b
}

// torn lets each sector be as it was at any time between the first and the last
// of some changes, and so the file's length.
func torn(before []byte, ops []op, rng *rand.Rand) []byte {
	versions := make([]int64, 1, len(ops)+1) // lengths
	versions[0] = int64(len(before))
	size, longest := versions[0], versions[0]
	for _, o := range ops {
		size = o.length(size)
		longest = max(longest, size)
		versions = append(versions, size)
	}
	after := slices.Clone(before)
	after = resized(after, longest)
	for _, s := range touched(ops, longest) {
		sector := make([]byte, Sector)
		copy(sector, before[min(s, int64(len(before))):])
		keep := rng.IntN(len(ops) + 1)
		for _, o := range ops[:keep] {
			o.onSector(sector, s)
		}
		copy(after[s:], sector)
	}
	return resized(after, versions[rng.IntN(len(versions))])
}

// length is a file's after the change.
func (o op) length(size int64) int64 {
	if o.kind == opTruncate {
		return o.off
	}
	return max(size, o.off+int64(len(o.data)))
}

// touched are the places of the sectors that the changes are about.
func touched(ops []op, longest int64) (sectors []int64) {
	seen := make(map[int64]bool)
	for _, o := range ops {
		from, to := o.off, o.off+int64(len(o.data))
		if o.kind == opTruncate {
			to = longest
		}
		for s := from / Sector * Sector; s < to; s += Sector {
			if !seen[s] {
				seen[s] = true
				sectors = append(sectors, s)
			}
		}
	}
	slices.Sort(sectors)
	return sectors
}

// onSector does to the sector at s what the change does to the file.
func (o op) onSector(sector []byte, s int64) {
	if o.kind == opTruncate {
		if o.off < s+Sector {
			clear(sector[max(0, o.off-s):])
		}
		return
	}
	from, to := max(o.off, s), min(o.off+int64(len(o.data)), s+Sector)
	if from < to {
		copy(sector[from-s:], o.data[from-o.off:to-o.off])
	}
}

// survivingNames are those of all directories after a power loss. A rename
// happens as a whole or not at all. mu is held.
func (d *Disk) survivingNames(rng *rand.Rand) map[uint64]map[string]uint64 {
	names := make(map[uint64]map[string]uint64)
	var ids []uint64
	for id, n := range d.nodes {
		if n.typ == directory {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	for _, id := range ids {
		n := d.nodes[id]
		kept := &node{id: id, typ: directory, kept: cloneNames(n.kept)}
		how := luck(rng.IntN(int(kinds)))
		upTo := rng.IntN(len(n.moves) + 1)
		for i, o := range n.moves {
			if how == all || how == prefix && i < upTo || how == scatter && rng.IntN(2) == 0 {
				d.keep(kept, o)
			}
		}
		names[id] = kept.kept
	}
	return names
}

func cloneNames(m map[string]uint64) map[string]uint64 {
	c := make(map[string]uint64, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}

func sortedNames(m map[string]uint64) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
