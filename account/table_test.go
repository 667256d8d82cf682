package account

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/parleytest"
)

// A table says for each command and query, named as in package parley, what each
// actor is answered: + done, L log in, P permission denied, or another code's
// number. What concerns a user concerns ann.
const required = `
                any ann bob snd rd  ful exp rev adm
CreateUser       +   +   +   P   P   +   L   L   +
DeleteUser       L   +   P   P   P   +   L   L   +
Send             L   +   +   +   P   +   L   L   P
Ack              L   +   P   P   +   +   L   L   P
OpenSession      +   +   +   +   +   +   L   L   +
CloseSession     +   +   +   +   +   +   L   L   +
SetPassword      L   +   P   P   P   +   L   L   +
AddToken         L   +   P   P   P   P   P   P   +
RevokeToken      L   +   P   P   P   +   L   L   +
SetPolicy        P   P   P   P   P   P   P   P   +
AddInvite        P   P   P   P   P   P   P   P   +
RevokeInvite     P   P   P   P   P   P   P   P   18
StoreUser        P   P   P   P   P   P   P   P   P
StorePassword    P   P   P   P   P   P   P   P   P
Users            L   +   +   P   +   +   L   L   +
Inbox            L   +   P   P   +   +   L   L   P
Status           L   +   +   +   +   +   L   L   +
GetPolicy        +   +   +   +   +   +   +   +   +
Tokens           L   +   P   P   P   +   L   L   +
Invites          P   P   P   P   P   P   P   P   +
Watch            L   +   P   P   +   +   L   L   P
`

// open is the same for a cluster that is open, about a user that has no password:
// nobody can have logged in as that user, and everybody may be that user.
const open = `
                any bob adm
CreateUser       +   +   +
DeleteUser       +   +   +
Send             +   +   P
Ack              +   +   P
OpenSession      +   +   +
CloseSession     +   +   +
SetPassword      +   +   +
AddToken         L   P   14
RevokeToken      +   +   +
SetPolicy        P   P   +
AddInvite        P   P   +
RevokeInvite     P   P   18
StoreUser        P   P   P
StorePassword    P   P   P
Users            +   +   +
Inbox            +   +   P
Status           +   +   +
GetPolicy        +   +   +
Tokens           L   P   +
Invites          P   P   +
Watch            +   +   P
`

// openOwned is the same about ann, who has a password: as if it were required.
const openOwned = `
                any ann bob snd rd  ful exp rev adm
CreateUser       +   +   +   P   P   +   L   L   +
DeleteUser       L   +   P   P   P   +   L   L   +
Send             +   +   +   +   P   +   L   L   P
Ack              L   +   P   P   +   +   L   L   P
OpenSession      +   +   +   +   +   +   L   L   +
CloseSession     +   +   +   +   +   +   L   L   +
SetPassword      L   +   P   P   P   +   L   L   +
AddToken         L   +   P   P   P   P   P   P   +
RevokeToken      L   +   P   P   P   +   L   L   +
SetPolicy        P   P   P   P   P   P   P   P   +
AddInvite        P   P   P   P   P   P   P   P   +
RevokeInvite     P   P   P   P   P   P   P   P   18
StoreUser        P   P   P   P   P   P   P   P   P
StorePassword    P   P   P   P   P   P   P   P   P
Users            +   +   +   P   +   +   L   L   +
Inbox            L   +   P   P   +   +   L   L   P
Status           +   +   +   +   +   +   L   L   +
GetPolicy        +   +   +   +   +   +   +   +   +
Tokens           L   +   P   P   P   +   L   L   +
Invites          P   P   P   P   P   P   P   P   +
Watch            L   +   P   P   +   +   L   L   P
`

// vocabulary lists what package parley has of commands and queries.
func vocabulary(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../*.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if ok && f.Recv != nil && (f.Name.Name == "command" || f.Name.Name == "query") {
				names = append(names, fmt.Sprint(f.Recv.List[0].Type))
			}
		}
	}
	if len(names) < 20 {
		t.Fatalf("only %d commands and queries found", len(names))
	}
	return append(names, "Watch")
}

// table reads a table.
func table(t *testing.T, text string) (columns []string, rows map[string][]string) {
	t.Helper()
	rows = make(map[string][]string)
	for i, line := range strings.Split(strings.TrimSpace(text), "\n") {
		f := strings.Fields(line)
		if i == 0 {
			columns = f
		} else if rows[f[0]] = f[1:]; len(f)-1 != len(columns) {
			t.Fatalf("%q has %d cells, want %d", line, len(f)-1, len(columns))
		}
	}
	for _, name := range vocabulary(t) {
		if rows[name] == nil {
			t.Errorf("%s: who may do that? Say it in the tables", name)
		}
	}
	return columns, rows
}

// stage is a cluster with the actors of the tables. Each cell gets a new one.
type stage struct {
	t     *testing.T
	ctx   context.Context
	fake  *parleytest.Fake
	guard *Guard
	as    map[string]parley.Service
	creds map[string]parley.Credentials // what the columns have logged in with
	about string                        // whom commands concern
}

const annsPassword, bobsPassword = "ann's password", "bob's password"

func newStage(t *testing.T, policy parley.Policy, about string) *stage {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	fake := parleytest.NewFake()
	t.Cleanup(func() { cancel(); fake.Close() })
	s := &stage{t: t, ctx: ctx, fake: fake, guard: quick(Config{Cluster: fake}), about: about}
	admin := s.guard.Admin()
	s.as = map[string]parley.Service{"any": s.guard.Anybody(), "adm": admin}
	s.creds = make(map[string]parley.Credentials)
	for name, password := range map[string]parley.Secret{"ann": annsPassword, "bob": bobsPassword, "guest": ""} {
		s.must(admin, parley.CreateUser{Name: name, Password: password})
		if password != "" {
			s.creds[name] = parley.Credentials{User: name, Password: password}
			s.as[name] = s.login(s.creds[name])
		}
	}
	for column, token := range map[string]parley.Token{
		"snd": {Scope: parley.ScopeSend}, "rd": {Scope: parley.ScopeRead}, "ful": {}, "rev": {},
		"exp": {Expires: time.Now().Add(time.Hour)},
	} {
		var text parley.Secret
		text, token.Hash = parley.NewToken("ann")
		s.must(s.as["ann"], parley.AddToken{User: "ann", Token: token})
		s.creds[column] = parley.Credentials{Token: text}
		s.as[column] = s.login(s.creds[column])
		if column == "rev" {
			s.must(admin, parley.RevokeToken{User: "ann", ID: token.Hash.ID()})
		}
	}
	later := time.Now().Add(time.Hour)
	fake.Now = func() time.Time { return later }
	s.as["exp"].(*service).expires = time.Now() // this node's clock
	s.must(admin, parley.SetPolicy{Policy: policy})
	return s
}

// quick is a guard that spends no more on passwords than it must.
func quick(cfg Config) *Guard {
	cfg.Sweep = 10 * time.Millisecond
	g := New(cfg)
	g.hasher.params = Params{Memory: 8, Passes: 1}
	g.cfg.Params = g.hasher.params
	return g
}

func (s *stage) login(c parley.Credentials) parley.Service {
	s.t.Helper()
	svc, _, err := s.guard.Login(s.ctx, c)
	if err != nil {
		s.t.Fatalf("login %q: %v", c.User, err)
	}
	return svc
}

func (s *stage) must(svc parley.Service, c parley.Command) parley.Result {
	s.t.Helper()
	r, err := parley.Do(s.ctx, svc, parley.Request{Command: c})
	if err != nil || r.Code != parley.CodeOK {
		s.t.Fatalf("%T: %+v, %v", c, r, err)
	}
	return r
}

// try does what a row is about, and returns the code that comes of it.
func (s *stage) try(svc parley.Service, row string) parley.Code {
	s.t.Helper()
	var r parley.Result
	var err error
	if c := s.command(svc, row); c != nil {
		r, err = parley.Do(s.ctx, svc, parley.Request{Command: c})
	} else if q := s.query(row); q != nil {
		r, err = svc.Get(s.ctx, q)
	} else {
		s.must(s.as["bob"], parley.Send{To: s.about, Body: "hello"})
		for _, err = range svc.Watch(s.ctx, s.about, parley.Cursor{}) {
			break
		}
		return parley.CodeOf(err)
	}
	if err != nil {
		s.t.Fatalf("%s: %v", row, err)
	}
	return r.Code
}

func (s *stage) command(svc parley.Service, row string) parley.Command {
	_, hash := parley.NewToken(s.about)
	switch row {
	case "CreateUser":
		return parley.CreateUser{Name: "new", Password: "a new password"}
	case "DeleteUser":
		return parley.DeleteUser{Name: s.about}
	case "Send":
		return parley.Send{To: "bob", Body: "hello"}
	case "Ack":
		return parley.Ack{User: s.about, UpTo: parley.Cursor{ID: 1}}
	case "OpenSession":
		return parley.OpenSession{}
	case "CloseSession":
		r, err := parley.Do(s.ctx, svc, parley.Request{Command: parley.OpenSession{}})
		if err != nil {
			s.t.Fatal(err)
		}
		return parley.CloseSession{Session: r.Session}
	case "SetPassword":
		return parley.SetPassword{User: s.about, Current: annsPassword, New: "a new password"}
	case "AddToken":
		return parley.AddToken{User: s.about, Token: parley.Token{Hash: hash}}
	case "RevokeToken":
		return parley.RevokeToken{User: s.about}
	case "SetPolicy":
		return parley.SetPolicy{}
	case "AddInvite":
		return parley.AddInvite{Invite: parley.Invite{Hash: hash}}
	case "RevokeInvite":
		return parley.RevokeInvite{ID: 7}
	case "StoreUser":
		return parley.StoreUser{Name: "new", Verifier: "x"}
	case "StorePassword":
		return parley.StorePassword{User: s.about, Verifier: "x"}
	}
	return nil
}

func (s *stage) query(row string) parley.Query {
	switch row {
	case "Users":
		return parley.Users{}
	case "Inbox":
		return parley.Inbox{User: s.about}
	case "Status":
		return parley.Status{}
	case "GetPolicy":
		return parley.GetPolicy{}
	case "Tokens":
		return parley.Tokens{User: s.about}
	case "Invites":
		return parley.Invites{}
	}
	return nil
}

// TestWhoMayDoWhat goes through the tables, and needs a row for each command and
// query that there is.
func TestWhoMayDoWhat(t *testing.T) {
	for _, c := range []struct {
		name, text, about string
		policy            parley.Policy
	}{
		{"required", required, "ann", parley.Policy{Auth: parley.AuthRequired}},
		{"open", open, "guest", parley.Policy{}},
		{"open, a user with a password", openOwned, "ann", parley.Policy{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			columns, rows := table(t, c.text)
			for row, cells := range rows {
				if !slices.Contains(vocabulary(t), row) {
					t.Errorf("there is no %s any more", row)
				}
				for i, want := range cells {
					s := newStage(t, c.policy, c.about)
					if got := cell(s.try(s.as[columns[i]], row)); got != want {
						t.Errorf("%s by %s: %s, want %s", row, columns[i], got, want)
					}
				}
			}
		})
	}
}

// cell is a code as the tables have it.
func cell(c parley.Code) string {
	switch c {
	case parley.CodeOK:
		return "+"
	case parley.CodeUnauthenticated:
		return "L"
	case parley.CodePermissionDenied:
		return "P"
	}
	return fmt.Sprint(uint16(c))
}
