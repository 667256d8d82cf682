package test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/client"
	"github.com/parley-chat/parley/internal/check"
	"github.com/parley-chat/parley/internal/local"
	"github.com/parley-chat/parley/internal/pause"
)

// talk does a little of everything to a few users and keeps the history. Lanes
// use the client library, which goes to the leader. Askers put a question to one
// node, whoever leads, each time over a connection of its own: what a node that is
// stopped finds in its sockets when it goes on was asked while another one led.
type talk struct {
	history *check.History
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

const (
	talkLanes = 3
	talkUsers = 3
	talkThink = 120 * time.Millisecond // at most, between two operations of a lane
	askEvery  = 150 * time.Millisecond
	askLimit  = time.Minute // longer than any pause
)

func startTalk(t *testing.T, c *local.Cluster, seed uint64) *talk {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	k := &talk{history: check.NewHistory(), cancel: cancel}
	for i := range talkLanes {
		rng := rand.New(rand.NewPCG(seed, uint64(1+i)))
		s := newClientOf(t, client.Config{Servers: c.Servers(), Dial: c.Dial})
		k.done.Go(func() { k.lane(ctx, i, rng, s, s.Session()) })
	}
	for i, n := range c.Nodes() {
		k.done.Go(func() { k.asker(ctx, talkLanes+1000*(i+1), c, n.Client) })
	}
	return k
}

// finish ends all that and waits until it has.
func (k *talk) finish() {
	k.cancel()
	k.done.Wait()
}

// lane does one thing after the other in one session.
func (k *talk) lane(ctx context.Context, i int, rng *rand.Rand, c parley.Service, s *parley.Session) {
	last := make(map[string]parley.Cursor)
	for n := 0; pause.For(ctx, time.Duration(rng.Int64N(int64(talkThink)))); n++ {
		user := fmt.Sprint("u", rng.IntN(talkUsers))
		switch p := rng.IntN(100); {
		case p < 18:
			k.do(s, i, parley.CreateUser{Name: user})
		case p < 28:
			k.do(s, i, parley.DeleteUser{Name: user})
		case p < 50:
			k.do(s, i, parley.Send{From: fmt.Sprint("lane", i), To: user, Body: fmt.Sprintf("%d-%d", i, n)})
		case p < 65:
			k.do(s, i, parley.Ack{User: user, UpTo: last[user]})
		case p < 90:
			if r, ok := k.get(c, i, parley.Inbox{User: user}); ok && len(r.Messages) > 0 {
				last[user] = r.Messages[rng.IntN(len(r.Messages))].Cursor
			}
		default:
			k.get(c, i, parley.Users{Pattern: "^u[0-9]"})
		}
	}
	// What was given up is over once the session has got an answer.
	k.do(s, i, parley.Ack{User: "nobody"})
}

func (k *talk) do(s *parley.Session, lane int, c parley.Command) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	op := k.history.Invoke(lane, c)
	r, err := s.Do(ctx, c)
	if err != nil {
		op.Fail(err)
		return
	}
	op.Answer(r)
}

func (k *talk) get(c parley.Service, lane int, q parley.Query) (parley.Result, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	op := k.history.Invoke(lane, q)
	r, err := c.Get(ctx, q)
	if err != nil {
		op.Fail(err)
		return r, false
	}
	op.Answer(r)
	return r, true
}

// asker asks one node for the names of all users, again and again, and does not wait
// for an answer before the next question, but for one of the last two: many that are
// open at the same time make a history that takes long to judge. Each question is its
// own lane, since the answers may come at any time.
func (k *talk) asker(ctx context.Context, lane int, c *local.Cluster, addr string) {
	open := make(chan struct{}, 2)
	for ; pause.For(ctx, askEvery); lane++ {
		select {
		case open <- struct{}{}:
		case <-ctx.Done():
			return
		}
		k.done.Go(func() {
			defer func() { <-open }()
			ctx, cancel := context.WithTimeout(ctx, askLimit)
			defer cancel()
			op := k.history.Invoke(lane, parley.Users{Pattern: "^u[0-9]"})
			names, err := classicList(ctx, c, addr, "^u[0-9]")
			if err != nil {
				op.Fail(err)
				return
			}
			op.Answer(parley.Result{Code: parley.CodeOK, Names: names})
		})
	}
}

// classicList asks over the classic protocol, in which questions wait in the
// node's socket until it reads them.
func classicList(ctx context.Context, c *local.Cluster, addr, pattern string) (names []string, err error) {
	conn, err := c.Dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	frame := make([]byte, 1024)
	copy(frame, "list")
	copy(frame[15:], pattern)
	if _, err := conn.Write(frame); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, frame); err != nil {
		return nil, err
	}
	command, list := strings.TrimRight(string(frame[:15]), "\x00"), strings.TrimRight(string(frame[15:]), "\x00")
	switch {
	case command != "list":
		return nil, fmt.Errorf("list is answered %s", command)
	case list == "":
		return nil, nil
	}
	return strings.Split(list, ","), nil
}
