package main

import (
	"log/slog"
	"net"
	"testing"

	"github.com/parley-chat/parley/certs"
)

// TestClientsUsePlainTCP: a client that would speak MPTCP is answered in TCP, of
// which the kernel says what has been received.
func TestClientsUsePlainTCP(t *testing.T) {
	v := &server{s: &settings{clientListen: "127.0.0.1:0", clientPlaintext: true}, log: slog.New(slog.DiscardHandler)}
	ln, err := v.listenClients(certs.Files{})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var d net.Dialer
	d.SetMultipathTCP(true)
	client, err := d.DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if multi, err := accepted.(*net.TCPConn).MultipathTCP(); multi || err != nil {
		t.Errorf("multipath %v, %v", multi, err)
	}
}
