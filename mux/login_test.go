package mux

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/fair"
)

// TestConnectionsOfAUser: one too many is not logged in, is told the limit, and is
// served on as it was; a connection that ends, or becomes another user's, makes room.
func TestConnectionsOfAUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seats := fair.NewSeats[parley.Incarnation](1)
		login := func(_ context.Context, c parley.Credentials) (parley.Service, parley.Identity, error) {
			if c.User == "stranger" {
				return nil, parley.Identity{}, parley.Errorf(parley.CodeUnauthenticated, "who?")
			}
			return &fake{}, parley.Identity{User: c.User, Incarnation: parley.Incarnation(len(c.User))}, nil
		}
		dial := func() ends { return connect(t, &fake{}, ServerConfig{Login: login, Seats: seats}, ConnConfig{}) }
		as := func(e ends, user string, want parley.Code) {
			t.Helper()
			r, err := e.Login(t.Context(), parley.Credentials{User: user})
			got := r.Code
			if err != nil {
				got = parley.CodeOf(err)
			}
			if got != want {
				t.Errorf("login of %s: %v, %v, want %v", user, r.Code, err, want)
			}
			if want == parley.CodeOverloaded && !strings.Contains(err.Error(), "limit 1") {
				t.Errorf("the refusal does not name the limit: %v", err)
			}
		}
		a, b := dial(), dial()
		as(a, "ann", parley.CodeOK)
		as(a, "ann", parley.CodeOK) // it has its seat
		as(b, "ann", parley.CodeOverloaded)
		as(b, "barbara", parley.CodeOK)
		as(b, "ann", parley.CodeOverloaded)
		as(b, "stranger", parley.CodeUnauthenticated)
		as(dial(), "barbara", parley.CodeOverloaded) // b is still hers
		as(a, "christina", parley.CodeOK)
		as(b, "ann", parley.CodeOK)
		b.Close() //nolint:errcheck // always nil
		synctest.Wait()
		as(dial(), "ann", parley.CodeOK)
		if n := seats.Refused(); n != 3 {
			t.Errorf("%d are counted, want 3", n)
		}
	})
}
