package main

import (
	"fmt"
	"strings"
)

// chatCommand is one line of a chat, understood.
type chatCommand struct {
	verb    string // create connect delete list send help whoami quit
	user    string // create connect delete send
	pattern string // list
	text    string // send
}

const chatHelp = `create USER        make a user
connect USER       show the messages for USER here, and send as USER
delete USER        remove a user and its mail
list [PATTERN]     list users, those that match a regular expression if one is given
send USER TEXT     send a message; a comma after USER does as well as a space
whoami             who you are, and which node serves you
help               this list
quit               leave`

// chatVerbs are the commands of a chat, with what must follow them.
func chatVerbs() map[string]string {
	return map[string]string{
		"create": "USER", "connect": "USER", "delete": "USER", "list": "", "send": "USER TEXT",
		"help": "", "whoami": "", "quit": "",
	}
}

// parseChat understands a line. Names hold neither spaces nor commas, so either
// may separate them from what follows. An empty line, or one that begins with
// #, has no verb.
func parseChat(line string) (chatCommand, error) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return chatCommand{}, nil
	}
	verb, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	c := chatCommand{verb: strings.ToLower(verb)}
	if c.verb == "exit" {
		c.verb = "quit"
	}
	needs, known := chatVerbs()[c.verb]
	switch {
	case !known:
		return c, fmt.Errorf("there is no command %q: try help", verb)
	case c.verb == "list":
		c.pattern = rest
	case c.verb == "send":
		end := strings.IndexAny(rest, " ,")
		if end < 0 {
			return c, fmt.Errorf("send needs %s", needs)
		}
		c.user, c.text = rest[:end], rest[end+1:]
		if rest[end] == ' ' {
			c.text = strings.TrimLeft(c.text, " ")
		}
	case needs == "USER":
		c.user = rest
		if rest == "" || strings.ContainsAny(rest, " ,") {
			return c, fmt.Errorf("%s needs one %s", c.verb, needs)
		}
	case rest != "":
		return c, fmt.Errorf("%s takes nothing after it", c.verb)
	}
	if c.verb == "send" && c.user == "" {
		return c, fmt.Errorf("send needs %s", needs)
	}
	return c, nil
}
