package parley_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/parley-chat/parley"
)

func TestTokens(t *testing.T) {
	for _, user := range []string{"ann", "Zoë", strings.Repeat("x", 64)} {
		text, hash := parley.NewToken(user)
		u, h, err := parley.ParseToken(text)
		if u != user || h != hash || err != nil {
			t.Errorf("%q: %q, %v", user, u, err)
		}
		if again, _ := parley.NewToken(user); again == text {
			t.Error("two tokens are the same")
		}
		for i := range len(text) {
			b := []byte(text)
			if b[i]++; b[i] > 'z' {
				b[i] = 'a'
			}
			if _, _, err := parley.ParseToken(parley.Secret(b)); err == nil {
				t.Errorf("%q: byte %d changed and not noticed", user, i)
			}
			if _, _, err := parley.ParseToken(text[:i]); err == nil {
				t.Errorf("%q: cut at %d and not noticed", user, i)
			}
		}
	}
	code, hash := parley.NewInvite()
	if h, err := parley.ParseInvite(code); h != hash || err != nil {
		t.Error(err)
	}
	if _, err := parley.ParseInvite(code[:len(code)-1]); parley.CodeOf(err) != parley.CodeInviteNeeded {
		t.Error("a part of an invitation code is taken for one")
	}
	token, _ := parley.NewToken("ann")
	if _, err := parley.ParseInvite(token); err == nil {
		t.Error("a token is taken for an invitation code")
	}
	if id, err := parley.ParseTokenID(hash.ID().String()); id != hash.ID() || err != nil {
		t.Errorf("%v, %v", id, err)
	}
	for _, bad := range []string{"", "123", "0123456789abcdeg", "0123456789ABCDEF", "0123456789abcdef0"} {
		if _, err := parley.ParseTokenID(bad); err == nil {
			t.Errorf("%q is taken for an id", bad)
		}
	}
}

func TestSecretIsNotShown(t *testing.T) {
	c := parley.Credentials{User: "ann", Password: "sesame", Token: "sesame"}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{
		fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), fmt.Sprintf("%q %x %s %d", c.Password, c.Password, c.Password, c.Password),
		fmt.Sprintf("%v", parley.CreateUser{Password: "sesame"}), string(b), c.Password.LogValue().String(),
	} {
		if strings.Contains(s, "sesame") || strings.Contains(s, "736573616d65") || !strings.Contains(s, "[secret]") {
			t.Errorf("shown: %s", s)
		}
	}
}

// FuzzToken: what is taken for a token or an invitation code is exactly one.
func FuzzToken(f *testing.F) {
	token, _ := parley.NewToken("ann")
	invite, _ := parley.NewInvite()
	f.Add(string(token))
	f.Add(string(invite))
	f.Add("parley_")
	f.Add("parley_aaaaaaaa=")
	f.Fuzz(func(t *testing.T, text string) {
		user, _, err := parley.ParseToken(parley.Secret(text))
		if err == nil && (user == "" || len(user) > 64 || !strings.HasPrefix(text, "parley_") || strings.ToLower(text) != text) {
			t.Errorf("%q is a token of %q", text, user)
		}
		if _, err := parley.ParseInvite(parley.Secret(text)); err == nil && !strings.HasPrefix(text, "parleyinvite_") {
			t.Errorf("%q is an invitation code", text)
		}
	})
}
