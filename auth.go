package parley

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Secret is a text that must not be shown: a password, a token, an invitation
// code. It prints as "[secret]", whatever the verb, in logs and in JSON too.
type Secret string

const redacted = "[secret]"

// Format implements [fmt.Formatter].
func (s Secret) Format(f fmt.State, _ rune) {
	if s != "" {
		f.Write([]byte(redacted)) //nolint:errcheck // as fmt does
	}
}

// LogValue implements [slog.LogValuer].
func (s Secret) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(s)) }

// MarshalText implements encoding.TextMarshaler.
func (s Secret) MarshalText() ([]byte, error) { return []byte(fmt.Sprint(s)), nil }

// Credentials say who somebody is: a user and its password, or a token. With
// neither, they name a user that has no password, which is enough where Auth is
// open.
type Credentials struct {
	User     string // may be "" with a token, which names the user itself
	Password Secret
	Token    Secret
	// Address is where the attempt comes from, without port: many failed ones
	// from there make the next ones slow. The gateway fills it in.
	Address string
}

// Identity is who a login has found somebody to be.
type Identity struct {
	User        string // the name as created
	Incarnation Incarnation
	Scope       Scope
	Expires     time.Time // of the token; zero: never
}

// Login exchanges credentials for the service as their user sees it. Whoever has
// not logged in is given another Service, which says [CodeUnauthenticated] where
// somebody must be known. The error is CodeUnauthenticated, the same for an
// unknown user and a wrong password or token, or a retryable one.
//
// What has been logged in with is looked at again with each command, query and
// message: after a change of the password, or the end of the token or of the
// user, the service says CodeUnauthenticated.
type Login func(ctx context.Context, c Credentials) (Service, Identity, error)

// Actor is in whose name a request is made. A gateway's service sets it from a
// login; what a client may have put there is overwritten. Members trust each
// other to do so.
type Actor struct {
	User        string // the name as created
	Incarnation Incarnation
	// Credential is what was logged in with: [Account.Changed], or the number of a
	// token's [TokenID].
	Credential uint64
	Admin      bool // an administrator; no user then
}

// AuthMode says who may do what without a login.
type AuthMode uint8

// RegistrationMode says who may create users.
type RegistrationMode uint8

// The modes. The numbers are part of the protocols.
const (
	// AuthOpen: anybody may act as a user that has no password.
	AuthOpen AuthMode = 0
	// AuthRequired: users have passwords, and nothing but creating one works
	// without a login.
	AuthRequired AuthMode = 1

	// RegistrationOpen: anybody may create users.
	RegistrationOpen RegistrationMode = 0
	// RegistrationInvite: only with an invitation code, but for administrators.
	RegistrationInvite RegistrationMode = 1
)

// Policy is the cluster's setting of who may do what.
type Policy struct {
	Auth         AuthMode
	Registration RegistrationMode
	Tokens       uint32 // most tokens of one user; 0: 32
	Invites      uint32 // most invitations that are not used up; 0: 10,000
}

// WithDefaults returns the policy with every limit that is 0 replaced by its default.
func (p Policy) WithDefaults() Policy {
	if p.Tokens == 0 {
		p.Tokens = 32
	}
	if p.Invites == 0 {
		p.Invites = 10_000
	}
	return p
}

// String gives "open" or "required".
func (m AuthMode) String() string { return nameOf(m, "open", "required") }

// String gives "open" or "invite".
func (m RegistrationMode) String() string { return nameOf(m, "open", "invite") }

// Scope is what a login is good for.
type Scope uint8

// The scopes. The numbers are part of the protocols. Each also allows sessions,
// and to ask for the [Status] and the [GetPolicy].
const (
	ScopeFull Scope = 0 // all that the user may; new tokens only after a login by password
	ScopeSend Scope = 1 // send messages
	ScopeRead Scope = 2 // read and acknowledge the user's mail, list users
)

// String gives "full", "send-only" or "read-only".
func (s Scope) String() string { return nameOf(s, "full", "send-only", "read-only") }

// ParseScope is the inverse of [Scope.String].
func ParseScope(name string) (Scope, error) {
	for s := ScopeFull; s <= ScopeRead; s++ {
		if s.String() == name {
			return s, nil
		}
	}
	return 0, Errorf(CodeBadRequest, "scope %q is none of full, send-only, read-only", name)
}

func nameOf[T ~uint8](v T, names ...string) string {
	if int(v) < len(names) {
		return names[v]
	}
	return fmt.Sprintf("unknown (%d)", uint8(v))
}

// Hash is the SHA-256 of a secret that is random, which is all that is stored of it.
type Hash [sha256.Size]byte

// ID names what the hash is of, without giving it away.
func (h Hash) ID() TokenID { return TokenID(binary.BigEndian.Uint64(h[:])) }

// TokenID is the public name of a token or invitation.
type TokenID uint64

// String gives 16 hexadecimal digits.
func (id TokenID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

// ParseTokenID is the inverse of [TokenID.String].
func ParseTokenID(s string) (TokenID, error) {
	var id uint64
	if n, err := fmt.Sscanf(s, "%016x", &id); n != 1 || err != nil || TokenID(id).String() != s {
		return 0, Errorf(CodeBadRequest, "%q is not a token's id, which is 16 hexadecimal digits", s)
	}
	return TokenID(id), nil
}

// Token is a token as the cluster knows it.
type Token struct {
	Hash    Hash // in a Result, only as much of it as ID needs
	Scope   Scope
	Label   string    // for people: what it is for; UTF-8, at most 64 bytes
	Expires time.Time // by the log's time; zero: never
}

// Invite is an invitation as the cluster knows it.
type Invite struct {
	Hash    Hash      // in a Result, only as much of it as ID needs
	Uses    uint32    // how many users may still be created with it
	Expires time.Time // by the log's time; zero: never
}

// Account is what a node knows about a user's credentials. It stays within a node.
type Account struct {
	Key         string // the name by which users are told apart, "" if there is no such user
	Name        string // as created
	Incarnation Incarnation
	Verifier    string  // what a password is checked against, "" if the user has none
	Changed     uint64  // tells this password from those before; 0 if there is none
	Tokens      []Token // with their whole hashes
	Time        time.Time
}

// The commands about accounts. Those that bear a secret are for a gateway's
// service, which hashes it: what is replicated bears hashes only.

// SetPassword changes a password. Whoever was logged in by the old one is not
// any more; tokens stay. An administrator need not know the current one; nor
// need anybody, where Auth is open, of a user that has none. Result: [CodeOK],
// [CodeUnauthenticated] if the current one is wrong, [CodeBadPassword],
// [CodePermissionDenied], [CodeNoSuchUser].
type SetPassword struct {
	User         string
	Current, New Secret
}

// AddToken makes a token valid; see [NewToken]. It needs a login by password, or
// an administrator. Result: [CodeOK], [CodeTooManyTokens],
// [CodePermissionDenied], [CodeUnauthenticated], [CodeNoSuchUser].
type AddToken struct {
	User  string
	Token Token
}

// RevokeToken makes a token invalid, or, with ID 0, all of the user's. Result:
// [CodeOK], [CodeNoSuchToken], [CodePermissionDenied], [CodeUnauthenticated],
// [CodeNoSuchUser].
type RevokeToken struct {
	User string
	ID   TokenID
}

// SetPolicy replaces the cluster's policy. For administrators. Result:
// [CodeOK], [CodePermissionDenied].
type SetPolicy struct{ Policy Policy }

// AddInvite makes an invitation code valid; see [NewInvite]. For
// administrators. Result: [CodeOK], [CodeTooManyInvites], [CodePermissionDenied].
type AddInvite struct{ Invite Invite }

// RevokeInvite makes an invitation code invalid. For administrators. Result:
// [CodeOK], [CodeNoSuchToken], [CodePermissionDenied].
type RevokeInvite struct{ ID TokenID }

// StoreUser is [CreateUser] as it is replicated. Result: as there.
type StoreUser struct {
	Name     string
	Verifier string // "" if the user has no password
	Invite   Hash   // zero: none
}

// StorePassword is [SetPassword] as it is replicated. Result: as there.
type StorePassword struct {
	User     string
	Verifier string
	Was      uint64 // Changed of the account that this was decided on; another one makes it CodeUnauthenticated
	Rehash   bool   // the same password under other parameters: logins stay valid
}

// GetPolicy asks for the policy in force. Result: [CodeOK] with Policy.
type GetPolicy struct{}

// Tokens asks for a user's tokens. Result: [CodeOK] with Tokens,
// [CodePermissionDenied], [CodeUnauthenticated], [CodeNoSuchUser].
type Tokens struct{ User string }

// Invites asks for the invitations that are left. For administrators. Result:
// [CodeOK] with Invites and More, [CodePermissionDenied].
type Invites struct{ After TokenID }

func (SetPassword) command()   {}
func (AddToken) command()      {}
func (RevokeToken) command()   {}
func (SetPolicy) command()     {}
func (AddInvite) command()     {}
func (RevokeInvite) command()  {}
func (StoreUser) command()     {}
func (StorePassword) command() {}

// Key returns the user as given, not case-folded.
func (c SetPassword) Key() string { return c.User }

// Key returns the user as given, not case-folded.
func (c AddToken) Key() string { return c.User }

// Key returns the user as given, not case-folded.
func (c RevokeToken) Key() string { return c.User }

// Key returns "": the policy belongs to nobody.
func (SetPolicy) Key() string { return "" }

// Key returns the invitation's id.
func (c AddInvite) Key() string { return c.Invite.Hash.ID().String() }

// Key returns the invitation's id.
func (c RevokeInvite) Key() string { return c.ID.String() }

// Key returns the name as given, not case-folded.
func (c StoreUser) Key() string { return c.Name }

// Key returns the user as given, not case-folded.
func (c StorePassword) Key() string { return c.User }

func (GetPolicy) query() {}
func (Tokens) query()    {}
func (Invites) query()   {}

// PublicTokens are the tokens without what they could be found out from.
func (a *Account) PublicTokens() []Token {
	tokens := slices.Clone(a.Tokens)
	for i := range tokens {
		clear(tokens[i].Hash[8:]) // ID needs the rest
	}
	return tokens
}
