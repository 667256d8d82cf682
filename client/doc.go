// Package client is a chat cluster over the network: a [parley.Service] that
// knows some of the members, finds the one that leads, and keeps to it.
//
//	c, err := client.New(client.Config{Servers: []string{"a:3000", "b:3000", "c:3000"}})
//	if err != nil { … }
//	defer c.Close()
//	s := c.Session()
//	r, err := s.Do(ctx, parley.Send{From: "ann", To: "bob", Body: "hello"})
//
// # What it takes care of
//
// Commands are pipelined over one connection. When the connection or the leader
// is lost, the client finds the next leader and sends everything that has no
// answer again, under the same numbers and in order, so that it takes effect
// once. Watches go on after the last message they have shown. What cannot be
// recognised (a command without a session) is not sent twice.
//
// # How it finds the leader
//
// It asks any server it knows; one that does not lead names the one that does.
// Addresses that the cluster names may mean nothing where the client runs
// (containers, port mappings), so a node is looked for first where the client has
// reached it before, then at the configured addresses, and only then where the
// cluster says it is. From its first connection the client also learns where the
// other members are, and does not depend on the configured ones any more.
//
// # What to expect of it in trouble
//
// Every call waits as long as its context allows and then says what stood in the
// way. All waits between tries are random and grow up to a second. The commands
// that may be without an answer are bounded ([Config.Window]); Start waits beyond
// that. A server that stays silent for [Config.Patience] is not trusted to lead
// any more: the others are asked.
package client
