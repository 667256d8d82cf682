package fsm

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/parley-chat/parley"
)

// contents is what is kept in memory of a checkpoint.
type contents struct {
	raftMeta
	counts
	policyMeta
	limits    Limits
	members   map[string]parley.Member
	sessions  map[parley.SessionID]*session
	directory *directory
}

// verify reads a checkpoint file from end to end and checks all of it: that the
// pages make trees, that every value is what was written, and that nothing that
// one record speaks of is missing elsewhere. Nothing else may have the file open
// for writing.
func verify(path string) (*contents, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	stop := readAhead(f, info.Size())
	defer stop()
	c, err := verifyPages(f, info.Size())
	if err != nil {
		return nil, fmt.Errorf("verify %s: %w", path, err)
	}
	return c, nil
}

// readAhead reads a file from front to back, to have the system keep it in
// memory: the order of keys is not that of pages, and a disk takes some ten times
// as long to find them one by one. It owns a goroutine, which ends with the file,
// at an error, which others will meet, too, or with stop.
func readAhead(f io.ReaderAt, size int64) (stop func()) {
	var stopped atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<20)
		for at := int64(0); at < size && !stopped.Load(); at += int64(len(buf)) {
			if _, err := f.ReadAt(buf, at); err != nil {
				return
			}
		}
	}()
	return func() {
		stopped.Store(true)
		<-done
	}
}

func verifyPages(f io.ReaderAt, size int64) (*contents, error) {
	v := &verifier{
		contents: contents{
			members: make(map[string]parley.Member), sessions: make(map[parley.SessionID]*session),
			directory: newDirectory(),
		},
		meta:  make(map[string]bool),
		boxes: make(map[parley.Incarnation]*account),
	}
	if err := v.file(f, size); err != nil {
		return nil, err
	}
	return &v.contents, nil
}

// verifier checks the records of a checkpoint as it reads them.
type verifier struct {
	contents
	found counts                          // what there is, to be compared with what the counts say
	meta  map[string]bool                 // keys of the meta bucket seen
	boxes map[parley.Incarnation]*account // to whom mail belongs

	accounts, invites uint64 // found
}

func (v *verifier) file(f io.ReaderAt, size int64) error {
	pages, err := openPages(f, size)
	if err != nil {
		return err
	}
	type tree struct {
		root   uint64
		inline []byte
	}
	var trees []tree
	err = pages.buckets(func(name []byte, root uint64, inline []byte) error {
		if i := len(trees); i == len(buckets) || !bytes.Equal(name, buckets[i].name) {
			return damaged("unexpected bucket %q", name)
		}
		trees = append(trees, tree{root, inline})
		return nil
	})
	if err != nil {
		return err
	}
	if len(trees) != len(buckets) {
		return damaged("%d of %d buckets are missing", len(buckets)-len(trees), len(buckets))
	}
	walk := func(i int) error {
		return pages.walk(trees[i].root, trees[i].inline, func(flags uint32, key, value []byte) error {
			return v.value(buckets[i], flags, key, value)
		})
	}
	// First meta, because it says which format the others have; users before their accounts and mail.
	const accounts, mail, members, meta, sessions, users = 0, 1, 2, 3, 4, 5
	for _, i := range [...]int{meta, users, accounts, mail, members, sessions} {
		if err := walk(i); err != nil {
			return err
		}
	}
	return v.complete()
}

func (v *verifier) value(b bucket, flags uint32, key, value []byte) error {
	if flags != 0 {
		return damaged("bucket %s, key %x: not a value", b.name, key)
	}
	payload, err := b.open(key, value)
	if err != nil {
		return err
	}
	ok, err := v.record(b, key, payload)
	if err == nil && !ok {
		err = b.malformed(key)
	}
	return err
}

// complete checks that nothing is missing.
func (v *verifier) complete() error {
	v.found.now = v.now
	switch {
	case len(v.meta) != 5:
		return damaged("%d of 5 keys of bucket meta are missing", 5-len(v.meta))
	case v.accounts != v.policyMeta.accounts || v.invites != v.policyMeta.invites:
		return damaged("there are %d accounts and %d invitations where there should be %d and %d",
			v.accounts, v.invites, v.policyMeta.accounts, v.policyMeta.invites)
	case v.found != v.counts:
		return damaged("there are %d users, %d messages, %d sessions and %d members where there should be %d, %d, %d and %d",
			v.found.users, v.found.unread, v.found.sessions, v.found.members, v.users, v.unread, v.counts.sessions, v.counts.members)
	}
	return nil
}

// record checks one value and reports whether it is well-formed.
func (v *verifier) record(b bucket, key, payload []byte) (ok bool, err error) {
	switch string(b.name) {
	case "users":
		v.found.users++
		return v.user(string(key), payload), nil
	case "accounts":
		return v.secret(string(key), string(payload)), nil
	case "mail":
		v.found.unread++
		h, text, ok := readHead(payload)
		return ok && v.mail(key, h, uint64(len(text))), nil
	case "sessions":
		v.found.sessions++
		s, ok := readSession(key, payload)
		if ok {
			v.sessions[s.id] = s
		}
		return ok, nil
	case "members":
		v.found.members++
		r := reader{s: string(payload)}
		v.members[string(key)] = readMember(string(key), &r)
		return r.done(), nil
	}
	return v.metaRecord(string(key), payload)
}

func (v *verifier) metaRecord(key string, payload []byte) (ok bool, err error) {
	switch v.meta[key] = true; key {
	case string(keyFormat):
		if len(payload) == 1 && payload[0] != formatVersion {
			return false, fmt.Errorf("the checkpoint has format %d and this program knows only %d: run the version of Parley that wrote it, or move the data directory away and let the node join again as a new member",
				payload[0], formatVersion)
		}
		return len(payload) == 1 && payload[0] == formatVersion, nil
	case string(keyPolicy):
		v.policyMeta, ok = readPolicyMeta(string(payload))
		return ok, nil
	case string(keyLimits):
		r := reader{s: string(payload)}
		v.limits = readLimits(&r)
		return r.done(), nil
	case string(keyRaft):
		v.raftMeta, ok = readRaftMeta(payload)
		return ok, nil
	case string(keyState):
		v.counts, ok = readCounts(payload)
		return ok, nil
	}
	return false, nil
}

// user makes an account of a user's record, whose mail is still to come.
func (v *verifier) user(name string, payload []byte) bool {
	u, shown, ok := readUser(payload)
	if !ok || name == "" || len(name) > maxName || len(shown) > maxName || v.boxes[u.incarnation] != nil {
		return false
	}
	v.boxes[u.incarnation] = v.directory.add(name, string(shown), u)
	return true
}

// mail adds a message to its mailbox, where it must be the next one.
func (v *verifier) mail(key []byte, h head, size uint64) bool {
	a := v.boxes[h.box]
	if len(key) != 8 || a == nil || h.id != a.last+1 || h.end != a.sent+size {
		return false
	}
	pos := beUint64(key)
	a.last, a.sent = h.id, h.end
	v.directory.push(a, pos)
	return pos < position(v.index+1, 0)
}

func beUint64(b []byte) uint64 {
	r := reader{s: string(b)}
	return uint64(r.int64())
}
