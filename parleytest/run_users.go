package parleytest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/parley-chat/parley"
)

func checkCreate(s *suite) {
	name, first := s.create("u")
	s.want(parley.CodeNameTaken, parley.CreateUser{Name: name})
	if _, second := s.create("v"); second <= first {
		s.Errorf("incarnation %d of a later user is not above %d", second, first)
	}
	r := s.inbox(name)
	if len(r.Messages) != 0 || r.Unread != 0 || r.More || r.Cursor != (parley.Cursor{Incarnation: first}) {
		s.Errorf("inbox of a new user: %+v", r)
	}
}

func checkBadNames(s *suite) {
	for _, name := range []string{
		"", s.name("a,b"), s.name("a b"), s.name("a\x00b"), s.name("a\n"), s.name("a\xff"), s.name("a\u202eb"), s.name("a\u200bb"),
		s.prefix + strings.Repeat("x", 65-len(s.prefix)),
		s.prefix + strings.Repeat("é", (66-len(s.prefix))/2),
	} {
		s.want(parley.CodeBadName, parley.CreateUser{Name: name})
		// Nobody can bear such a name.
		s.want(parley.CodeNoSuchUser, parley.DeleteUser{Name: name})
		s.want(parley.CodeNoSuchUser, parley.Send{To: name, Body: "b"})
		s.want(parley.CodeNoSuchUser, parley.Ack{User: name})
		s.checkCode(s.get(parley.Inbox{User: name}), parley.CodeNoSuchUser, name)
	}
	longest := s.prefix + strings.Repeat("x", 64-len(s.prefix))
	s.ok(parley.CreateUser{Name: longest})
	if got := s.list("x$"); !slices.Equal(got, []string{longest}) {
		s.Errorf("listed %q, want the name of 64 bytes", got)
	}
}

func checkNamesIgnoreCase(s *suite) {
	for _, names := range [][]string{
		{"Alice", "alice", "ALICE", "ＡＬＩＣＥ"},   // the last in full width
		{"Ünal", "ünal", "ÜNAL", "U\u0308nal"}, // the last decomposed
		{"Ольга", "ольга", "ОЛЬГА"},
	} {
		shown := s.name(names[0])
		created := s.ok(parley.CreateUser{Name: shown})
		for i, other := range names[1:] {
			other = s.name(other)
			s.want(parley.CodeNameTaken, parley.CreateUser{Name: other})
			s.ok(parley.Send{To: other, Body: other})
			r := s.inbox(other)
			if len(r.Messages) != 1 || r.Messages[0].Body != other || r.Cursor.Incarnation != created.Incarnation {
				s.Errorf("inbox of %q as %q: %+v", shown, other, r)
			}
			s.ok(parley.Ack{User: other, UpTo: parley.Cursor{ID: parley.MessageID(i + 1)}})
			if r := s.inbox(shown); r.Unread != 0 {
				s.Errorf("acknowledged as %q, yet %q has %d unread", other, shown, r.Unread)
			}
		}
		if got := s.list(names[0]); !slices.Equal(got, []string{shown}) {
			s.Errorf("listed %q, want %q as created", got, shown)
		}
		s.ok(parley.DeleteUser{Name: s.name(names[1])})
		s.want(parley.CodeNoSuchUser, parley.DeleteUser{Name: shown})
	}
}

func checkDelete(s *suite) {
	name, _ := s.create("u")
	s.send(name, 3)
	s.ok(parley.DeleteUser{Name: name})
	s.want(parley.CodeNoSuchUser, parley.DeleteUser{Name: name})
	s.want(parley.CodeNoSuchUser, parley.Send{To: name, Body: "b"})
	s.want(parley.CodeNoSuchUser, parley.Ack{User: name, UpTo: parley.Cursor{ID: 1}})
	s.checkCode(s.get(parley.Inbox{User: name}), parley.CodeNoSuchUser, name)
	if got := s.list(""); len(got) != 0 {
		s.Errorf("listed after the deletion: %q", got)
	}
}

func checkRecreate(s *suite) {
	name, former := s.create("u")
	s.send(name, 3)
	s.ok(parley.DeleteUser{Name: name})
	_, born := s.create("u")
	if born <= former {
		s.Fatalf("re-created with incarnation %d after %d", born, former)
	}
	if r := s.inbox(name); len(r.Messages) != 0 || r.Unread != 0 || r.Cursor != (parley.Cursor{Incarnation: born}) {
		s.Errorf("inbox after re-creation: %+v", r)
	}
	if r := s.ok(parley.Send{To: name, Body: "new"}); r.Message != 1 {
		s.Errorf("the first message got number %d", r.Message)
	}
	s.ok(parley.Ack{User: name, UpTo: parley.Cursor{Incarnation: former, ID: 3}}) // means somebody else
	of := parley.Inbox{User: name, After: parley.Cursor{Incarnation: former, ID: 1}}
	s.checkCode(s.get(of), parley.CodeNoSuchUser, of)
	if r := s.inbox(name); r.Unread != 1 || len(r.Messages) != 1 || r.Messages[0].Body != "new" {
		s.Errorf("after an ack for the former user: %+v", r)
	}
}

// list returns the names of this check's users that match a pattern behind the
// prefix, from as many pages as it takes.
func (s *suite) list(pattern string) []string {
	s.Helper()
	return s.pages(parley.Users{Pattern: "^" + s.prefix + ".*" + pattern})
}

func (s *suite) pages(q parley.Users) []string {
	s.Helper()
	var names []string
	for {
		r := s.get(q)
		s.checkCode(r, parley.CodeOK, q)
		if q.Limit > 0 && len(r.Names) > q.Limit {
			s.Fatalf("%d names although the limit is %d", len(r.Names), q.Limit)
		}
		names = append(names, r.Names...)
		if !r.More {
			return names
		}
		if len(r.Names) == 0 {
			s.Fatalf("%+v: more, but nothing to go on with", q)
		}
		q.After = r.Names[len(r.Names)-1]
	}
}

func checkUsersPages(s *suite) {
	var want []string
	for i := range 7 {
		want = append(want, s.name(fmt.Sprintf("%c", 'p'+i)))
	}
	want[3] = s.name("S") // sorts between r and t
	for _, i := range []int{4, 0, 6, 3, 1, 5, 2} {
		s.ok(parley.CreateUser{Name: want[i]})
	}
	for _, limit := range []int{0, 1, 2, 3, 6, 7, 8, 1 << 30} {
		q := parley.Users{Pattern: "^" + s.prefix, Limit: limit}
		if got := s.pages(q); !slices.Equal(got, want) {
			s.Errorf("pages of %d: %q, want %q", limit, got, want)
		}
	}
	whole := s.get(parley.Users{Pattern: "^" + s.prefix, Limit: 7})
	if whole.More {
		s.Error("a page with the last name says that there is more")
	}
	// The place to go on from need not exist (any more), and its case does not matter.
	s.ok(parley.DeleteUser{Name: want[2]})
	for _, after := range []string{want[2], strings.ToUpper(want[2])} {
		r := s.get(parley.Users{Pattern: "^" + s.prefix, After: after})
		if !slices.Equal(r.Names, want[3:]) {
			s.Errorf("after %q: %q, want %q", after, r.Names, want[3:])
		}
	}
	all := s.pages(parley.Users{Limit: 100})
	for _, name := range slices.Delete(want, 2, 3) {
		if !slices.Contains(all, name) {
			s.Errorf("%q is missing from the list of all", name)
		}
	}
}

func checkUsersPattern(s *suite) {
	a, b := s.name("ab1"), s.name("ab22")
	s.ok(parley.CreateUser{Name: a})
	s.ok(parley.CreateUser{Name: b})
	for pattern, want := range map[string][]string{
		s.prefix:                 {a, b},
		s.prefix[1:] + "ab":      {a, b},
		s.prefix + "a.*2$":       {b},
		s.prefix + "ab[0-9]{1}$": {a},
		s.prefix + "AB":          nil,
		"(?i)" + s.prefix + "AB": {a, b},
		s.prefix + "$":           nil,
	} {
		if got := s.pages(parley.Users{Pattern: pattern}); !slices.Equal(got, want) {
			s.Errorf("pattern %q: %q, want %q", pattern, got, want)
		}
	}
	for _, pattern := range []string{"(", "[", "*", "a{2,1}", `(?<=a)b`, `\1`, "\xff"} {
		q := parley.Users{Pattern: pattern}
		s.checkCode(s.get(q), parley.CodeBadPattern, q)
	}
}

func checkStatus(s *suite) {
	r := s.get(parley.Status{})
	s.checkCode(r, parley.CodeOK, parley.Status{})
	leaders := 0
	for _, m := range r.Members {
		if m.ID == "" {
			s.Errorf("a member without a name: %+v", m)
		}
		if m.Role == parley.RoleLeader {
			leaders++
		}
	}
	if leaders != 1 {
		s.Errorf("%d leaders in %+v", leaders, r.Members)
	}
}
