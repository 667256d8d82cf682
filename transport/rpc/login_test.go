package rpc

import (
	"context"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/account"
	"github.com/parley-chat/parley/api/helloworld"
	parleyv1 "github.com/parley-chat/parley/api/parley/v1"
	"github.com/parley-chat/parley/parleytest"
)

// guarded is a world whose gateway has what a node gives it: a guard.
type guarded struct {
	*world
	guard *account.Guard
}

const annsPassword = "ann's password"

// newGuarded has users ann and bob, with passwords, and guest without.
func newGuarded(t *testing.T, policy parley.Policy) *guarded {
	t.Helper()
	fake := parleytest.NewFake()
	t.Cleanup(fake.Close)
	guard := account.New(account.Config{Cluster: fake})
	g := &guarded{newWorld(t, Config{Service: guard.Anybody(), Login: guard.Login}), guard}
	g.fake = fake
	for _, c := range []parley.Command{
		parley.CreateUser{Name: "ann", Password: annsPassword}, parley.CreateUser{Name: "bob", Password: "bob's password"},
		parley.CreateUser{Name: "guest"}, parley.SetPolicy{Policy: policy},
	} {
		g.admin(c)
	}
	return g
}

// admin runs an administrator's command.
func (g *guarded) admin(c parley.Command) {
	g.Helper()
	r, err := parley.Do(g.Context(), g.guard.Admin(), parley.Request{Command: c})
	if err != nil || r.Code != parley.CodeOK {
		g.Fatalf("%T: %+v, %v", c, r, err)
	}
}

func (g *guarded) basic(user, password string) context.Context {
	return g.with("Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

func (g *guarded) with(authorization string) context.Context {
	return metadata.AppendToOutgoingContext(g.ctx, "authorization", authorization)
}

func TestAuthorization(t *testing.T) {
	g := newGuarded(t, parley.Policy{Auth: parley.AuthRequired})
	chat := g.chat()
	token, hash := parley.NewToken("ann")
	g.admin(parley.AddToken{User: "ann", Token: parley.Token{Hash: hash, Scope: parley.ScopeSend}})
	send := func(ctx context.Context) error {
		_, err := chat.Send(ctx, &parleyv1.SendRequest{From: "bob", To: "guest", Body: "x"})
		return err
	}
	for name, ctx := range map[string]context.Context{
		"password": g.basic("ann", annsPassword), "password again": g.basic("ann", annsPassword),
		"token": g.with("Bearer " + string(token)), "in lower case": g.with("bearer " + string(token)),
	} {
		if err := send(ctx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, ctx := range map[string]context.Context{
		"nothing": g.ctx, "wrong password": g.basic("ann", "wrong"), "unknown user": g.basic("nobody", "wrong"),
		"bad token": g.with("Bearer parley_x"), "no kind": g.with(string(token)), "another kind": g.with("Digest x"),
		"no base64": g.with("Basic ???"), "no colon": g.with("Basic " + base64.StdEncoding.EncodeToString([]byte("ann"))),
	} {
		g.want(send(ctx), codes.Unauthenticated, "UNAUTHENTICATED")
		if _, err := chat.ListUsers(ctx, &parleyv1.ListUsersRequest{}); err == nil {
			t.Errorf("%s: users are listed", name)
		}
	}
	_, err := chat.Inbox(g.with("Bearer "+string(token)), &parleyv1.InboxRequest{User: "ann"})
	g.want(err, codes.PermissionDenied, "PERMISSION_DENIED")
	_, err = chat.Inbox(g.basic("bob", "bob's password"), &parleyv1.InboxRequest{User: "ann"})
	g.want(err, codes.PermissionDenied, "PERMISSION_DENIED")
	r, err := g.fake.Get(g.ctx, parley.Inbox{User: "guest"})
	if err != nil || len(r.Messages) != 4 {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, m := range r.Messages {
		if m.From != "ann" {
			t.Errorf("from %q", m.From)
		}
	}

	// What is over is over, and comes to life again with what is valid.
	watch, err := chat.Watch(g.basic("ann", annsPassword), &parleyv1.WatchRequest{User: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	g.admin(parley.RevokeToken{User: "ann"})
	g.admin(parley.SetPassword{User: "ann", New: "another password"})
	_, err = watch.Recv()
	g.want(err, codes.Unauthenticated, "UNAUTHENTICATED")
	g.want(send(g.with("Bearer "+string(token))), codes.Unauthenticated, "UNAUTHENTICATED")
	g.want(send(g.basic("ann", annsPassword)), codes.Unauthenticated, "UNAUTHENTICATED")
	if err := send(g.basic("ann", "another password")); err != nil {
		t.Error(err)
	}
	g.admin(parley.DeleteUser{Name: "ann"})
	g.admin(parley.CreateUser{Name: "ann", Password: "another password"})
	if err := send(g.basic("ann", "another password")); err != nil {
		t.Errorf("the new ann: %v", err)
	}
}

// TestLegacyLogin: connect with a password is for its connection.
func TestLegacyLogin(t *testing.T) {
	g := newGuarded(t, parley.Policy{Auth: parley.AuthRequired})
	conn := g.dial()
	c, other := helloworld.NewChatClient(conn), g.legacy()
	says := func(c helloworld.ChatClient, line, want string) {
		t.Helper()
		if got := g.typed(c, line).GetMessage(); !strings.HasPrefix(got, want) {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
	for _, line := range []string{"list", "send bob hello", "connect ann", "delete ann"} {
		if got := g.typed(c, line).GetMessage(); !strings.HasPrefix(got, "Cannot ") {
			t.Errorf("%q by nobody: %q", line, got)
		}
	}
	says(c, "connect ann wrong", "Cannot connect as ann: the user or the password is wrong")
	says(c, "connect nobody wrong", "Cannot connect as nobody: the user or the password is wrong")
	says(c, "create cy", "Cannot create cy: password needed")
	says(c, "create cy a b", "Cannot create: say")
	says(c, "create cy cy-is-cy", "User cy created")
	says(c, "connect cy cy-is-cy", "Connection successful for user cy")
	says(c, "send bob hello", "Message sent to bob")
	says(c, "delete bob", "Cannot delete bob: permission denied")
	says(other, "send cy hello", "Cannot send")
	if got := g.listen(c, "bob"); got != "" {
		t.Errorf("cy reads bob's mail: %q", got)
	}
	g.admin(parley.SetPolicy{})
	says(other, "send cy from nobody", "Message sent to cy")
	g.admin(parley.SetPolicy{Policy: parley.Policy{Auth: parley.AuthRequired}})
	if got := g.listen(c, "cy"); got != "Message: from nobody\n\n" {
		t.Errorf("cy's mail: %q", got)
	}
	r, err := g.fake.Get(g.ctx, parley.Inbox{User: "bob"})
	if err != nil || len(r.Messages) != 1 || r.Messages[0].From != "cy" {
		t.Errorf("bob's mail: %+v, %v", r, err)
	}
	// The metadata of a call go before its connection's user.
	out, err := c.TryCommand(g.basic("bob", "bob's password"), &helloworld.Command{Command: "delete bob"})
	if err != nil || out.GetMessage() != "User bob deleted" {
		t.Errorf("%v, %v", out, err)
	}
	says(c, "delete cy", "User cy deleted")
}

// TestLegacyOpen: nothing changes for who knows nothing of passwords.
func TestLegacyOpen(t *testing.T) {
	g := newGuarded(t, parley.Policy{})
	c := g.legacy()
	for line, want := range map[string]string{
		"create dan x": "Cannot create: say create NAME", "connect guest": "Connection successful for user guest",
		"connect guest x": "Cannot connect as guest", "connect ann": "Cannot connect as ann: unauthenticated",
		"delete ann": "Cannot delete ann: unauthenticated", "list": "ann\nbob\nguest",
	} {
		if got := g.typed(c, line).GetMessage(); !strings.HasPrefix(got, want) {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
	if out := g.typed(c, "connect ann "+strings.ReplaceAll(annsPassword, " ", "_")); out.GetName() != "" {
		t.Errorf("a wrong password: %v", out)
	}
}

// TestTypedAccounts goes through the calls about accounts.
func TestTypedAccounts(t *testing.T) {
	g := newGuarded(t, parley.Policy{Auth: parley.AuthRequired})
	chat := g.chat()
	policy, err := chat.GetPolicy(g.ctx, &parleyv1.GetPolicyRequest{})
	if err != nil || !policy.GetPasswordRequired() || policy.GetInvitationRequired() {
		t.Errorf("%v, %v", policy, err)
	}
	_, err = chat.CreateUser(g.ctx, &parleyv1.CreateUserRequest{Name: "cy"})
	g.want(err, codes.FailedPrecondition, "PASSWORD_NEEDED")
	_, err = chat.CreateUser(g.ctx, &parleyv1.CreateUserRequest{Name: "cy", Password: "short"})
	g.want(err, codes.InvalidArgument, "BAD_PASSWORD")
	g.admin(parley.SetPolicy{Policy: parley.Policy{Auth: parley.AuthRequired, Registration: parley.RegistrationInvite}})
	_, err = chat.CreateUser(g.ctx, &parleyv1.CreateUserRequest{Name: "cy", Password: "cy is cy"})
	g.want(err, codes.PermissionDenied, "INVITATION_NEEDED")
	code, hash := parley.NewInvite()
	g.admin(parley.AddInvite{Invite: parley.Invite{Hash: hash}})
	if _, err = chat.CreateUser(g.ctx, &parleyv1.CreateUserRequest{Name: "cy", Password: "cy is cy", InvitationCode: string(code)}); err != nil {
		t.Fatal(err)
	}
	cy := g.basic("cy", "cy is cy")
	issued, err := chat.IssueToken(cy, &parleyv1.IssueTokenRequest{User: "cy", Scope: parleyv1.Scope_SCOPE_READ_ONLY, Label: "screen", Expires: timestamppb.New(time.Now().Add(time.Hour))})
	if err != nil {
		t.Fatal(err)
	}
	byToken := g.with("Bearer " + issued.GetToken())
	if _, err := chat.Inbox(byToken, &parleyv1.InboxRequest{User: "cy"}); err != nil {
		t.Error(err)
	}
	_, err = chat.IssueToken(byToken, &parleyv1.IssueTokenRequest{User: "cy"})
	g.want(err, codes.PermissionDenied, "PERMISSION_DENIED")
	_, err = chat.IssueToken(cy, &parleyv1.IssueTokenRequest{User: "ann"})
	g.want(err, codes.PermissionDenied, "PERMISSION_DENIED")
	list, err := chat.ListTokens(cy, &parleyv1.ListTokensRequest{User: "cy"})
	if err != nil || len(list.GetTokens()) != 1 || list.GetTokens()[0].GetTokenId() != issued.GetTokenId() ||
		list.GetTokens()[0].GetScope() != parleyv1.Scope_SCOPE_READ_ONLY || list.GetTokens()[0].GetExpires() == nil {
		t.Errorf("%v, %v", list, err)
	}
	_, err = chat.RevokeToken(cy, &parleyv1.RevokeTokenRequest{User: "cy", TokenId: "0123456789abcdef"})
	g.want(err, codes.NotFound, "NO_SUCH_TOKEN")
	if _, err = chat.RevokeToken(cy, &parleyv1.RevokeTokenRequest{User: "cy", TokenId: issued.GetTokenId()}); err != nil {
		t.Error(err)
	}
	_, err = chat.Inbox(byToken, &parleyv1.InboxRequest{User: "cy"})
	g.want(err, codes.Unauthenticated, "UNAUTHENTICATED")
	_, err = chat.SetPassword(cy, &parleyv1.SetPasswordRequest{User: "cy", CurrentPassword: "wrong", NewPassword: "cy is not cy"})
	g.want(err, codes.Unauthenticated, "UNAUTHENTICATED")
	if _, err = chat.SetPassword(cy, &parleyv1.SetPasswordRequest{User: "cy", CurrentPassword: "cy is cy", NewPassword: "cy is not cy"}); err != nil {
		t.Error(err)
	}
	if _, err := chat.ListUsers(g.basic("cy", "cy is not cy"), &parleyv1.ListUsersRequest{}); err != nil {
		t.Error(err)
	}
}
