package check

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// frontier decides a part of a history that porcupine could not decide in time, by
// splitting it as far as it goes: event by event (Lowe, "Testing for
// linearizability", 2017: just-in-time linearization). Between two events it knows
// all configurations that there may be: the state of the mailbox, and which of the
// operations under way have taken effect. When an operation ends it must have.
//
// That takes no backtracking over what is past, however long the history is. It
// takes long only if many operations are under way at the same time.
func frontier(key string, part span, limit time.Duration) (ok, decided bool) {
	deadline := time.Now().Add(limit)
	now := configs{}
	now.add(config{mailbox: part.from})
	var open []*Op
	for _, e := range events(part.ops) {
		if !e.end {
			open = append(open, e.op)
			continue
		}
		if now, decided = now.through(key, e.op, open, deadline); !decided {
			return false, false
		}
		if len(now) == 0 {
			return false, true
		}
		open = slices.DeleteFunc(open, func(o *Op) bool { return o == e.op })
	}
	return true, true
}

// event is the beginning or the end of an operation.
type event struct {
	at  int64
	end bool
	op  *Op
}

func events(ops []*Op) []event {
	var all []event
	for _, op := range ops {
		all = append(all, event{op.call, false, op})
		if op.ret != never {
			all = append(all, event{op.ret, true, op})
		}
	}
	slices.SortStableFunc(all, func(a, b event) int {
		if c := cmp.Compare(a.at, b.at); c != 0 {
			return c
		}
		return cmp.Compare(b2i(a.end), b2i(b.end)) // operations that meet in time overlap
	})
	return all
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// config is a state, and the operations under way that have taken effect, by call.
type config struct {
	mailbox
	done []int64 // sorted
}

func (c config) key() string {
	return fmt.Sprint(c.exists, c.incarnation, c.floor, c.cursor, c.last, c.done, len(c.mail), fmt.Sprintf("%q", c.mail))
}

// configs are different configurations, by key.
type configs map[string]config

func (cs configs) add(c config) (added bool) {
	key := c.key()
	if _, ok := cs[key]; ok {
		return false
	}
	cs[key] = c
	return true
}

// through returns the configurations in which op has taken effect, as it must have
// by its end; it is not under way any more in them. It reports false if that is not
// known by the deadline.
func (cs configs) through(key string, op *Op, open []*Op, deadline time.Time) (configs, bool) {
	after, seen := configs{}, configs{}
	var todo []config
	for _, c := range cs {
		todo = append(todo, c)
	}
	for len(todo) > 0 {
		if time.Now().After(deadline) {
			return nil, false
		}
		c := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if i, ok := slices.BinarySearch(c.done, op.call); ok {
			c.done = slices.Delete(slices.Clone(c.done), i, i+1)
			after.add(c)
			continue
		}
		for _, o := range open {
			i, ok := slices.BinarySearch(c.done, o.call)
			if ok {
				continue
			}
			for _, m := range c.step(key, o) {
				if next := (config{m, slices.Insert(slices.Clone(c.done), i, o.call)}); seen.add(next) {
					todo = append(todo, next)
				}
			}
		}
	}
	return after, true
}
