package parley

import (
	"context"
	"errors"
	"time"

	"github.com/parley-chat/parley/internal/pause"
)

// gaveUp is err, the last thing that went wrong, in the light of how ctx stands.
func gaveUp(ctx context.Context, err error) error {
	cause := ctx.Err()
	switch {
	case cause == nil:
		return err
	case !errors.Is(cause, context.DeadlineExceeded):
		return cause
	case err == nil || errors.Is(err, cause):
		return Errorf(CodeNoQuorum, "no answer within the deadline")
	case CodeOf(err) == CodeOverloaded:
		return err
	}
	return Errorf(CodeNoQuorum, "no answer within the deadline; last: %v", err)
}

// backoff is the wait before try n+1.
func backoff(n int) time.Duration { return pause.Backoff(n, 5*time.Millisecond, 640*time.Millisecond) }
