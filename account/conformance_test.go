package account

import (
	"testing"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/parleytest"
)

// TestConformance: whom the guard lets in is served as if there were no guard.
func TestConformance(t *testing.T) {
	parleytest.Run(t, func(t *testing.T) parley.Service {
		fake := parleytest.NewFake()
		t.Cleanup(func() { fake.Close() })
		return quick(Config{Cluster: fake}).Anybody()
	})
}
