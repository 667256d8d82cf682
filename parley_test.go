package parley_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/parleytest"
)

// TestCodes pins the numbers, which are part of the protocols, and what follows from each.
func TestCodes(t *testing.T) {
	codes := []struct {
		code                  parley.Code
		number                int
		retryable, notApplied bool
	}{
		{parley.CodeOK, 0, false, false},
		{parley.CodeNoSuchUser, 1, false, false},
		{parley.CodeNameTaken, 2, false, false},
		{parley.CodeBadName, 3, false, false},
		{parley.CodeBadPattern, 4, false, false},
		{parley.CodeBadText, 5, false, false},
		{parley.CodeBodyTooLarge, 6, false, false},
		{parley.CodeMailboxFull, 7, false, false},
		{parley.CodeTooManyUsers, 8, false, false},
		{parley.CodeTooManySessions, 9, false, false},
		{parley.CodeSessionExpired, 10, false, false},
		{parley.CodeForgotten, 11, false, false},
		{parley.CodeNotLeader, 100, true, true},
		{parley.CodeNoQuorum, 101, true, false},
		{parley.CodeOverloaded, 102, true, true},
		{parley.CodeShuttingDown, 103, true, true},
		{parley.CodeInterrupted, 104, true, false},
		{parley.CodeOutOfOrder, 105, true, true},
		{parley.CodeBadRequest, 106, false, true},
		{parley.CodeUnsupported, 107, false, true},
		{parley.CodeOutcomeUnknown, 108, false, false},
	}
	names := make(map[string]bool)
	for _, c := range codes {
		if int(c.code) != c.number || c.code.IsAnswer() != (c.number < 100) ||
			c.code.Retryable() != c.retryable || c.code.NotApplied() != c.notApplied {
			t.Errorf("%v: number %d, answer %v, retryable %v, not applied %v", c.code, c.code,
				c.code.IsAnswer(), c.code.Retryable(), c.code.NotApplied())
		}
		if name := c.code.String(); strings.HasPrefix(name, "code ") || names[name] {
			t.Errorf("code %d is named %q", c.number, name)
		}
		names[c.code.String()] = true
	}
	if got := parley.Code(999).String(); got != "code 999" {
		t.Errorf("an unknown code is named %q", got)
	}
}

func TestCodeOf(t *testing.T) {
	full := parley.Errorf(parley.CodeOverloaded, "queue of %d is full", 3)
	for _, c := range []struct {
		err  error
		want parley.Code
	}{
		{nil, parley.CodeOK},
		{full, parley.CodeOverloaded},
		{fmt.Errorf("sending: %w", full), parley.CodeOverloaded},
		{errors.New("anything"), parley.CodeInterrupted},
		{context.Canceled, parley.CodeInterrupted},
		{parley.Result{Code: parley.CodeNameTaken, Detail: "d"}.Err(), parley.CodeNameTaken},
		{parley.Result{}.Err(), parley.CodeOK},
	} {
		if got := parley.CodeOf(c.err); got != c.want {
			t.Errorf("CodeOf(%v) = %v, want %v", c.err, got, c.want)
		}
	}
	if !errors.Is(fmt.Errorf("x: %w", full), &parley.Error{Code: parley.CodeOverloaded}) {
		t.Error("errors.Is does not see the code")
	}
	if errors.Is(full, &parley.Error{Code: parley.CodeNoQuorum}) {
		t.Error("errors.Is sees another code")
	}
	if got := full.Error(); got != "overloaded: queue of 3 is full" {
		t.Errorf("Error() = %q", got)
	}
	if got := (&parley.Error{Code: parley.CodeNoQuorum}).Error(); got != "no quorum" {
		t.Errorf("Error() = %q", got)
	}
}

func TestDoHonoursContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := parleytest.NewFake()
		defer f.Close()
		release := make(chan struct{})
		f.OnStart(func(parley.Request) parleytest.Fault { return parleytest.Fault{Hold: release} })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := parley.Do(ctx, f, parley.Request{Command: parley.CreateUser{Name: "u"}})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		time.AfterFunc(time.Hour, func() { close(release) })
		r, err := parley.Do(t.Context(), f, parley.Request{Command: parley.CreateUser{Name: "v"}})
		if err != nil || r.Code != parley.CodeOK {
			t.Errorf("got %+v, %v", r, err)
		}
	})
}

func TestKeys(t *testing.T) {
	for _, c := range []struct {
		command parley.Command
		want    string
	}{
		{parley.CreateUser{Name: "U"}, "U"},
		{parley.DeleteUser{Name: "U"}, "U"},
		{parley.Send{From: "a", To: "U"}, "U"},
		{parley.Ack{User: "U"}, "U"},
		{parley.OpenSession{}, ""},
		{parley.CloseSession{Session: 7}, "7"},
	} {
		if got := c.command.Key(); got != c.want {
			t.Errorf("%T: key %q, want %q", c.command, got, c.want)
		}
	}
}
