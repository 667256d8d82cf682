package node

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-chat/parley"
)

// BenchmarkSend sends 100-byte messages with 16 × 256 commands in flight. Its
// allocations are those of all members, so that with one member they are the
// leader's for a message, once it is a command.
// PARLEY_TEST_LOG shows what Raft does meanwhile.
func BenchmarkSend(b *testing.B) {
	for _, size := range []int{1, 3} {
		b.Run(fmt.Sprintf("members=%d", size), func(b *testing.B) { benchmarkSend(b, size, nil) })
	}
}

func BenchmarkInFlight(b *testing.B) {
	for _, k := range []int{1, 2, 4, 8, 16} {
		b.Run(strconv.Itoa(k), func(b *testing.B) { benchmarkSend(b, 3, func(cfg *Config) { cfg.InFlight = k }) })
	}
}

func benchmarkSend(b *testing.B, size int, tune func(*Config)) {
	const senders, window = 16, 256
	c := newCluster(b, size, func(cfg *Config) {
		cfg.HeartbeatTimeout = 5 * time.Second // an election would be measured otherwise
		if tune != nil {
			tune(cfg)
		}
	})
	leader := c.leader()
	for i := range senders {
		must(b, leader, parley.CreateUser{Name: fmt.Sprint("box", i)})
	}
	body := strings.Repeat("x", 100)
	ctx := context.Background()
	var failed sync.Once
	b.ReportAllocs()
	b.ResetTimer()
	begin := time.Now()
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			slots := make(chan struct{}, window)
			to := fmt.Sprint("box", i)
			done := func(r parley.Result, err error) {
				if err != nil || r.Code != parley.CodeOK {
					failed.Do(func() { b.Errorf("send: %v %v", r, err) })
				}
				<-slots
			}
			var send, read parley.Command = parley.Send{From: "x", To: to, Body: body}, parley.Ack{User: to, UpTo: parley.Cursor{ID: 1 << 60}}
			for k := range b.N / senders {
				slots <- struct{}{}
				leader.Start(ctx, parley.Request{Command: send}, done)
				if k%window == 0 { // the mail is read, too
					slots <- struct{}{}
					leader.Start(ctx, parley.Request{Command: read}, done)
				}
			}
			for range window {
				slots <- struct{}{}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/time.Since(begin).Seconds(), "msg/s")
	b.StopTimer()
}

// BenchmarkRead reads on a follower, linearizably, 64 readers at a time.
func BenchmarkRead(b *testing.B) {
	c := newCluster(b, 3, nil)
	must(b, c.leader(), parley.CreateUser{Name: "box"})
	n := c.follower()
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := n.Get(context.Background(), parley.Inbox{User: "box"}); err != nil {
				b.Error(err)
			}
		}
	})
}
