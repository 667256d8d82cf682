package rpc

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/api/helloworld"
)

// legacy is the exercise's service. Its clients show what they are told to a
// person, so that everything is said in words but that the cluster cannot answer.
type legacy struct {
	helloworld.UnimplementedChatServer
	g *Gateway

	mu    sync.Mutex
	boxes map[parley.Incarnation]*box
}

var _ helloworld.ChatServer = (*legacy)(nil)

// legacyPrefix is what the names of its methods begin with.
const legacyPrefix = "/helloworld."

const usage = "known commands: create NAME, connect NAME, list [PATTERN], send NAME TEXT, delete NAME"

// TryCommand carries out a line as a person types it.
func (l *legacy) TryCommand(ctx context.Context, in *helloworld.Command) (*helloworld.Response, error) {
	line := strings.TrimRight(in.GetCommand(), "\r\n")
	word, args := cutWord(line)
	var message, name string
	var err error
	switch {
	case !utf8.ValidString(line):
		message = "The command is not valid UTF-8."
	case word == "create":
		message, err = l.create(ctx, args)
	case word == "delete":
		message, err = l.one(ctx, word, args, func(u string) parley.Command { return parley.DeleteUser{Name: u} }, "User %s deleted")
	case word == "connect":
		message, name, err = l.connect(ctx, args)
	case word == "list":
		message, err = l.list(ctx, args)
	case word == "send":
		message, err = l.send(ctx, args)
	case word == "":
		message = "No command; " + usage
	default:
		message = fmt.Sprintf("Unknown command %.80q; %s", word, usage)
	}
	if err != nil {
		return nil, err
	}
	return &helloworld.Response{Message: clip(message, l.room()), Name: name}, nil
}

// one runs a command that takes a name and nothing else.
func (l *legacy) one(ctx context.Context, word, args string, command func(string) parley.Command, done string) (string, error) {
	name, rest := cutWord(args)
	if name == "" || strings.TrimSpace(rest) != "" {
		return fmt.Sprintf("Cannot %s: say %s NAME; a name has no spaces", word, word), nil
	}
	if trouble, err := l.run(ctx, command(name)); trouble != "" || err != nil {
		return fmt.Sprintf("Cannot %s %s: %s", word, name, trouble), err
	}
	return fmt.Sprintf(done, name), nil
}

// create creates a user: NAME, and where the cluster wants them, PASSWORD and CODE.
func (l *legacy) create(ctx context.Context, args string) (string, error) {
	words := strings.Fields(args)
	if len(words) < 2 {
		return l.one(ctx, "create", args, func(u string) parley.Command { return parley.CreateUser{Name: u} }, "User %s created")
	}
	r, err := l.g.get(ctx, parley.GetPolicy{})
	if err != nil {
		return "", err
	}
	cmd := parley.CreateUser{Name: words[0], Password: parley.Secret(words[1])}
	switch invite := r.Policy.Registration == parley.RegistrationInvite; {
	case r.Policy.Auth == parley.AuthOpen && !invite:
		return "Cannot create: say create NAME; a name has no spaces", nil
	case len(words) == 3 && invite:
		cmd.Invite = parley.Secret(words[2])
	case len(words) > 2:
		return "Cannot create: say create NAME PASSWORD, or NAME PASSWORD CODE with an invitation; none of them has spaces here", nil
	}
	if trouble, err := l.run(ctx, cmd); trouble != "" || err != nil {
		return fmt.Sprintf("Cannot create %s: %s", words[0], trouble), err
	}
	return fmt.Sprintf("User %s created", words[0]), nil
}

// send sends everything behind the recipient's name. Nobody is named as the
// sender: a command does not say who types it, and a connection may carry the
// commands of many.
func (l *legacy) send(ctx context.Context, args string) (string, error) {
	to, text := cutWord(args)
	if to == "" || text == "" {
		return "Cannot send: say send NAME TEXT", nil
	}
	if trouble, err := l.run(ctx, parley.Send{To: to, Body: text}); trouble != "" || err != nil {
		return fmt.Sprintf("Cannot send to %s: %s", to, trouble), err
	}
	return "Message sent to " + to, nil
}

// connect looks whether there is such a user. There is nothing to connect: the
// client asks for mail by name. With a password, what comes over the same
// connection afterwards is in that user's name, unless its metadata say otherwise.
func (l *legacy) connect(ctx context.Context, args string) (message, name string, err error) {
	name, rest := cutWord(args)
	password := strings.TrimSpace(rest)
	if name == "" || strings.ContainsAny(password, " \t") {
		return "Cannot connect: say connect NAME, or connect NAME PASSWORD; neither has spaces", "", nil
	}
	if password != "" {
		who, err := l.g.callers.login(ctx, parley.Credentials{User: name, Password: parley.Secret(password)})
		switch {
		case reasonOf(err) == reason(parley.CodeUnauthenticated), reasonOf(err) == reason(parley.CodeUnsupported):
			return fmt.Sprintf("Cannot connect as %s: the user or the password is wrong", name), "", nil
		case err != nil:
			return "", "", err
		}
		callOf(ctx).caller = who
		connOf(ctx).set(who)
	}
	r, err := l.g.get(ctx, parley.Inbox{User: name, Limit: -1})
	if trouble, err := l.trouble(r, err); trouble != "" || err != nil {
		return fmt.Sprintf("Cannot connect as %s: %s", name, trouble), "", err
	}
	return "Connection successful for user " + name, name, nil
}

// list returns the names that match, one per line, as many as there is room for.
func (l *legacy) list(ctx context.Context, args string) (string, error) {
	const more = "\n(and more: say list PATTERN for some of them)"
	q := parley.Users{Pattern: strings.TrimSpace(args)}
	var names strings.Builder
	for {
		r, err := l.g.get(ctx, q)
		if trouble, err := l.trouble(r, err); trouble != "" || err != nil {
			return "Cannot list: " + trouble, err
		}
		for _, name := range r.Names {
			if names.Len()+1+len(name)+len(more) > l.room() {
				return names.String() + more, nil
			}
			if names.Len() > 0 {
				names.WriteByte('\n')
			}
			names.WriteString(name)
		}
		if !r.More || len(r.Names) == 0 {
			return names.String(), nil
		}
		q.After = r.Names[len(r.Names)-1]
	}
}

// run runs a command once. It returns what is wrong in words, or a status if
// there is no answer.
func (l *legacy) run(ctx context.Context, c parley.Command) (trouble string, err error) {
	return l.trouble(l.g.do(ctx, c, nil))
}

// trouble takes what can be said in words out of a status.
func (l *legacy) trouble(r parley.Result, err error) (string, error) {
	switch {
	case err == nil:
		return "", nil
	case r.Code == parley.CodeOK:
		return "", err // there is no answer
	case r.Detail != "":
		return r.Code.String() + ": " + r.Detail, nil
	}
	return r.Code.String(), nil
}

// cutWord takes the first word off a line, and the one space behind it.
func cutWord(line string) (word, rest string) {
	line = strings.TrimLeft(line, " \t")
	if i := strings.IndexAny(line, " \t"); i >= 0 {
		return line[:i], line[i+1:]
	}
	return line, ""
}

// room is how many bytes the text of a response may have. It fits into what HTTP/2
// lets be sent before the client has said anything.
func (l *legacy) room() int { return min(60<<10, l.g.cfg.MaxFrame-512) }
