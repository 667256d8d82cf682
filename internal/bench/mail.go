package bench

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley"
)

// Mailboxes must not fill up: without readers, the run itself acknowledges a
// mailbox's mail each time so much has come into it.
const (
	ackMessages = 1000
	ackBytes    = 4 << 20
)

// mailbox is one of the run's users.
type mailbox struct {
	name string
	sent atomic.Int64 // messages acknowledged to the senders
}

// ack is what has to be acknowledged.
type ack struct {
	user string
	upTo parley.MessageID
}

// userName is the name of the ith user.
func userName(prefix string, i int) string { return fmt.Sprintf("%s-%07d", prefix, i) }

// mailboxes are those that the load goes to.
func (r *run) mailboxes() []mailbox {
	prefix := r.cfg.Existing
	if prefix == "" {
		prefix = "bench-" + r.id
	}
	boxes := make([]mailbox, r.cfg.Users)
	for i := range boxes {
		boxes[i].name = userName(prefix, i)
	}
	return boxes
}

// createUsers makes the mailboxes.
func (r *run) createUsers(ctx context.Context) error {
	err := r.forAll(ctx, r.settingUp(), func(name string) parley.Command { return parley.CreateUser{Name: name} }, parley.CodeOK)
	if err != nil {
		return fmt.Errorf("create users: %w", err)
	}
	return nil
}

// deleteUsers removes the mailboxes, those too that may have been made, and
// closes the session.
func (r *run) deleteUsers(ctx context.Context) error {
	err := r.forAll(context.WithoutCancel(ctx), r.settingUp(), func(name string) parley.Command { return parley.DeleteUser{Name: name} },
		parley.CodeOK, parley.CodeNoSuchUser)
	if err != nil {
		err = fmt.Errorf("delete users bench-%s-*: %w", r.id, err)
	}
	r.closeSession(ctx)
	return err
}

// closeSession ends the session of the run's own commands.
func (r *run) closeSession(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = r.session.Close(ctx) // else it expires
}

// settingUp is how long the cluster may take for something about all users.
func (r *run) settingUp() time.Duration {
	return r.cfg.Patience + time.Duration(r.cfg.Users)*time.Millisecond
}

// forAll runs a command for every mailbox, many at a time, until the first
// outcome that is not wanted.
func (r *run) forAll(ctx context.Context, limit time.Duration, command func(name string) parley.Command, wanted ...parley.Code) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var wg sync.WaitGroup
	failed := make(chan error, 1) // the first of them
	slots := make(chan struct{}, 512)
	for i := range r.boxes {
		if ctx.Err() != nil {
			break
		}
		slots <- struct{}{} // comes back for sure: every command ends with ctx
		wg.Add(1)
		r.session.Start(ctx, command(r.boxes[i].name), func(res parley.Result, err error) {
			defer wg.Done()
			if err == nil && !slices.Contains(wanted, res.Code) {
				err = res.Err()
			}
			if err != nil {
				select {
				case failed <- err:
				default:
				}
				cancel()
			}
			<-slots
		})
	}
	wg.Wait()
	select {
	case err := <-failed:
		return because(r.admin, err)
	default:
		return ctx.Err()
	}
}

// because is err, that no answer came, with what is wrong with the connection, if
// anything is.
func because(c Client, err error) error {
	if trouble := c.Trouble(); trouble != nil && parley.CodeOf(err) == parley.CodeNoQuorum {
		return fmt.Errorf("no answer in time: %w", trouble)
	}
	return err
}

// arrived notes that a message got the number id in a mailbox, and has the mail
// acknowledged if there is much. It does not block: if the acknowledging lags
// behind, a later one says it all.
func (r *run) arrived(box *mailbox, id parley.MessageID) {
	if r.cfg.Keep {
		return
	}
	every := int64(max(1, min(ackMessages, ackBytes/max(1, r.cfg.Size))))
	if box.sent.Add(1)%every != 0 {
		return
	}
	select {
	case r.acks <- ack{box.name, id}:
	default:
	}
}

// acknowledge takes mail out of the mailboxes until ctx ends. It has a connection
// of its own, so that the senders' commands do not wait for it.
func (r *run) acknowledge(ctx context.Context) {
	for {
		select {
		case a := <-r.acks:
			command := parley.Ack{User: a.user, UpTo: parley.Cursor{ID: a.upTo}}
			r.admin.Start(ctx, parley.Request{Command: command}, func(res parley.Result, err error) {
				if err == nil {
					err = res.Err()
				}
				if err != nil && ctx.Err() == nil {
					r.problems.add("acknowledge", err)
				}
			})
		case <-ctx.Done():
			return
		}
	}
}
