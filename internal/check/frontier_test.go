package check

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/parley-chat/parley"
)

// Split event by event, a history is judged as porcupine judges it.
func TestFrontierAgrees(t *testing.T) {
	verdicts := make(map[bool]int)
	for seed := range uint64(250) {
		rng := rand.New(rand.NewPCG(seed, 0))
		h := randomHistory(rng)
		for _, part := range split(h.of("a")) {
			var ops []porcupine.Operation
			for _, op := range part.ops {
				ops = append(ops, porcupine.Operation{ClientId: op.lane, Input: op, Call: op.call, Return: op.ret})
			}
			want := porcupine.CheckOperations(modelOf("a", part.from), ops)
			got, decided := frontier("a", part, time.Minute)
			if got != want || !decided {
				t.Fatalf("seed %d: %v, decided %v; porcupine says %v:\n%v", seed, got, decided, want, h.Lines())
			}
			verdicts[want]++
		}
	}
	if verdicts[true] < 100 || verdicts[false] < 30 {
		t.Errorf("only %v parts by verdict: the comparison says little", verdicts)
	}
}

// randomHistory is what some lanes do to one mailbox, with an answer changed here
// and there.
func randomHistory(rng *rand.Rand) *History {
	h := NewHistory()
	now, born := mailbox{}, parley.Incarnation(0)
	type call struct {
		op     *Op
		answer parley.Result
		effect bool
	}
	busy := make(map[int]*call)
	apply := func(c *call) { // at some moment between its beginning and its end
		c.effect = true
		switch in := c.op.input.(type) {
		case parley.CreateUser:
			if c.answer.Code = parley.CodeNameTaken; !now.exists {
				born++
				now = now.created(born)
				c.answer = parley.Result{Incarnation: born}
			}
		case parley.DeleteUser:
			if c.answer.Code = parley.CodeNoSuchUser; now.exists {
				now, c.answer.Code = now.removed(), parley.CodeOK
			}
		case parley.Send:
			if c.answer.Code = parley.CodeNoSuchUser; now.exists {
				now = now.with(in.Body)
				c.answer = parley.Result{Message: now.last}
			}
		case parley.Inbox:
			c.answer.Code = parley.CodeNoSuchUser
			if now.exists {
				c.answer = parley.Result{Cursor: parley.Cursor{Incarnation: now.incarnation, ID: now.cursor}, Unread: uint64(len(now.mail))}
				for i, body := range now.mail {
					c.answer.Messages = append(c.answer.Messages, parley.Message{Cursor: parley.Cursor{Incarnation: now.incarnation, ID: now.cursor + parley.MessageID(i) + 1}, Body: body})
				}
			}
		}
	}
	for i := range 40 {
		lane := rng.IntN(4)
		c := busy[lane]
		if c == nil {
			var input any
			switch rng.IntN(8) {
			case 0:
				input = parley.DeleteUser{Name: "a"}
			case 1, 2:
				input = parley.CreateUser{Name: "a"}
			case 3, 4, 5:
				input = parley.Send{To: "a", Body: fmt.Sprint(i)}
			default:
				input = parley.Inbox{User: "a"}
			}
			c = &call{op: h.Invoke(lane, input)}
			busy[lane] = c
			continue
		}
		if !c.effect && rng.IntN(10) > 0 {
			apply(c)
			continue
		}
		delete(busy, lane)
		if !c.effect || rng.IntN(10) == 0 {
			c.op.Fail(givenUp())
			continue
		}
		if rng.IntN(8) == 0 {
			c.answer.Unread++
			c.answer.Message++
		}
		c.op.Answer(c.answer)
	}
	return h
}

// givenUp is an error that says nothing about what has happened.
func givenUp() error { return parley.Errorf(parley.CodeInterrupted, "given up") }
