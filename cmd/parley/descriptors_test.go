package main

import "testing"

func TestConnsWithin(t *testing.T) {
	for _, c := range []struct {
		most  int
		limit uint64
		want  int
	}{
		{16384, 1 << 20, 16384},
		{16384, ^uint64(0), 16384}, // no limit
		{16384, 16384 + ownDescriptors, 16384},
		{16384, 16384, 16384 - ownDescriptors},
		{16384, 1024, 1024 - ownDescriptors},
		{16384, 200, 100},
		{50, 200, 50},
		{16384, 1, 1},
		{16384, 0, 1},
	} {
		if got := connsWithin(c.most, c.limit); got != c.want {
			t.Errorf("%d connections wanted, %d open files: %d, want %d", c.most, c.limit, got, c.want)
		}
	}
}
