package client_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/client"
	"github.com/parley-chat/parley/mux"
	"github.com/parley-chat/parley/parleytest"
	"github.com/parley-chat/parley/wire"
)

// Commands of a session take effect once, whatever happens to servers and
// connections meanwhile.
func Example() {
	addr, stop := serve()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()

	c, err := client.New(client.Config{Servers: []string{addr}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	s := c.Session()
	for _, cmd := range []parley.Command{
		parley.CreateUser{Name: "bob"},
		parley.Send{From: "ann", To: "bob", Body: "hello"},
		parley.Send{From: "ann", To: "nobody", Body: "hello?"},
	} {
		r, err := s.Do(ctx, cmd)
		if err != nil {
			fmt.Println("no answer:", err)
			return
		}
		fmt.Println(r.Code)
	}
	// Output:
	// ok
	// ok
	// no such user
}

// Receive shows the unread mail, then what comes, and acknowledges what has been
// read.
func ExampleClient_Receive() {
	addr, stop := serve()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()

	c, err := client.New(client.Config{Servers: []string{addr}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	s := c.Session()
	for _, cmd := range []parley.Command{
		parley.CreateUser{Name: "bob"},
		parley.Send{From: "ann", To: "bob", Body: "hello"},
		parley.Send{From: "ann", To: "bob", Body: "bye"},
	} {
		if _, err := s.Do(ctx, cmd); err != nil {
			fmt.Println(err)
			return
		}
	}
	for m, err := range c.Receive(ctx, "bob", parley.Cursor{}) {
		if err != nil {
			fmt.Println(err) // the user was deleted, or ctx has ended
			return
		}
		fmt.Printf("%s: %s\n", m.From, m.Body)
		if m.Body == "bye" {
			break
		}
	}
	// Output:
	// ann: hello
	// ann: bye
}

// serve runs a cluster of one, in memory, that always leads.
func serve() (addr string, stop func()) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fake := parleytest.NewFake()
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			br := bufio.NewReader(nc)
			if _, err := wire.NewClassicReader(br).Next(); err != nil {
				nc.Close()
				continue
			}
			nc.Write(wire.AppendWelcome(nil, wire.Welcome{Node: "n1", MaxFrame: wire.DefaultMaxFrame, Idle: 90 * time.Second}))
			go mux.Serve(context.Background(), nc, br, mux.ServerConfig{Service: fake})
		}
	}()
	return ln.Addr().String(), func() { ln.Close(); fake.Close() }
}
