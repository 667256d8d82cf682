package test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/lab"
	"github.com/parley-chat/parley/internal/local"
	"github.com/parley-chat/parley/node"
)

// damageRows are about files that are not as they were written.
func damageRows() []row {
	const kinds = "a bit is flipped, a sector or page is zero, noise, or half another one, or a file is shorter, in log, segments, vote, state or identity"
	return []row{
		{
			name: "damage-files", happens: "250 copies of a dead node's data are damaged in one place each: " + kinds,
			passes: "each copy is refused at its start, or serves exactly what the undamaged one serves", run: damageFiles,
		},
		{
			name: "damage-node", happens: "the data of a killed node are damaged so, ten times", passes: "the process refuses to start and says what to do, and joins again as a new member; or it starts and is none the worse",
			run: damageNode,
		},
		{
			name: "damage-majority", happens: "the logs of two of three dead nodes are cut in half", passes: "both refuse to start, the third acknowledges nothing; all is there when the files are as they were", run: damageMajority,
		},
	}
}

// damage changes one file of a data directory, and says what it did.
func damage(dir string, rng *rand.Rand) (what string, err error) {
	var files []string
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() != "lock" {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	path := files[rng.IntN(len(files))]
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	what, b = damaged(b, rng)
	rel, err := filepath.Rel(dir, path)
	return rel + ": " + what, errors.Join(err, os.WriteFile(path, b, 0o600))
}

// damaged are the bytes of a file with something wrong with them.
func damaged(b []byte, rng *rand.Rand) (string, []byte) {
	if len(b) == 0 {
		return "nothing, it is empty", b
	}
	used := len(b) // most of a new segment is empty; damage shall meet what is written
	for used > 1 && b[used-1] == 0 {
		used--
	}
	at := rng.IntN(used)
	size := []int{512, 4096}[rng.IntN(2)]
	from := at / size * size
	part := b[from:min(from+size, len(b))]
	switch rng.IntN(5) {
	case 0:
		clear(part)
		return fmt.Sprintf("%d bytes at %d are 0", len(part), from), b
	case 1:
		for i := range part {
			part[i] = byte(rng.Uint32())
		}
		return fmt.Sprintf("%d bytes at %d are noise", len(part), from), b
	case 2:
		other := rng.IntN(used) / size * size
		n := copy(part[len(part)/2:], b[other:min(other+size/2, len(b))])
		return fmt.Sprintf("%d bytes at %d are those from %d", n, from+len(part)/2, other), b
	case 3:
		return fmt.Sprintf("cut off at %d of %d", at, len(b)), b[:at]
	}
	bit := rng.IntN(8)
	b[at] ^= 1 << bit
	return fmt.Sprintf("bit %d of byte %d is flipped", bit, at), b
}

// memory is a directory for data that need no disk.
func (e *episode) memory() string {
	e.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "parley-matrix-")
	if err != nil {
		dir, err = os.MkdirTemp("", "parley-matrix-")
	}
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// alone runs a node, the only member of its cluster, in this process, and lets it
// be asked once it answers. refused is why it did not start.
func alone(dir, store string, rng *rand.Rand, ask func(context.Context, *node.Node) error) (refused, err error) {
	port := lab.NewNet(rng).Listen("n1", func(string, uint64) {})
	defer port.Kill()
	n, refused := node.Open(context.Background(), node.Config{
		Name: "n1", Dir: dir, Network: port, LogStore: node.LogStore(store), HeartbeatTimeout: 50 * time.Millisecond,
		ClientAddr: "n1:1", PeerAddr: "n1:2",
	})
	if refused != nil {
		return refused, nil
	}
	port.Serve(n)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err = insist(ctx, n, parley.Users{})
	if err == nil {
		err = ask(ctx, n)
	}
	return nil, errors.Join(err, n.Err(), n.Shutdown(ctx))
}

// everything is all that a node has to show, and the term in which it leads.
func everything(ctx context.Context, n *node.Node) (shown string, term uint64, err error) {
	var b strings.Builder
	names, err := insist(ctx, n, parley.Users{})
	if err != nil {
		return "", 0, err
	}
	for _, name := range names.Names {
		for q := (parley.Inbox{User: name}); ; {
			r, err := insist(ctx, n, q)
			if err != nil {
				return "", 0, err
			}
			fmt.Fprintf(&b, "%s %v %d\n", name, r.Cursor, r.Unread)
			for _, m := range r.Messages {
				fmt.Fprintf(&b, "\t%v %s %s %v\n", m.Cursor, m.From, m.Body, m.Time.UnixNano())
				q.After = m.Cursor
			}
			if !r.More {
				break
			}
		}
	}
	term, err = termOf(ctx, n)
	return b.String(), term, err
}

// termOf is the term of a cluster of one.
func termOf(ctx context.Context, s parley.Service) (uint64, error) {
	r, err := s.Get(ctx, parley.Status{})
	if err != nil || len(r.Members) != 1 {
		return 0, fmt.Errorf("%d members: %w", len(r.Members), err)
	}
	return r.Members[0].Term, nil
}

// insist asks until there is an answer.
func insist(ctx context.Context, s parley.Service, q parley.Query) (parley.Result, error) {
	for {
		r, err := s.Get(ctx, q)
		if err == nil || ctx.Err() != nil || !parley.CodeOf(err).Retryable() {
			return r, errors.Join(err, r.Err())
		}
		time.Sleep(2 * time.Millisecond) // between polls
	}
}

// copyFiles copies all files of a data directory.
func copyFiles(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch target := filepath.Join(to, rel); {
		case d.IsDir():
			return os.MkdirAll(target, 0o700)
		case d.Type().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(target, b, 0o600)
		}
		return nil // a socket
	})
}

// image kills a cluster's only node and returns a copy of its data.
func (e *episode) image(n *local.Node, to string) {
	e.Helper()
	n.Kill()
	if err := copyFiles(n.Data, to); err != nil {
		e.Fatal(err)
	}
}

func damageFiles(e *episode) {
	flags := small(e)
	e.start(setting{nodes: 1, senders: 2, boxes: 2, args: flags})
	e.grow(20)
	dir := e.memory()
	image := filepath.Join(dir, "image")
	e.image(e.Nodes()[0], image) // it starts again in the end, the load waits meanwhile
	copied := func() string {
		to := filepath.Join(dir, "copy")
		if err := errors.Join(os.RemoveAll(to), copyFiles(image, to)); err != nil {
			e.Fatal(err)
		}
		return to
	}
	var want string
	var term uint64
	refused, err := alone(copied(), flags[1], e.rng, func(ctx context.Context, n *node.Node) (err error) {
		want, term, err = everything(ctx, n)
		return err
	})
	if err := errors.Join(refused, err); err != nil {
		e.Fatalf("the undamaged copy: %v", err)
	}
	noticed := 0
	for range 250 {
		to := copied()
		what, err := damage(to, e.rng)
		if err != nil {
			e.Fatal(err)
		}
		e.fault("damaged copy", "%s", what)
		var shown string
		var now uint64
		refused, err := alone(to, flags[1], e.rng, func(ctx context.Context, n *node.Node) (err error) {
			shown, now, err = everything(ctx, n)
			return err
		})
		switch {
		case refused != nil:
			noticed++
		case err != nil:
			e.Errorf("%s: it started, and then: %v", what, err)
		case shown != want:
			e.Errorf("%s: it was not noticed, and the node shows %d bytes %.200q… instead of %d bytes", what, len(shown), shown, len(want))
		case now < term:
			e.Errorf("%s: it was not noticed, and the node leads in term %d, the undamaged one in term %d", what, now, term)
		}
	}
	e.begin(e.Nodes()[0])
	e.whole()
	e.healed()
	e.extra = append(e.extra, fmt.Sprintf("%d of 250 damages noticed, the others without effect", noticed))
}

func damageNode(e *episode) {
	e.start(setting{args: small(e), talk: true})
	noticed := 0
	for range 10 {
		n := e.follower()
		n.Kill()
		what, err := damage(n.Data, e.rng)
		if err != nil {
			e.Fatal(err)
		}
		e.fault("damaged node", "%s: %s", n.Name, what)
		e.mayEnd(n, true)
		e.begin(n)
		if err := n.WaitReady(e.Context()); err != nil {
			noticed++
			if said := e.awaitEnd(n, patience); !strings.Contains(said, "--join") && !strings.Contains(said, "belongs to node") {
				e.Errorf("%s: %s ends and does not say what to do: %s", what, n.Name, said)
			}
			if err := n.Wipe(); err != nil {
				e.Fatal(err)
			}
			e.begin(n, "--join")
			e.whole()
			waitVoters(e.T, e.Servers(), 3)
		}
		e.mayEnd(n, false)
		e.whole()
		e.healed()
		e.load.awaitAcks(100)
	}
	e.extra = append(e.extra, fmt.Sprintf("%d of 10 damages noticed", noticed))
}

func damageMajority(e *episode) {
	e.start(setting{args: small(e)})
	e.fault("damaged majority", "")
	e.Kill()
	hurt := slices.Clone(e.Nodes())
	e.rng.Shuffle(len(hurt), func(i, j int) { hurt[i], hurt[j] = hurt[j], hurt[i] })
	for _, n := range hurt[:2] {
		if err := copyFiles(n.Data, n.Data+"-image"); err != nil {
			e.Fatal(err)
		}
		if err := cutInHalf(filepath.Join(n.Data, "group-0")); err != nil {
			e.Fatal(err)
		}
		e.mayEnd(n, true)
	}
	for _, n := range hurt {
		e.begin(n)
	}
	for _, n := range hurt[:2] {
		if said := e.awaitEnd(n, patience); !strings.Contains(said, "damaged") {
			e.Errorf("%s does not say that it is damaged: %s", n.Name, said)
		}
	}
	if e.load.acksWithin(3 * time.Second) {
		e.Error("something was acknowledged without a majority")
	}
	for _, n := range hurt[:2] {
		if err := errors.Join(n.Wipe(), os.Rename(n.Data+"-image", n.Data)); err != nil {
			e.Fatal(err)
		}
		e.mayEnd(n, false)
		e.begin(n)
	}
	e.whole()
	e.healed()
}

// cutInHalf shortens all files of the log under a directory to half of what is
// written in them.
func cutInHalf(dir string) error {
	for _, pattern := range []string{"raft*", filepath.Join("raft-wal", "*")} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, path := range files {
			b, err := os.ReadFile(path)
			if err != nil {
				continue // a directory
			}
			if err := os.WriteFile(path, b[:len(strings.TrimRight(string(b), "\x00"))/2], 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}
