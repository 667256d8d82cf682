package client

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/parley-chat/parley"
)

// unrest makes leadership move and connections break until the returned function
// is called.
func (c *cluster) unrest(every time.Duration) (end func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(every):
			}
			switch node := c.nodes[(i/3)%len(c.nodes)]; i % 3 {
			case 0:
				node.kill()
				node.restart()
			case 1:
				c.lead((i / 3) % len(c.nodes))
			case 2:
				c.fake.EndWatches(parley.Errorf(parley.CodeInterrupted, "leadership lost"))
			}
		}
	}()
	return func() { close(stop); <-stopped }
}

// Several senders and readers on one client, each sender with commands under
// way all the time, while nothing else stays as it is.
func TestUnrest(t *testing.T) {
	const senders, readers, each = 4, 3, 300
	cl := newCluster(t, 3)
	c := open(t, Config{Servers: cl.addrs(0), Window: 256})
	setup := c.Session()
	for r := range readers {
		must(t, setup, parley.CreateUser{Name: fmt.Sprint("reader", r)})
	}
	end := cl.unrest(7 * time.Millisecond)
	ctx := testContext(t)
	var wg sync.WaitGroup
	for i := range senders {
		s, from := c.Session(), fmt.Sprint("sender", i)
		wg.Go(func() {
			for n := range each {
				for r := range readers {
					wg.Add(1)
					s.Start(ctx, parley.Send{From: from, To: fmt.Sprint("reader", r), Body: fmt.Sprint(n + 1)}, func(r parley.Result, err error) {
						defer wg.Done()
						if err != nil || r.Code != parley.CodeOK {
							t.Errorf("%s: %v %v", from, r.Code, err)
						}
					})
				}
				if n%10 == 9 {
					time.Sleep(time.Millisecond) // to be there while things happen
				}
			}
		})
	}
	for r := range readers {
		wg.Go(func() {
			got, total := make(map[string][]string), 0
			for m, err := range c.Receive(ctx, fmt.Sprint("reader", r), parley.Cursor{}) {
				if err != nil {
					t.Errorf("reader %d: %v after %d messages", r, err, total)
					return
				}
				got[m.From] = append(got[m.From], m.Body)
				if total++; total == senders*each {
					break
				}
			}
			for from, list := range got {
				if !slices.Equal(list, numbers(each)) {
					t.Errorf("reader %d: from %s not 1 to %d in order: %v", r, from, each, list)
				}
			}
		})
	}
	wg.Wait()
	end()
}
