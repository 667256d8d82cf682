package main

import (
	"time"

	"github.com/spf13/pflag"
)

// authSettings are about passwords and logins.
type authSettings struct {
	minPassword, maxPassword int
	memory                   int64
	passes                   uint32
	hashes, waiting          int
	delay                    time.Duration
}

func (a *authSettings) add(f *pflag.FlagSet) {
	f.IntVar(&a.minPassword, "password-min", 8, "least bytes of a new password")
	f.IntVar(&a.maxPassword, "password-max", 256, "most bytes of a new password")
	sizeVar(f, &a.memory, "password-memory", 19<<20, "memory that hashing a password takes (argon2id); at least 19M")
	f.Uint32Var(&a.passes, "password-passes", 2, "passes over that memory; at least 2")
	f.IntVar(&a.hashes, "password-hashes", 0, "passwords hashed at a time, 1 or 2; 0: half the processors")
	f.IntVar(&a.waiting, "logins-waiting", 64, "most logins and new passwords that wait for that, a quarter of it from one address; more are refused as overload")
	f.DurationVar(&a.delay, "login-delay", 2*time.Second, "longest that a login waits because of failed ones from its address or for its account")
}

// numbers says which of the settings are within their bounds.
func (a *authSettings) numbers() map[string]bool {
	return map[string]bool{
		"password-min":    a.minPassword > 0,
		"password-max":    a.maxPassword >= a.minPassword && a.maxPassword <= 4<<10,
		"password-memory": a.memory >= 19<<20 && a.memory <= 1<<30,
		"password-passes": a.passes >= 2 && a.passes <= 64,
		"password-hashes": a.hashes >= 0 && a.hashes <= 2,
		"logins-waiting":  a.waiting > 0,
		"login-delay":     a.delay > 0,
	}
}
