package account

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/secure/precis"

	"github.com/parley-chat/parley"
)

// Params is what it costs to hash a password (argon2id, RFC 9106).
type Params struct {
	Memory uint32 // KiB; default and least 19,456 (19 MiB)
	Passes uint32 // default and least 2
}

const (
	leastMemory = 19 << 10
	leastPasses = 2
	threads     = 1
	saltSize    = 16
	keySize     = 32
	// Of what is stored, which may be of another version. More would be damage.
	mostMemory = 1 << 20
	mostPasses = 64
)

func (p Params) withDefaults() Params {
	return Params{Memory: max(p.Memory, leastMemory), Passes: max(p.Passes, leastPasses)}
}

func defaultHashes() int { return min(2, max(1, runtime.NumCPU()/2)) }

// hasher hashes passwords, a few at a time, because each takes much memory and a
// processor. Who waits, waits for as long as the context lasts; not too many may.
type hasher struct {
	params  Params
	slots   chan struct{} // has a token for each hash under way
	most    int64         // that wait
	waiting atomic.Int64
	dummy   string // verifier of a password that nobody knows
}

func newHasher(cfg Config) *hasher {
	h := &hasher{params: cfg.Params, slots: make(chan struct{}, cfg.Hashes), most: int64(cfg.MaxWaiting)}
	salt, key := make([]byte, saltSize), make([]byte, keySize)
	rand.Read(salt) //nolint:errcheck // it never fails
	rand.Read(key)  //nolint:errcheck // it never fails
	h.dummy = formatVerifier(h.params, salt, key)
	return h
}

// hash returns the verifier of a new password.
func (h *hasher) hash(ctx context.Context, password parley.Secret) (string, error) {
	salt := make([]byte, saltSize)
	rand.Read(salt) //nolint:errcheck // it never fails
	key, err := h.derive(ctx, h.params, password, salt)
	if err != nil {
		return "", err
	}
	return formatVerifier(h.params, salt, key), nil
}

// verify reports whether the verifier is that of the password. It takes as long
// without a verifier.
func (h *hasher) verify(ctx context.Context, verifier string, password parley.Secret) (bool, error) {
	there := verifier != ""
	if !there {
		verifier = h.dummy
	}
	p, salt, want, err := parseVerifier(verifier)
	if err != nil {
		return false, parley.Errorf(parley.CodeUnsupported, "the password is stored in a form that this version does not know: %v", err)
	}
	key, err := h.derive(ctx, p, password, salt)
	return err == nil && subtle.ConstantTimeCompare(key, want) == 1 && there, err
}

func (h *hasher) derive(ctx context.Context, p Params, password parley.Secret, salt []byte) ([]byte, error) {
	select {
	case h.slots <- struct{}{}:
	default:
		if n := h.waiting.Add(1); n > h.most {
			h.waiting.Add(-1)
			return nil, parley.Errorf(parley.CodeOverloaded, "%d passwords wait to be hashed: limit %d", n-1, h.most)
		}
		defer h.waiting.Add(-1)
		select {
		case h.slots <- struct{}{}:
		case <-ctx.Done():
			return nil, parley.Errorf(parley.CodeOverloaded, "given up while a password waited to be hashed: %v", context.Cause(ctx))
		}
	}
	defer func() { <-h.slots }()
	return argon2.IDKey(canonical(password), salt, p.Passes, p.Memory, threads, keySize), nil
}

// canonical makes one of the ways in which the same characters can be typed
// (RFC 8265, OpaqueString).
func canonical(password parley.Secret) []byte {
	if b, err := precis.OpaqueString.Bytes([]byte(password)); err == nil {
		return b
	}
	return []byte(password)
}

// checkPassword says what is wrong with a new password, "" if nothing is.
func (g *Guard) checkPassword(password parley.Secret) string {
	if n := len(password); n < g.cfg.MinPassword || n > g.cfg.MaxPassword {
		return fmt.Sprintf("the password has %d bytes: %d to %d are allowed", n, g.cfg.MinPassword, g.cfg.MaxPassword)
	}
	if _, err := precis.OpaqueString.Bytes([]byte(password)); err != nil || !utf8.ValidString(string(password)) {
		return "the password has characters that it cannot be typed by again with certainty (RFC 8265): control characters, or bytes that are not UTF-8"
	}
	return ""
}

// A verifier is a string as PHC lays down:
// $argon2id$v=19$m=19456,t=2,p=1$<salt>$<key>, both in base64 without padding.
var phc = base64.RawStdEncoding

func formatVerifier(p Params, salt, key []byte) string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.Memory, p.Passes, threads,
		phc.EncodeToString(salt), phc.EncodeToString(key))
}

func parseVerifier(s string) (p Params, salt, key []byte, err error) {
	bad := fmt.Errorf("not an argon2id verifier")
	f := strings.Split(s, "$")
	if len(f) != 6 {
		return p, nil, nil, bad
	}
	if _, err := fmt.Sscanf(f[3], "m=%d,t=%d,", &p.Memory, &p.Passes); err != nil {
		return p, nil, nil, bad
	}
	if p.Memory < 8 || p.Memory > mostMemory || p.Passes < 1 || p.Passes > mostPasses {
		return p, nil, nil, bad
	}
	salt, err1 := phc.DecodeString(f[4])
	key, err2 := phc.DecodeString(f[5])
	if err1 != nil || err2 != nil || len(key) != keySize || formatVerifier(p, salt, key) != s {
		return p, nil, nil, bad
	}
	return p, salt, key, nil
}
