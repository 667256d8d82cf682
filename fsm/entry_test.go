package fsm

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"github.com/parley-chat/parley"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// golden compares text with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

// everyOp is a batch with a command of each kind.
func everyOp() *Batch {
	b := new(Batch)
	for _, r := range []parley.Request{
		{Command: parley.OpenSession{}},
		in(3<<16|1, 1, 0, parley.CreateUser{Name: "Zoë"}),
		in(3<<16|1, 300, 299, parley.Send{From: "Bob", To: "ZOË", Body: "hello, world"}),
		{Command: parley.Send{To: "bob", Body: ""}},
		{Command: parley.Ack{User: "Zoë", UpTo: parley.Cursor{Incarnation: 4 << 16, ID: 1 << 40}}},
		{Command: parley.DeleteUser{Name: "bob"}},
		in(3<<16|1, 301, 299, parley.CreateUser{Name: "a,b"}), // refused
		{Command: parley.CloseSession{Session: 3<<16 | 1}},
	} {
		if answer, answered := b.Add(r); answered {
			panic(fmt.Sprint(answer))
		}
	}
	ann := &parley.Actor{User: "Ann", Incarnation: 4 << 16, Credential: 1 << 40}
	admin := &parley.Actor{Admin: true}
	hash := parley.Hash{1, 2, 3, 31: 4}
	later := epoch.Add(time.Hour)
	for _, r := range []parley.Request{
		{As: ann, Command: parley.Send{From: "Ann", To: "bob", Body: "hi"}},
		{As: admin, Command: parley.DeleteUser{Name: "bob"}},
		{Command: parley.Send{From: "Zoë", To: "bob", Body: "hi"}},
		{Command: parley.StoreUser{Name: "Ann", Verifier: "$argon2id$", Invite: hash}},
		in(3<<16|1, 302, 301, parley.StorePassword{User: "ann", Verifier: "$argon2id$", Was: 300, Rehash: true}),
		{As: ann, Command: parley.AddToken{User: "ann", Token: parley.Token{Hash: hash, Scope: parley.ScopeRead, Label: "pager", Expires: later}}},
		{As: ann, Command: parley.RevokeToken{User: "ann", ID: hash.ID()}},
		{As: admin, Command: parley.SetPolicy{Policy: parley.Policy{Auth: parley.AuthRequired, Registration: parley.RegistrationInvite, Tokens: 3, Invites: 300}}},
		{As: admin, Command: parley.AddInvite{Invite: parley.Invite{Hash: hash, Uses: 2, Expires: later}}},
		{As: admin, Command: parley.RevokeInvite{ID: hash.ID()}},
	} {
		if answer, answered := b.Add(r); answered {
			panic(fmt.Sprint(answer))
		}
	}
	b.AddSetMember(parley.Member{ID: "n1", Server: "uuid", Client: "h:3000", Peer: "h:7000", Role: parley.RoleLeader, Term: 9})
	b.AddRemoveMember("n2")
	b.AddSetLimits(Limits{Users: 7})
	b.AddExpireSessions(time.Hour)
	return b
}

// The bytes of entries are in the logs of running clusters. A change of this
// file needs a new version of the format.
func TestEntryGolden(t *testing.T) {
	var b strings.Builder
	entry := everyOp().Encode(epoch)
	b.WriteString(hex.Dump(entry))
	_, ops, err := decodeEntry(entry, 5, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range ops {
		fmt.Fprintf(&b, "kind %d session %d/%d/%d name %q shown %q text %q from %d cursor %d/%d target %d code %d note %d idle %d",
			o.kind, o.session, o.seq, o.answered, o.name, o.shown, o.text, o.from, o.incarnation, o.id, o.target, o.code, o.note, o.idle)
		if o.member != nil {
			fmt.Fprintf(&b, " member %+v", *o.member)
		}
		if o.as.kind != anybody {
			fmt.Fprintf(&b, " as %+v", o.as)
		}
		if o.sender != "" {
			fmt.Fprintf(&b, " sender %q", o.sender)
		}
		if o.account != nil {
			fmt.Fprintf(&b, " account %+v", *o.account)
		}
		if o.limits != nil {
			fmt.Fprintf(&b, " limits %+v", *o.limits)
		}
		b.WriteByte('\n')
	}
	b.WriteString(hex.Dump(new(Batch).Encode(time.Unix(0, 0))))
	golden(t, "entry.golden", b.String())
}

func TestBatchIsReusable(t *testing.T) {
	b := new(Batch)
	one := parley.Request{Command: parley.CreateUser{Name: "bob"}}
	b.Add(one)
	want := append([]byte(nil), b.Encode(epoch)...)
	if b.Size() != len(want) || b.Len() != 1 {
		t.Errorf("size %d, length %d of an entry of %d bytes", b.Size(), b.Len(), len(want))
	}
	b.Add(one)
	b.Encode(epoch.Add(1))
	b.Reset()
	if b.Len() != 0 || b.Size() != entryHeader {
		t.Errorf("after Reset: length %d, size %d", b.Len(), b.Size())
	}
	b.Add(one)
	if got := b.Encode(epoch); !bytes.Equal(got, want) {
		t.Errorf("after Reset:\n%x, want\n%x", got, want)
	}
	if n := testing.AllocsPerRun(100, func() {
		b.Reset()
		b.Add(one)
		b.Encode(epoch)
	}); n > 2 { // folding the name
		t.Errorf("%v allocations for a command", n)
	}
}

func TestBatchFull(t *testing.T) {
	b := new(Batch)
	for range MaxOps {
		if _, answered := b.Add(parley.Request{Command: parley.OpenSession{}}); answered {
			t.Fatalf("answered at %d", b.Len())
		}
	}
	if r, answered := b.Add(parley.Request{Command: parley.OpenSession{}}); !answered || r.Code != parley.CodeOverloaded {
		t.Errorf("beyond MaxOps: %v %v", r, answered)
	}
	if _, ops, err := decodeEntry(b.Encode(epoch), 1, nil); err != nil || len(ops) != MaxOps {
		t.Errorf("%d commands, %v", len(ops), err)
	}
}

func TestBatchAnswers(t *testing.T) {
	long := strings.Repeat("x", 65)
	for _, c := range []struct {
		r    parley.Request
		code parley.Code
	}{
		{parley.Request{Command: parley.CreateUser{}}, parley.CodeBadName},
		{parley.Request{Command: parley.CreateUser{Name: long}}, parley.CodeBadName},
		{parley.Request{Command: parley.CreateUser{Name: "a,b"}}, parley.CodeBadName},
		{parley.Request{Command: parley.CreateUser{Name: "a\uff0cb"}}, parley.CodeBadName}, // full-width comma
		{parley.Request{Command: parley.CreateUser{Name: "a b"}}, parley.CodeBadName},
		{parley.Request{Command: parley.CreateUser{Name: "a\x00b"}}, parley.CodeBadName},
		{parley.Request{Command: parley.CreateUser{Name: "a\xffb"}}, parley.CodeBadName},
		{parley.Request{Command: parley.DeleteUser{Name: "a b"}}, parley.CodeNoSuchUser},
		{parley.Request{Command: parley.Ack{User: ""}}, parley.CodeNoSuchUser},
		{parley.Request{Command: parley.Send{To: "a b"}}, parley.CodeNoSuchUser},
		{parley.Request{Command: parley.Send{To: "bob", Body: "\xff"}}, parley.CodeBadText},
		{parley.Request{Command: parley.Send{From: "\xff", To: "bob"}}, parley.CodeBadText},
		{parley.Request{Command: parley.Send{From: long, To: "bob"}}, parley.CodeBadText},
		{parley.Request{Command: parley.Send{To: "bob", Body: strings.Repeat("x", maxText+1)}}, parley.CodeBodyTooLarge},
		{parley.Request{Seq: 1, Command: parley.CreateUser{Name: "bob"}}, parley.CodeBadRequest},
		{parley.Request{Session: 1, Command: parley.CreateUser{Name: "bob"}}, parley.CodeBadRequest},
		{in(1, 2, 2, parley.CreateUser{Name: "bob"}), parley.CodeBadRequest},
		{in(1, 2, 1, parley.OpenSession{}), parley.CodeBadRequest},
		{in(1, 2, 1, parley.CloseSession{Session: 1}), parley.CodeBadRequest},
		{parley.Request{}, parley.CodeUnsupported},
		{parley.Request{Command: parley.SetPassword{User: "ann", New: "secret"}}, parley.CodeUnsupported}, // no secret gets into the log
		{parley.Request{Command: parley.CreateUser{Name: "ann", Password: "secret"}}, parley.CodeBadRequest},
		{parley.Request{Command: parley.CreateUser{Name: "ann", Invite: "secret"}}, parley.CodeBadRequest},
		{parley.Request{Command: parley.StoreUser{Name: "ann", Verifier: long + long + long + long}}, parley.CodeBadRequest},
		{parley.Request{Command: parley.StorePassword{User: "ann"}}, parley.CodeBadRequest},
		{parley.Request{Command: parley.AddToken{User: "ann", Token: parley.Token{Label: long}}}, parley.CodeBadRequest},
		{parley.Request{Command: parley.AddToken{User: "ann", Token: parley.Token{Scope: 9}}}, parley.CodeBadRequest},
		{parley.Request{Command: parley.SetPolicy{Policy: parley.Policy{Auth: 9}}}, parley.CodeBadRequest},
		{parley.Request{As: &parley.Actor{User: "a,b", Incarnation: 1}, Command: parley.DeleteUser{Name: "ann"}}, parley.CodeUnauthenticated},
		{parley.Request{As: &parley.Actor{User: "ann"}, Command: parley.DeleteUser{Name: "ann"}}, parley.CodeUnauthenticated},
	} {
		b := new(Batch)
		r, answered := b.Add(c.r)
		if !answered || r.Code != c.code || b.Len() != 0 {
			t.Errorf("%+v: %+v, answered %v, length %d", c.r, r, answered, b.Len())
		}
		if r.Code != parley.CodeUnsupported && r.Detail == "" {
			t.Errorf("%+v: %v without detail", c.r, r.Code)
		}
	}
}

func TestCheckEntry(t *testing.T) {
	entry := everyOp().Encode(epoch)
	if err := CheckEntry(entry); err != nil {
		t.Fatal(err)
	}
	for i := range entry {
		for bit := range 8 {
			bad := bytes.Clone(entry)
			bad[i] ^= 1 << bit
			if CheckEntry(bad) == nil {
				t.Fatalf("bit %d of byte %d flipped: not noticed", bit, i)
			}
		}
	}
	for n := range entry {
		if CheckEntry(entry[:n]) == nil {
			t.Fatalf("cut at %d: not noticed", n)
		}
	}
}

// FuzzEntry: what can be decoded is encoded to the same bytes.
func FuzzEntry(f *testing.F) {
	f.Add(everyOp().Encode(epoch)[entryHeader:], uint16(12))
	f.Add([]byte{}, uint16(0))
	f.Fuzz(func(t *testing.T, body []byte, n uint16) {
		b := Batch{buf: append(make([]byte, entryHeader), body...), n: int(n)}
		entry := b.Encode(epoch)
		_, ops, err := decodeEntry(entry, 1, nil)
		if err != nil {
			return
		}
		var again Batch
		for i := range ops {
			again.add(&ops[i])
		}
		if got := again.Encode(epoch); !bytes.Equal(got, entry) {
			t.Errorf("decoded and encoded again:\n%x\n%x", entry, got)
		}
	})
}

// FuzzRecords: no stored value makes a reader panic, and what is well-formed is
// written as it was read.
func FuzzRecords(f *testing.F) {
	f.Add([]byte{1, 1, 0, 0, 0, 'x'})
	f.Add(make([]byte, 12))
	f.Fuzz(func(t *testing.T, p []byte) {
		same := func(what string, ok bool, again []byte) {
			if ok && !bytes.Equal(p, again) {
				t.Errorf("%s: read and written again:\n%x\n%x", what, p, again)
			}
		}
		u, shown, ok := readUser(p)
		same("user", ok, u.append(nil, string(shown)))
		m, ok := readMessage(p)
		same("message", ok, m.append(nil))
		s, ok := readSession(make([]byte, 8), p)
		same("session", ok, s.append(nil))
		r, ok := readRaftMeta(p)
		same("raft", ok, r.append(nil))
		c, ok := readCounts(p)
		same("counts", ok, c.append(nil))
	})
}

func TestFold(t *testing.T) {
	for _, c := range []struct{ name, key, shown string }{
		{"Bob", "bob", "Bob"},
		{"ÄRGER", "ärger", "ÄRGER"},
		{"e\u0301", "é", "é"},
		{"ｂｏｂ", "bob", "bob"},
		{"Ångström", "ångström", "Ångström"},
		{strings.Repeat("x", 64), strings.Repeat("x", 64), strings.Repeat("x", 64)},
	} {
		key, shown, err := Fold(c.name)
		if key != c.key || shown != c.shown || err != nil {
			t.Errorf("Fold(%q) = %q, %q, %v", c.name, key, shown, err)
		}
		if k2, s2, err := Fold(shown); k2 != key || s2 != shown || err != nil {
			t.Errorf("Fold(%q), what is shown: %q, %q, %v", shown, k2, s2, err)
		}
	}
}

// What is stored is read by later versions. A change of this file needs a new
// version of the format.
func TestCheckpointGolden(t *testing.T) {
	f := start(t, Config{})
	f.ApplyBatch([]*raft.Log{
		entryOf(t, 2, epoch, parley.Request{Command: parley.OpenSession{}}),
		entryOf(t, 3, epoch.Add(time.Second),
			in(2<<16, 1, 0, parley.CreateUser{Name: "Zoë"}),
			in(2<<16, 2, 0, parley.Send{From: "Bob", To: "zoë", Body: "hello"}),
			in(2<<16, 3, 1, parley.Send{To: "zoë", Body: "world"}),
			in(2<<16, 4, 1, parley.CreateUser{Name: "a,b"}),
			parley.Request{Command: parley.Ack{User: "zoë", UpTo: parley.Cursor{ID: 1}}},
			parley.Request{Command: parley.CreateUser{Name: "ann"}}),
		{Index: 4, Term: 2, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "uuid", Address: "n1"}}})},
		{Index: 5, Term: 2, Type: raft.LogCommand, Data: entryBytes(func(b *Batch) {
			b.AddSetMember(parley.Member{ID: "n1", Server: "uuid", Client: "h:3000", Peer: "h:7000"})
		})},
	})
	if err := f.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	err := f.st.db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
			return bucket.ForEach(func(k, v []byte) error {
				fmt.Fprintf(&b, "%s %q\n%s", name, k, hex.Dump(v))
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "checkpoint.golden", b.String())
}

func entryBytes(fill func(*Batch)) []byte {
	b := new(Batch)
	fill(b)
	return b.Encode(epoch)
}
