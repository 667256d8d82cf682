package client

import (
	"context"
	"sync"
	"testing"

	"github.com/parley-chat/parley"
)

// BenchmarkSend is the cost of a command through session, client, connection and
// server, with the window full.
func BenchmarkSend(b *testing.B) {
	cl := newCluster(b, 1)
	c := open(b, Config{Servers: cl.addrs()})
	s := c.Session()
	must(b, s, parley.CreateUser{Name: "bob"})
	ctx := context.Background()
	var wg sync.WaitGroup
	b.ReportAllocs()
	for b.Loop() {
		wg.Add(1)
		s.Start(ctx, parley.Send{To: "nobody", Body: "hello"}, func(parley.Result, error) { wg.Done() })
	}
	wg.Wait()
}

// BenchmarkSendAndWait is the same, one at a time.
func BenchmarkSendAndWait(b *testing.B) {
	cl := newCluster(b, 1)
	c := open(b, Config{Servers: cl.addrs()})
	s := c.Session()
	must(b, s, parley.CreateUser{Name: "bob"})
	for b.Loop() {
		must(b, s, parley.Send{To: "bob", Body: "hello"})
	}
}
