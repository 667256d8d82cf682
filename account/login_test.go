package account

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/fair"
	"github.com/parley-chat/parley/parleytest"
)

// TestUnknownUserLooksLikeWrongPassword in text. In time they do the same work:
// TestSameWork.
func TestUnknownUserLooksLikeWrongPassword(t *testing.T) {
	s := newStage(t, parley.Policy{Auth: parley.AuthRequired}, "ann")
	var texts []string
	for _, c := range []parley.Credentials{
		{User: "ann", Password: "wrong"}, {User: "nobody", Password: "wrong"}, {User: "guest", Password: "wrong"},
		{User: "ann"}, {User: "nobody"}, {User: "guest"}, {User: "a,b", Password: "wrong"},
		{Token: "parley_x"}, {Token: someToken("ann")}, {Token: someToken("nobody")},
	} {
		svc, _, err := s.guard.Login(s.ctx, c)
		if svc != nil || parley.CodeOf(err) != parley.CodeUnauthenticated {
			t.Errorf("%q: %v, %v", c.User, svc, err)
		}
		texts = append(texts, fmt.Sprint(err))
	}
	for _, text := range texts {
		if text != texts[0] {
			t.Errorf("%q and %q can be told apart", text, texts[0])
		}
	}
}

func someToken(user string) parley.Secret {
	text, _ := parley.NewToken(user)
	return text
}

// TestSameWork: as many hashes, and as many questions to the cluster, whether
// there is such a user or not.
func TestSameWork(t *testing.T) {
	s := newStage(t, parley.Policy{Auth: parley.AuthRequired}, "ann")
	work := func(user string) (asked int) {
		s.fake.OnGet(func(parley.Query) error { asked++; return nil })
		defer s.fake.OnGet(nil)
		if _, _, err := s.guard.Login(s.ctx, parley.Credentials{User: user, Password: "wrong"}); err == nil {
			t.Error("a wrong password is taken")
		}
		return asked
	}
	if a, n, g := work("ann"), work("nobody"), work("guest"); a != n || a != g {
		t.Errorf("questions to the cluster: %d, %d, %d", a, n, g)
	}
	h := s.guard.hasher
	for _, verifier := range []string{"", h.dummy} { // both are hashed: an ended context is noticed
		h.slots = make(chan struct{}) // never free
		ctx, cancel := context.WithCancel(s.ctx)
		cancel()
		if _, err := h.verify(ctx, verifier, "x"); parley.CodeOf(err) != parley.CodeOverloaded {
			t.Errorf("verifier %q: %v", verifier, err)
		}
	}
}

func TestToken(t *testing.T) {
	s := newStage(t, parley.Policy{Auth: parley.AuthRequired}, "ann")
	text, hash := parley.NewToken("ann")
	s.must(s.as["ann"], parley.AddToken{User: "ann", Token: parley.Token{Hash: hash, Label: "pager"}})
	_, id, err := s.guard.Login(s.ctx, parley.Credentials{Token: text})
	if err != nil || id.User != "ann" || id.Incarnation == 0 {
		t.Errorf("%+v, %v", id, err)
	}
	if _, _, err := s.guard.Login(s.ctx, parley.Credentials{User: "ANN", Token: text}); err != nil {
		t.Errorf("with the user's name: %v", err)
	}
	if _, _, err := s.guard.Login(s.ctx, parley.Credentials{User: "bob", Token: text}); parley.CodeOf(err) != parley.CodeUnauthenticated {
		t.Errorf("with another's name: %v", err)
	}
	r, err := s.as["ann"].Get(s.ctx, parley.Tokens{User: "ann"})
	if err != nil || len(r.Tokens) < 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, tok := range r.Tokens {
		if !bytes.Equal(tok.Hash[8:], make([]byte, 24)) {
			t.Error("a hash is shown")
		}
	}
}

// TestSenderCannotBeForged by somebody who is logged in.
func TestSenderCannotBeForged(t *testing.T) {
	for _, mode := range []parley.AuthMode{parley.AuthRequired, parley.AuthOpen} {
		s := newStage(t, parley.Policy{Auth: mode}, "ann")
		for _, from := range []string{"bob", "", "ann\u200b", "guest"} {
			s.must(s.as["ann"], parley.Send{From: from, To: "bob", Body: "x"})
		}
		r, err := s.as["bob"].Get(s.ctx, parley.Inbox{User: "bob"})
		if err != nil || len(r.Messages) != 4 {
			t.Fatalf("%+v, %v", r, err)
		}
		for _, m := range r.Messages {
			if m.From != "ann" {
				t.Errorf("%v: from %q", mode, m.From)
			}
		}
	}
	s := newStage(t, parley.Policy{}, "ann")
	for _, from := range []string{"ann", "ANN"} {
		r, err := parley.Do(s.ctx, s.as["any"], parley.Request{Command: parley.Send{From: from, To: "bob"}})
		if err != nil || r.Code != parley.CodeUnauthenticated {
			t.Errorf("anybody as %s: %+v, %v", from, r, err)
		}
	}
}

// TestLoginEnds when what it was by does, for commands, queries and watches.
func TestLoginEnds(t *testing.T) {
	for name, c := range map[string]struct {
		as  string
		end func(*stage)
	}{
		"password changed": {"ann", func(s *stage) {
			s.must(s.as["ann"], parley.SetPassword{User: "ann", Current: annsPassword, New: "a new password"})
		}},
		"password set by an administrator": {"ann", func(s *stage) {
			s.must(s.as["adm"], parley.SetPassword{User: "ann", New: "a new password"})
		}},
		"token revoked": {"ful", func(s *stage) { s.must(s.as["ann"], parley.RevokeToken{User: "ann"}) }},
		"deleted":       {"ann", func(s *stage) { s.must(s.as["adm"], parley.DeleteUser{Name: "ann"}) }},
		"deleted and created again": {"ann", func(s *stage) {
			s.must(s.as["adm"], parley.DeleteUser{Name: "ann"})
			s.must(s.as["adm"], parley.CreateUser{Name: "ann", Password: annsPassword})
			s.must(s.as["bob"], parley.Send{To: "ann", Body: "for the new one"})
		}},
		"token, and created again": {"ful", func(s *stage) {
			s.must(s.as["adm"], parley.DeleteUser{Name: "ann"})
			s.must(s.as["adm"], parley.CreateUser{Name: "ann", Password: annsPassword})
		}},
		"auth required": {"any", func(s *stage) {
			s.must(s.as["adm"], parley.SetPolicy{Policy: parley.Policy{Auth: parley.AuthRequired}})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			user := "ann"
			if c.as == "any" {
				user = "guest"
			}
			s := newStage(t, parley.Policy{}, user)
			svc := s.as[c.as]
			ended := make(chan error, 1)
			go func() {
				for m, err := range svc.Watch(s.ctx, user, parley.Cursor{}) {
					if err != nil {
						ended <- err
						return
					}
					t.Errorf("watched: %+v", m)
				}
			}()
			for s.fake.Watches() == 0 { // what is to end must have begun
				if s.ctx.Err() != nil {
					t.Fatal("the watch does not begin")
				}
				time.Sleep(time.Millisecond)
			}
			c.end(s)
			select {
			case err := <-ended:
				if code := parley.CodeOf(err); code != parley.CodeUnauthenticated && code != parley.CodeNoSuchUser {
					t.Errorf("the watch ended with %v", err)
				}
			case <-s.ctx.Done():
				t.Error("the watch goes on")
			}
			for _, row := range []string{"Send", "Ack", "DeleteUser", "Inbox", "Users", "Status", "Watch"} {
				if row == "Watch" && (c.as == "any" || name == "deleted") { // nobody can send to whoever it is
					continue
				}
				if got := s.try(svc, row); got != parley.CodeUnauthenticated {
					t.Errorf("%s: %v", row, got)
				}
			}
		})
	}
}

// TestWatchShowsNothingAfterwards: between the end of a login and the end of its
// watch, no message is shown.
func TestWatchShowsNothingAfterwards(t *testing.T) {
	s := newStage(t, parley.Policy{Auth: parley.AuthRequired}, "ann")
	s.guard.cfg.Sweep = time.Hour
	s.must(s.as["bob"], parley.Send{To: "ann", Body: "one"})
	n := 0
	for m, err := range s.as["ann"].Watch(s.ctx, "ann", parley.Cursor{}) {
		if n++; n == 1 {
			if err != nil {
				t.Fatal(err)
			}
			s.must(s.as["adm"], parley.SetPassword{User: "ann", New: "a new password"})
			s.must(s.as["bob"], parley.Send{To: "ann", Body: "two"})
			continue
		}
		if parley.CodeOf(err) != parley.CodeUnauthenticated {
			t.Errorf("shown: %+v, %v", m, err)
		}
	}
	if n != 2 {
		t.Errorf("%d yields", n)
	}
}

// TestSetPasswordAgain: a numbered change of a password that is started again,
// because its answer was lost, is answered as the first time.
func TestSetPasswordAgain(t *testing.T) {
	s := newStage(t, parley.Policy{Auth: parley.AuthRequired}, "ann")
	id := s.must(s.as["ann"], parley.OpenSession{}).Session
	r := parley.Request{Session: id, Seq: 1, Command: parley.SetPassword{User: "ann", Current: annsPassword, New: "a new password"}}
	for range 2 {
		if res, err := parley.Do(s.ctx, s.as["ann"], r); err != nil || res.Code != parley.CodeOK {
			t.Errorf("%+v, %v", res, err)
		}
	}
	s.login(parley.Credentials{User: "ann", Password: "a new password"})
	ann := s.login(parley.Credentials{User: "ann", Password: "a new password"})
	wrong := parley.Request{Session: id, Seq: 2, Answered: 1, Command: parley.SetPassword{User: "ann", Current: annsPassword, New: "another password"}}
	if res, err := parley.Do(s.ctx, ann, wrong); err != nil || res.Code != parley.CodeUnauthenticated {
		t.Errorf("with a wrong password: %+v, %v", res, err)
	}
	s.login(parley.Credentials{User: "ann", Password: "a new password"})
}

func TestBadPasswords(t *testing.T) {
	s := newStage(t, parley.Policy{}, "ann")
	for name, password := range map[string]parley.Secret{
		"short": "1234567", "long": parley.Secret(strings.Repeat("x", 257)), "control": "secret\x00secret", "no UTF-8": "secret\xffsecret",
	} {
		r, err := parley.Do(s.ctx, s.as["any"], parley.Request{Command: parley.CreateUser{Name: "new", Password: password}})
		if err != nil || r.Code != parley.CodeBadPassword || strings.Contains(r.Detail, string(password)) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	// Two ways to type the same.
	s.must(s.as["any"], parley.CreateUser{Name: "zoe", Password: "Zoe\u0308 secret"})
	s.login(parley.Credentials{User: "zoe", Password: "Zo\u00eb secret"})
}

// TestRehash: a password that was hashed under other parameters is hashed anew
// when it is used, and what is logged in stays so.
func TestRehash(t *testing.T) {
	s := newStage(t, parley.Policy{Auth: parley.AuthRequired}, "ann")
	before, _ := s.fake.Account("ann")
	s.guard.hasher.params = Params{Memory: 16, Passes: 1}
	s.guard.cfg.Params = s.guard.hasher.params
	s.guard.known = newKnown()
	s.login(parley.Credentials{User: "ann", Password: annsPassword})
	after, _ := s.fake.Account("ann")
	if !strings.Contains(after.Verifier, "$m=16,t=1,p=1$") || after.Changed != before.Changed {
		t.Errorf("%+v", after)
	}
	if got := s.try(s.as["ann"], "Inbox"); got != parley.CodeOK {
		t.Errorf("who was logged in: %v", got)
	}
	s.login(parley.Credentials{User: "ann", Password: annsPassword})
}

// TestFailuresSlowDown logins from the same address and for the same account, and
// nobody else; and never for longer than MaxDelay.
func TestFailuresSlowDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := parleytest.NewFake()
		g := quick(Config{Cluster: fake})
		ctx := context.Background()
		if _, err := parley.Do(ctx, g.Admin(), parley.Request{Command: parley.CreateUser{Name: "ann", Password: annsPassword}}); err != nil {
			t.Fatal(err)
		}
		took := func(c parley.Credentials) time.Duration {
			start := time.Now()
			_, _, _ = g.Login(ctx, c)
			return time.Since(start)
		}
		wrong := parley.Credentials{User: "ann", Password: "wrong", Address: "10.0.0.1"}
		var last time.Duration
		for i := range 40 {
			d := took(wrong)
			if d < last || d > g.cfg.MaxDelay || i < free && d != 0 {
				t.Errorf("try %d took %v, the one before %v", i, d, last)
			}
			last = d
		}
		if last != g.cfg.MaxDelay {
			t.Errorf("after many failures: %v", last)
		}
		if got := took(parley.Credentials{User: "Ann", Password: annsPassword, Address: "10.0.0.2"}); got != g.cfg.MaxDelay {
			t.Errorf("the same account: %v", got)
		}
		if got := took(parley.Credentials{User: "bob", Password: "x", Address: "10.0.0.1"}); got != g.cfg.MaxDelay {
			t.Errorf("the same address: %v", got)
		}
		if got := took(parley.Credentials{User: "cy", Password: "x", Address: "10.0.0.3"}); got != 0 {
			t.Errorf("another address and account: %v", got)
		}
		time.Sleep(g.cfg.Forget + time.Second)
		if got := took(wrong); got != 0 {
			t.Errorf("after %v: %v", g.cfg.Forget, got)
		}
	})
}

// TestManyLogins: no more are hashed at a time than may, and no more wait.
func TestManyLogins(t *testing.T) {
	h := newHasher(Config{Hashes: 1, MaxWaiting: 2, Params: Params{Memory: 8, Passes: 1}})
	h.slots <- struct{}{} // one is under way
	ctx, cancel := context.WithCancel(context.Background())
	results := make(chan error, 3)
	for range 3 {
		go func() {
			_, err := h.hash(ctx, "x")
			results <- err
		}()
	}
	if err := <-results; parley.CodeOf(err) != parley.CodeOverloaded || ctx.Err() != nil {
		t.Errorf("the third: %v", err)
	}
	cancel()
	for range 2 {
		if err := <-results; parley.CodeOf(err) != parley.CodeOverloaded {
			t.Errorf("given up: %v", err)
		}
	}
	<-h.slots
	if _, err := h.hash(context.Background(), "x"); err != nil {
		t.Error(err)
	}
	f := newFailures(Config{MaxWaiting: 8})
	c := parley.Credentials{User: "ann", Address: "10.0.0.1"}
	for range 2 {
		if _, err := f.enter(context.Background(), c); err != nil {
			t.Error(err)
		}
	}
	if _, err := f.enter(context.Background(), c); parley.CodeOf(err) != parley.CodeOverloaded {
		t.Errorf("more from one address: %v", err)
	}
	f = newFailures(Config{MaxWaiting: 32, MaxDelay: time.Millisecond, Forget: time.Hour})
	for range free + 1 {
		f.add(c)
	}
	for i := range 2 {
		if _, err := f.enter(context.Background(), c); err != nil {
			t.Errorf("login %d from an address with failures: %v", i, err)
		}
	}
	if _, err := f.enter(context.Background(), c); parley.CodeOf(err) != parley.CodeOverloaded {
		t.Errorf("more from an address with failures: %v", err)
	}
	for i := range 8 { // somebody else's failures do not bar the account's owner
		if _, err := f.enter(context.Background(), parley.Credentials{User: "ann", Address: "10.0.0.2"}); err != nil {
			t.Errorf("login %d from another address: %v", i, err)
		}
	}
}

// TestSecretsStaySecret: no password, token or hash in the log, in an error or in
// what is replicated.
func TestSecretsStaySecret(t *testing.T) {
	var log bytes.Buffer
	fake := parleytest.NewFake()
	t.Cleanup(fake.Close)
	var mu sync.Mutex
	fake.OnStart(func(r parley.Request) parleytest.Fault {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(&log, "%#v %+v\n", r, r)
		return parleytest.Fault{}
	})
	g := quick(Config{Cluster: fake, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	ctx := context.Background()
	do := func(svc parley.Service, c parley.Command) {
		r, err := parley.Do(ctx, svc, parley.Request{Command: c})
		fmt.Fprintln(&log, r, err, c)
	}
	const secret = "s3cr3t s3cr3t"
	token, hash := parley.NewToken("ann")
	do(g.Anybody(), parley.CreateUser{Name: "ann", Password: secret})
	ann, id, err := g.Login(ctx, parley.Credentials{User: "ann", Password: secret})
	fmt.Fprintln(&log, id, err)
	do(ann, parley.AddToken{User: "ann", Token: parley.Token{Hash: hash}})
	do(ann, parley.SetPassword{User: "ann", Current: secret, New: secret + " s3cr3t"})
	for _, c := range []parley.Credentials{{User: "ann", Password: secret}, {Token: token}, {Token: token + "x"}} {
		_, id, err := g.Login(ctx, c)
		fmt.Fprintln(&log, c, id, err)
		g.cfg.Logger.Info("as an attribute", "credentials", c, "secret", c.Token)
	}
	for _, s := range []string{"s3cr3t", string(token), string(token[10:30])} {
		if strings.Contains(log.String(), s) {
			t.Errorf("%q is in\n%s", s, log.String())
		}
	}
	if !strings.Contains(log.String(), "ann") || !strings.Contains(log.String(), "[secret]") {
		t.Error("nothing was logged")
	}
}

// TestKnownPasswordsAreQuick, as long as they are right.
func TestKnownPasswordsAreQuick(t *testing.T) {
	s := newStage(t, parley.Policy{Auth: parley.AuthRequired}, "ann")
	s.guard.hasher.slots = nil // hashing blocks
	s.login(parley.Credentials{User: "ann", Password: annsPassword})
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	if _, _, err := s.guard.Login(ctx, parley.Credentials{User: "ann", Password: "another"}); parley.CodeOf(err) != parley.CodeOverloaded {
		t.Errorf("another password: %v", err)
	}
	s.must(s.as["adm"], parley.DeleteUser{Name: "ann"})
	if _, _, err := s.guard.Login(ctx, parley.Credentials{User: "ann", Password: annsPassword}); err == nil {
		t.Error("the password of a user that is gone")
	}
}

// TestSendsPerUser: beyond so many a second a user's messages are refused as
// overload, with the limit, and no other's.
func TestSendsPerUser(t *testing.T) {
	s := newStage(t, parley.Policy{}, "ann")
	s.guard.cfg.Sends, s.guard.sends = 1, fair.NewRates[string](1, 1)
	send := func(as string) error {
		_, err := parley.Do(s.ctx, s.as[as], parley.Request{Command: parley.Send{To: "guest", Body: "x"}})
		return err
	}
	var err error
	for range 1000 { // of which a slow machine lets a few through
		if err = send("ann"); err != nil {
			break
		}
	}
	if parley.CodeOf(err) != parley.CodeOverloaded || !strings.Contains(err.Error(), `"ann" sends more than 1 messages a second`) {
		t.Errorf("ann, who floods: %v", err)
	}
	if err := send("bob"); err != nil {
		t.Errorf("bob: %v", err)
	}
}

// TestSessionsPerUser: beyond so many open ones a user is refused another, with the
// limit, over its tokens too; no other is; and one that is closed makes room.
func TestSessionsPerUser(t *testing.T) {
	s := newStage(t, parley.Policy{}, "ann")
	ann, err := s.fake.Account("ann")
	if err != nil {
		t.Fatal(err)
	}
	most := s.fake.SessionsOf(ann.Incarnation) + 2 // the stage has opened some
	s.guard.cfg.Sessions = most
	open := func(as string, want parley.Code) parley.SessionID {
		t.Helper()
		r, err := parley.Do(s.ctx, s.as[as], parley.Request{Command: parley.OpenSession{}})
		if err != nil || r.Code != want {
			t.Fatalf("%s: %+v, %v, want %v", as, r, err, want)
		}
		if want == parley.CodeTooManySessions && !strings.Contains(r.Detail, fmt.Sprint("limit ", most)) {
			t.Errorf("the refusal does not name the limit: %q", r.Detail)
		}
		return r.Session
	}
	first := open("ann", parley.CodeOK)
	open("ful", parley.CodeOK) // ann's, by token
	for _, as := range []string{"ann", "ful", "snd"} {
		open(as, parley.CodeTooManySessions)
	}
	for _, as := range []string{"bob", "any", "any", "any", "adm", "adm", "adm"} {
		open(as, parley.CodeOK)
	}
	if r, err := parley.Do(s.ctx, s.as["ann"], parley.Request{Command: parley.CloseSession{Session: first}}); err != nil || r.Code != parley.CodeOK {
		t.Fatalf("%+v, %v", r, err)
	}
	open("ann", parley.CodeOK)
	open("ann", parley.CodeTooManySessions)
}

func FuzzVerifier(f *testing.F) {
	f.Add("$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$argon2id$v=19$m=8,t=1,p=1$$")
	f.Fuzz(func(t *testing.T, s string) {
		p, salt, key, err := parseVerifier(s)
		if err == nil && formatVerifier(p, salt, key) != s {
			t.Errorf("%q is read and not written again", s)
		}
	})
}

// BenchmarkHash is what a login costs.
func BenchmarkHash(b *testing.B) {
	h := newHasher(Config{Hashes: 1, MaxWaiting: 1, Params: Params{}.withDefaults()})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.hash(context.Background(), "correct horse battery staple"); err != nil {
			b.Fatal(err)
		}
	}
}
