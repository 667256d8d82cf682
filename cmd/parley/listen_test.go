package main

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/parleytest"
	"github.com/parley-chat/parley/transport"
	"github.com/parley-chat/parley/transport/tcp"
)

// serveFake serves a fake cluster on a port and returns its address.
func serveFake(t *testing.T, f *parleytest.Fake) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	gateway := tcp.New(tcp.Config{Service: f, NodeID: "n1"})
	go func() { done <- transport.New(transport.Config{}).Serve(ctx, ln, gateway.Handle) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// TestListenDrainReadElsewhere: what another reader takes meanwhile is not
// waited for.
func TestListenDrainReadElsewhere(t *testing.T) {
	f := parleytest.NewFake()
	defer f.Close()
	for _, cmd := range []parley.Command{parley.CreateUser{Name: "u"}, parley.Send{To: "u", Body: "a"}, parley.Send{To: "u", Body: "b"}} {
		if r, err := parley.Do(t.Context(), f, parley.Request{Command: cmd}); err != nil || r.Err() != nil {
			t.Fatal(r, err)
		}
	}
	f.OnWatch(func(string) error { // the other one is faster
		_, err := parley.Do(context.Background(), f, parley.Request{Command: parley.Ack{User: "u", UpTo: parley.Cursor{ID: 2}}})
		return err
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var out, errs bytes.Buffer
	err := run(ctx, []string{"listen", "u", "--drain", "--servers", serveFake(t, f)}, strings.NewReader(""), &out, &errs)
	if err != nil || ctx.Err() != nil || out.Len() > 0 {
		t.Errorf("%v, %v, printed %q, stderr %q", err, ctx.Err(), out.String(), errs.String())
	}
}
