package tcp

import (
	"context"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/pause"
)

// retry calls f until it succeeds, fails for good, or ctx ends.
func retry(ctx context.Context, f func() error) error {
	for n := 0; ; n++ {
		err := f()
		if err == nil || !parley.CodeOf(err).Retryable() || !pause.For(ctx, backoff(n)) {
			return err
		}
	}
}

// backoff is the wait before try n+1.
func backoff(n int) time.Duration { return pause.Backoff(n, 5*time.Millisecond, 320*time.Millisecond) }
