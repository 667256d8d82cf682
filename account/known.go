package account

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"sync"

	"github.com/parley-chat/parley"
)

// known remembers for which names and passwords a service was handed out, so
// that clients which send them with every call need not wait each time. The
// passwords cannot be read from it: it keeps what a key makes of them that is in
// memory only. Each service says itself whether it is still of use.
type known struct {
	key [sha256.Size]byte

	mu  sync.Mutex
	all map[[sha256.Size]byte]*service
}

const maxKnown = 4096

func newKnown() *known {
	k := &known{all: make(map[[sha256.Size]byte]*service)}
	rand.Read(k.key[:]) //nolint:errcheck // it never fails
	return k
}

func (k *known) sum(c parley.Credentials) (sum [sha256.Size]byte) {
	m := hmac.New(sha256.New, k.key[:])
	io.WriteString(m, c.User)             //nolint:errcheck // it never fails
	m.Write([]byte{0})                    //nolint:errcheck // it never fails
	io.WriteString(m, string(c.Password)) //nolint:errcheck // it never fails
	return [sha256.Size]byte(m.Sum(nil))
}

func (k *known) find(c parley.Credentials) *service {
	sum := k.sum(c)
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.all[sum]
}

func (k *known) add(c parley.Credentials, s *service) {
	sum := k.sum(c)
	k.mu.Lock()
	defer k.mu.Unlock()
	for old := range k.all { // any one
		if len(k.all) < maxKnown {
			break
		}
		delete(k.all, old)
	}
	k.all[sum] = s
}
