package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/internal/faultfs"
	"github.com/parley-chat/parley/internal/local"
)

// diskRows are about disks that fail, hang, are slow or full.
func diskRows() []row {
	fuse := []need{needRoot, needFUSE}
	mount := []need{needRoot, needProgram("mount")}
	const ends = "it ends and names its disk, another one leads and commits within 10 s; it starts when the disk is in order"
	return []row{
		{
			name: "disk-sync-fails", happens: "the leader's disk answers every sync with EIO", passes: ends, needs: fuse,
			run: func(e *episode) { leaderDisk(e, "sync fails", faultfs.Trouble{On: faultfs.Syncs, Err: syscall.EIO}) },
		},
		{
			name: "disk-write-fails", happens: "the leader's disk answers every write with EIO", passes: ends, needs: fuse,
			run: func(e *episode) {
				leaderDisk(e, "write fails", faultfs.Trouble{On: faultfs.Writes, Err: syscall.EIO})
			},
		},
		{
			name: "disk-no-space", happens: "the leader's disk answers every write with ENOSPC", passes: ends, needs: fuse,
			run: func(e *episode) {
				leaderDisk(e, "no space", faultfs.Trouble{On: faultfs.Writes, Err: syscall.ENOSPC})
			},
		},
		{
			name: "disk-hangs", happens: "the leader's disk answers nothing any more", passes: "another one leads and commits within 10 s, the node ends when its disk lets it", needs: fuse,
			run: diskHangs,
		},
		{
			name: "disk-slow", happens: "a follower's disk takes 100 ms for every sync, for 15 s", passes: "commits go on, it has caught up within 60 s", needs: fuse,
			run: diskSlow,
		},
		{
			name: "disk-full-log", happens: "the file system of one node's log is full", passes: "it ends and says so, commits go on; it starts when there is room", needs: mount,
			run: func(e *episode) { diskFull(e, "group-0") },
		},
		{
			name: "disk-full-state", happens: "the file system of one node's state is full when it writes a checkpoint", passes: "the same", needs: mount,
			run: func(e *episode) { diskFull(e, filepath.Join("group-0", "state")) },
		},
		{
			name: "disk-full-snapshot", happens: "a node that has lost its data joins again, and the file system of its state is too small for the snapshot", passes: "it refuses the snapshot and says why, commits go on; it is a member with a vote soon after there is room", needs: mount,
			run: diskFullSnapshot,
		},
	}
}

// leaderDisk lets the leader's disk fail, twice.
func leaderDisk(e *episode, kind string, t faultfs.Trouble) {
	e.start(setting{disks: true, talk: true, args: small(e)})
	for range 2 {
		n := e.leader()
		e.fault(kind, "%s", n.Name)
		e.mayEnd(n, true)
		e.disks[n].Set(t)
		e.newLeader(n, commitsWithin)
		if said := e.awaitEnd(n, commitsWithin); !strings.Contains(said, t.Err.Error()) {
			e.Errorf("%s does not say %q: %s", n.Name, t.Err, said)
		}
		e.disks[n].Set(faultfs.Trouble{})
		e.mayEnd(n, false)
		e.begin(n)
		e.whole()
		e.healed()
	}
}

func diskHangs(e *episode) {
	e.start(setting{disks: true, talk: true, args: small(e)})
	n := e.leader()
	e.fault("disk hangs", "%s", n.Name)
	e.mayEnd(n, true)
	e.disks[n].Freeze()
	e.newLeader(n, commitsWithin)
	time.Sleep(time.Until(e.last.Add(2*commitsWithin - 5*time.Second))) // the node finds out on its own; it cannot end as long as one of its threads hangs
	e.disks[n].Fail()
	e.awaitEnd(n, commitsWithin)
	e.remount(n, e.disks[n].Disk())
	e.mayEnd(n, false)
	e.begin(n)
	e.whole()
	e.healed()
}

func diskSlow(e *episode) {
	e.start(setting{disks: true, talk: true, args: small(e)})
	n := e.follower()
	e.fault("disk slow", "%s", n.Name)
	e.disks[n].Set(faultfs.Trouble{On: faultfs.Syncs, Delay: 100 * time.Millisecond})
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(time.Second) {
		if !e.load.acksWithin(5 * time.Second) {
			e.Fatal("commits have stopped")
		}
	}
	e.disks[n].Set(faultfs.Trouble{})
	e.healed()
	e.caughtUp(time.Minute)
}

// tmpfs mounts a file system of a size on a directory, which is made, until the
// episode ends.
func (e *episode) tmpfs(dir, size string) {
	e.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		e.Fatal(err)
	}
	e.mount("-t", "tmpfs", "-o", "size="+size+",mode=700", "tmpfs", dir)
	e.Cleanup(func() { // before the directory is removed; the node has been killed by then, or is now
		e.close()
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			e.Errorf("umount: %v %s", err, out)
		}
	})
}

func (e *episode) mount(args ...string) {
	e.Helper()
	if out, err := exec.Command("mount", args...).CombinedOutput(); err != nil {
		e.Fatalf("mount %v: %v %s", args, err, out)
	}
}

// fill leaves no room in a file system, and returns what makes room.
func (e *episode) fill(dir string) (empty func()) {
	e.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		e.Fatal(err)
	}
	block := make([]byte, 4096)
	for err == nil {
		_, err = f.Write(block)
	}
	f.Close()
	return func() {
		if err := os.Remove(path); err != nil {
			e.Fatal(err)
		}
	}
}

// grow makes the state and the log larger, by mail that nobody reads.
func (e *episode) grow(mail int) {
	e.Helper()
	s := newClient(e.T, e.Servers()...).Session()
	if r, err := s.Do(e.Context(), parley.CreateUser{Name: "sleeper"}); err != nil || r.Code != parley.CodeOK && r.Code != parley.CodeNameTaken {
		e.Fatal(r.Err(), err)
	}
	for i := range mail {
		must(e.T, s, parley.Send{To: "sleeper", Body: fmt.Sprintf("%d %s", i, strings.Repeat("x", 16<<10))})
	}
}

// awaitFull waits until a node has ended and said that its disk is full.
func (e *episode) awaitFull(n *local.Node) {
	e.Helper()
	if said := e.awaitEnd(n, patience); !strings.Contains(said, syscall.ENOSPC.Error()) {
		e.Errorf("%s does not say that its disk is full: %s", n.Name, said)
	}
}

func diskFull(e *episode, where string) {
	at := e.rng.IntN(3)
	var dir string
	e.start(setting{args: []string{"--checkpoint-bytes", "256KiB", "--checkpoint-every", "500ms"}, prepare: func(c *local.Cluster) {
		dir = filepath.Join(c.Nodes()[at].Data, where)
		e.tmpfs(dir, "256m")
	}})
	n := e.Nodes()[at]
	e.fault("disk full", "%s", n.Name)
	e.mayEnd(n, true)
	empty := e.fill(dir)
	e.grow(200)
	e.awaitFull(n)
	if !e.load.acksWithin(commitsWithin) {
		e.Error("commits have stopped")
	}
	empty()
	e.mayEnd(n, false)
	e.begin(n)
	e.whole()
	e.healed()
}

func diskFullSnapshot(e *episode) {
	e.start(setting{args: append(manyEntries(), "--checkpoint-bytes", "256KiB", "--checkpoint-every", "500ms")})
	e.grow(200)
	for _, n := range e.Nodes() {
		eventuallyFor(e.T, 4*time.Minute, func() error { return truncated(n) })
	}
	n := e.follower()
	e.fault("disk full", "%s", n.Name)
	n.Kill()
	if err := n.Wipe(); err != nil {
		e.Fatal(err)
	}
	dir := filepath.Join(n.Data, "group-0", "state")
	e.tmpfs(dir, "1m")
	e.begin(n, "--join")
	eventually(e.T, func() error {
		if said, err := n.Tail(1 << 20); err != nil || !strings.Contains(said, syscall.ENOSPC.Error()) {
			return fmt.Errorf("%s does not say that its disk is full: %v", n.Name, err)
		}
		return nil
	})
	if !e.load.acksWithin(commitsWithin) {
		e.Error("commits have stopped")
	}
	e.mount("-o", "remount,size=256m", dir)
	e.whole()
	waitVoters(e.T, e.Servers(), 3)
	e.healed()
}

// manyEntries are flags with which a log is truncated soon.
func manyEntries() []string {
	return []string{"--snapshot-interval", "1s", "--batch-commands", "4", "--entries-in-flight", "32"}
}

// truncated says that a node's log still has everything that a new member needs.
func truncated(n *local.Node) error {
	said, err := n.Tail(16 << 20)
	if err == nil && !strings.Contains(said, "compacting logs") {
		err = fmt.Errorf("%s has not truncated its log", n.Name)
	}
	return err
}
