package fsm

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/parley-chat/parley"
)

// BenchmarkApply applies entries of 256 messages of 100 bytes, to many users
// and in many sessions, with checkpoints going on; an op is one message. With
// acks, every message is acknowledged soon, as by readers that are connected.
func BenchmarkApply(b *testing.B) {
	for _, acks := range []bool{true, false} {
		b.Run(fmt.Sprintf("acks=%v", acks), func(b *testing.B) { benchmarkApply(b, acks) })
	}
}

func benchmarkApply(b *testing.B, acks bool) {
	const users, sessions, perEntry = 10_000, 64, 256
	f := start(b, Config{Dir: b.TempDir(), MapBytes: 8 << 30})
	l := newLogger(b, f)
	var batch Batch
	batch.AddSetLimits(Limits{MailboxMessages: 1 << 40, MailboxBytes: 1 << 50})
	l.index++
	f.Apply(&raft.Log{Index: l.index, Data: batch.Encode(epoch)})
	name := func(i int) string { return fmt.Sprintf("user%05d", i%users) }
	for i := range users {
		l.cmd(parley.CreateUser{Name: name(i)})
	}
	var ids []parley.SessionID
	for range sessions {
		ids = append(ids, l.cmd(parley.OpenSession{}).Session)
	}
	body := strings.Repeat("x", 100)
	entries := make([][]byte, 200) // the same commands again and again, but for their numbers
	seqs := make([]uint64, sessions)
	encode := func(n int) []byte {
		batch.Reset()
		for i := range perEntry {
			k := n*perEntry + i
			s := k % sessions
			seqs[s]++
			batch.Add(parley.Request{
				Session: ids[s], Seq: seqs[s], Answered: max(seqs[s], 32) - 32,
				Command: parley.Send{From: "sender", To: name(k * 7919), Body: body},
			})
		}
		if acks {
			for i := range perEntry / 16 {
				batch.Add(parley.Request{Command: parley.Ack{User: name((n*perEntry + i*16) * 7919), UpTo: parley.Cursor{ID: 1 << 60}}})
			}
		}
		return append([]byte(nil), batch.Encode(epoch)...)
	}
	b.ReportAllocs()
	b.SetBytes(100)
	b.ResetTimer()
	var applying time.Duration
	for done := 0; done < b.N; {
		b.StopTimer()
		for i := range entries {
			entries[i] = encode(i)
		}
		b.StartTimer()
		at := time.Now()
		for _, e := range entries {
			if done >= b.N {
				break
			}
			l.index++
			if r := f.Apply(&raft.Log{Index: l.index, Term: 1, Data: e}).([]parley.Result); r[0].Code != parley.CodeOK {
				b.Fatalf("%+v", r[0])
			}
			done += perEntry
		}
		applying += time.Since(at)
	}
	b.ReportMetric(float64(b.N)/applying.Seconds()/1000, "kmsg/s")
}

// BenchmarkEncode makes entries of 256 messages of 100 bytes; an op is one message.
func BenchmarkEncode(b *testing.B) {
	var batch Batch
	body := strings.Repeat("x", 100)
	var r parley.Request = in(1<<16, 1, 0, parley.Send{From: "sender", To: "someone", Body: body})
	b.ReportAllocs()
	for i := range b.N {
		if batch.Add(r); i%256 == 255 {
			batch.Encode(epoch)
			batch.Reset()
		}
	}
}

// BenchmarkInbox reads a page of 100 messages from memory or the checkpoint.
func BenchmarkInbox(b *testing.B) {
	for _, where := range []string{"memory", "checkpoint"} {
		b.Run(where, func(b *testing.B) {
			f := start(b, Config{})
			l := newLogger(b, f)
			l.cmd(parley.CreateUser{Name: "bob"})
			for range 100 {
				l.cmd(parley.Send{From: "ann", To: "bob", Body: strings.Repeat("x", 100)})
			}
			if where == "checkpoint" {
				for range 3 {
					l.cmd(parley.OpenSession{})
					l.checkpoint()
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				if r := f.Inbox(parley.Inbox{User: "bob"}); len(r.Messages) != 100 {
					b.Fatal(r)
				}
			}
		})
	}
}

// BenchmarkCheckpoint stores 10,000 messages of 100 bytes to 1,000 users of
// 100,000.
func BenchmarkCheckpoint(b *testing.B) {
	const users = 100_000
	f := start(b, Config{CheckpointEvery: time.Hour})
	l := newLogger(b, f)
	for i := range users {
		l.cmd(parley.CreateUser{Name: fmt.Sprintf("user%05d", i)})
	}
	l.checkpoint()
	body := strings.Repeat("x", 100)
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		for k := range 10_000 {
			l.cmd(parley.Send{To: fmt.Sprintf("user%05d", (i*31+k%1000)*101%users), Body: body})
		}
		b.StartTimer()
		l.checkpoint()
	}
}

// BenchmarkVerify checks a checkpoint of 300,000 messages of 100 bytes, as Open
// does, from memory.
func BenchmarkVerify(b *testing.B) {
	w := newWorld(b, 1000)
	for _, e := range w.entries(300_000/256, load{}) {
		w.apply(e)
	}
	w.checkpoint()
	info, err := os.Stat(w.f.path)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(info.Size())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := verify(w.f.path); err != nil {
			b.Fatal(err)
		}
	}
}
