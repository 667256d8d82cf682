package account

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley"
)

// TestNobodysNames: whatever somebody wants of a user whose name nobody can have, the
// empty one above all, is answered, and hides nobody else's user behind it.
func TestNobodysNames(t *testing.T) {
	for _, policy := range []parley.Policy{{}, {Auth: parley.AuthRequired}} {
		for _, name := range []string{"", " ", ",", "\x00", "\xff", "two\nlines", strings.Repeat("n", 65)} {
			s := newStage(t, policy, name)
			s.must(s.as["bob"], parley.Send{To: "ann", Body: "for ann only"})
			for column, svc := range s.as {
				if column == "exp" || column == "rev" {
					continue // these are refused for what they are
				}
				for _, row := range []string{"DeleteUser", "Ack", "SetPassword", "AddToken", "RevokeToken", "StorePassword", "Inbox", "Tokens"} {
					if code := s.try(svc, row); code == parley.CodeOK || !code.IsAnswer() {
						t.Errorf("%s of %q by %s, policy %v: %v", row, name, column, policy.Auth, code)
					}
				}
				for kind, watch := range map[string]func(context.Context) error{
					"Watch": func(ctx context.Context) (err error) {
						for _, err = range svc.Watch(ctx, name, parley.Cursor{}) {
							break
						}
						return err
					},
					"Subscribe": func(ctx context.Context) error {
						ended := make(chan error, 1)
						parley.Subscribe(ctx, svc, name, parley.Cursor{}, func(_ parley.Message, err error) bool {
							ended <- err
							return false
						})
						select {
						case err := <-ended:
							return err
						case <-ctx.Done():
							return errors.New("nothing is shown")
						}
					},
				} {
					ctx, cancel := context.WithTimeout(s.ctx, 10*time.Second)
					if err := watch(ctx); err == nil || !parley.CodeOf(err).IsAnswer() {
						t.Errorf("%s of %q by %s, policy %v: %v", kind, name, column, policy.Auth, err)
					}
					cancel()
				}
			}
		}
	}
}
