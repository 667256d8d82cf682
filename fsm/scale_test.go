package fsm

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
)

// world is a state with many users, and a load on it.
type world struct {
	*logger
	users    int
	sessions []parley.SessionID
	seqs     []uint64
	batch    Batch
	rng      *rand.Rand
	sent     int
}

// newWorld creates the users, so many to an entry, and stores them.
func newWorld(b *testing.B, users int) *world { return newWorldAt(b, b.TempDir(), users) }

func newWorldAt(b *testing.B, dir string, users int) *world {
	w := &world{logger: newLogger(b, start(b, Config{Dir: dir, MapBytes: 16 << 30})), users: users, rng: rand.New(rand.NewPCG(1, 2))}
	w.batch.AddSetLimits(Limits{MailboxMessages: 1 << 40, MailboxBytes: 1 << 50, Users: 1 << 40})
	for i := range users {
		w.batch.Add(parley.Request{Command: parley.CreateUser{Name: w.name(i)}})
		if w.batch.Len() >= 4096 || i == users-1 {
			w.apply(w.encode())
		}
	}
	for range 64 {
		w.sessions = append(w.sessions, w.cmd(parley.OpenSession{}).Session)
	}
	w.seqs = make([]uint64, len(w.sessions))
	w.checkpoint()
	return w
}

func (w *world) name(i int) string { return fmt.Sprintf("user-%d", i) }

func (w *world) encode() []byte {
	entry := slices.Clone(w.batch.Encode(epoch))
	w.batch.Reset()
	return entry
}

func (w *world) apply(entry []byte) {
	w.index++
	if r := w.f.Apply(&raft.Log{Index: w.index, Term: 1, Data: entry}).([]parley.Result); r[0].Code != parley.CodeOK {
		w.t.Fatalf("%+v", r[0])
	}
}

// load is who gets the messages, and what becomes of them.
type load struct {
	name   string
	random bool // any user, else one after the other
	acked  bool // by the entry after the next, as by readers that are connected
}

// entries encodes n entries of 256 messages of 100 bytes.
func (w *world) entries(n int, l load) [][]byte {
	const perEntry = 256
	body := strings.Repeat("x", 100)
	var entries [][]byte
	var before, now []string
	for range n {
		for _, name := range before {
			w.batch.Add(parley.Request{Command: parley.Ack{User: name, UpTo: parley.Cursor{ID: 1 << 60}}})
		}
		before, now = now, before[:0]
		for range perEntry {
			to := w.sent % w.users
			if l.random {
				to = w.rng.IntN(w.users)
			}
			w.sent++
			s := w.sent % len(w.sessions)
			w.seqs[s]++
			name := w.name(to)
			w.batch.Add(parley.Request{
				Session: w.sessions[s], Seq: w.seqs[s], Answered: max(w.seqs[s], 32) - 32,
				Command: parley.Send{From: "sender", To: name, Body: body},
			})
			if l.acked {
				now = append(now, name)
			}
		}
		entries = append(entries, w.encode())
	}
	return entries
}

// run applies n messages with checkpoints going on, and reports the processor
// time of all that, and how long the slowest entries took.
func (w *world) run(b *testing.B, l load) {
	b.ReportAllocs()
	b.ResetTimer()
	var took []time.Duration
	var cpu time.Duration
	for done := 0; done < b.N; {
		b.StopTimer()
		entries := w.entries(min(200, (b.N-done+255)/256), l)
		b.StartTimer()
		before := processorTime()
		for _, e := range entries {
			at := time.Now()
			w.apply(e)
			took = append(took, time.Since(at))
			done += 256
		}
		cpu += processorTime() - before
	}
	before := processorTime()
	w.checkpoint()
	cpu += processorTime() - before
	slices.Sort(took)
	b.ReportMetric(float64(cpu.Nanoseconds())/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkScale is BenchmarkApply for more and more users; an op is one message.
func BenchmarkScale(b *testing.B) {
	for _, users := range []int{1_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("users=%d", users), func(b *testing.B) {
			w := newWorld(b, users)
			for _, l := range []load{
				{"inturn/acked", false, true}, {"random/acked", true, true},
				{"inturn/unread", false, false}, {"random/unread", true, false},
			} {
				b.Run(l.name, func(b *testing.B) { w.t = b; w.run(b, l) })
			}
		})
	}
}

// BenchmarkUsers asks for a page of 100 names: of a checkpoint with a million
// users, of memory, and while users are created.
func BenchmarkUsers(b *testing.B) {
	patterns := []struct{ name, pattern string }{
		{"all", ""}, {"prefix", "^user-12"}, {"narrow", "^user-12345$"}, {"fold", "(?i)^USER-12"}, {"literal", "er-77777"}, {"none", "x{2}"},
	}
	for _, where := range []string{"stored", "memory", "created"} {
		users := 1_000_000
		if where != "stored" {
			users = 1000
		}
		b.Run(where, func(b *testing.B) {
			w := newWorld(b, users)
			w.t = b
			create := func(n int) {
				for range n {
					w.users++
					w.batch.Add(parley.Request{Command: parley.CreateUser{Name: w.name(w.users)}})
				}
				w.apply(w.encode())
			}
			if where != "stored" {
				for range 20 {
					create(1000)
				}
			}
			for _, p := range patterns {
				b.Run(p.name, func(b *testing.B) {
					b.ReportAllocs()
					for range b.N {
						if where == "created" {
							b.StopTimer()
							w.t = b
							create(20)
							b.StartTimer()
						}
						if r := w.f.Users(parley.Users{Pattern: p.pattern, Limit: 100}); r.Code != parley.CodeOK {
							b.Fatalf("%+v", r)
						}
					}
				})
			}
		})
	}
}
