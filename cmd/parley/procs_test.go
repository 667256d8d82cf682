package main

import (
	"runtime"
	"testing"
)

func TestSpread(t *testing.T) {
	processors := runtime.NumCPU()
	was := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(was)
	for name, tt := range map[string]struct {
		env       string
		was, want int
	}{
		"as many as processors": {"", processors, max(processors, leastProcs)},
		"a container's share":   {"", processors - 1, processors - 1},
		"chosen":                {"2", processors, processors},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.was == 0 {
				t.Skip("one processor has no share")
			}
			t.Setenv("GOMAXPROCS", tt.env)
			runtime.GOMAXPROCS(tt.was)
			spread()
			if n := runtime.GOMAXPROCS(0); n != tt.want {
				t.Errorf("%d, want %d", n, tt.want)
			}
		})
	}
}
