package main

import "testing"

func TestParseChat(t *testing.T) {
	for _, c := range []struct {
		line string
		want chatCommand
	}{
		{"", chatCommand{}},
		{"  ", chatCommand{}},
		{"# a comment", chatCommand{}},
		{"create user2", chatCommand{verb: "create", user: "user2"}},
		{"  CREATE  user2 ", chatCommand{verb: "create", user: "user2"}},
		{"connect ü", chatCommand{verb: "connect", user: "ü"}},
		{"delete user2", chatCommand{verb: "delete", user: "user2"}},
		{"list", chatCommand{verb: "list"}},
		{"list ^a b,c", chatCommand{verb: "list", pattern: "^a b,c"}},
		{"send user3 hello", chatCommand{verb: "send", user: "user3", text: "hello"}},
		{"send user3   hello,  world ", chatCommand{verb: "send", user: "user3", text: "hello,  world"}},
		{"send user3,hello, you", chatCommand{verb: "send", user: "user3", text: "hello, you"}},
		{"send user3, hello", chatCommand{verb: "send", user: "user3", text: " hello"}},
		{"send user3,", chatCommand{verb: "send", user: "user3"}},
		{"whoami", chatCommand{verb: "whoami"}},
		{"exit", chatCommand{verb: "quit"}},
	} {
		got, err := parseChat(c.line)
		if err != nil || got != c.want {
			t.Errorf("%q: %+v, %v, want %+v", c.line, got, err, c.want)
		}
	}
	for _, line := range []string{"hello", "create", "create a b", "create a,b", "connect", "send", "send user3", "send ,x", "quit now", "help me"} {
		if got, err := parseChat(line); err == nil {
			t.Errorf("%q understood as %+v", line, got)
		}
	}
}
