package main

import "log/slog"

// ownDescriptors is how many open files a node keeps for itself, whatever clients do:
// its log and state, members, operators, and what it opens for a moment. A log in
// segments opens a file when one is full, and a node that cannot do that ends.
const ownDescriptors = 128

// connsWithin is how many client connections there may be where most are wanted and
// the process gets no more than limit open files. Of few, half are the node's.
func connsWithin(most int, limit uint64) int {
	spare := limit - min(ownDescriptors, limit/2)
	return int(min(uint64(most), max(spare, 1)))
}

// boundConns is connsWithin for this process. It says so if that is less.
func boundConns(most int, log *slog.Logger) int {
	limit, ok := descriptorLimit()
	if !ok {
		return most
	}
	n := connsWithin(most, limit)
	if n < most {
		log.Warn("fewer client connections than --max-conns are taken: raise the limit on open files, or lower --max-conns",
			"max_conns", most, "taken", n, "open_files", limit)
	}
	return n
}
