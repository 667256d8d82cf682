package faultfs

import (
	"log"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Mount is a disk that programs of this machine use. This process must not map
// files of it into memory: it would wait for itself.
//
// Programs that are killed while the disk is frozen end only when it is thawed or
// has failed.
type Mount struct {
	server *fuse.Server

	mu       sync.Mutex
	thawed   sync.Cond
	disk     *Disk
	frozen   bool
	dead     bool
	freezeAt int           // changes until the disk freezes by itself; 0: it does not
	froze    chan struct{} // closed when it does
	trouble  Trouble
	changes  int
}

// Open mounts a disk on a directory, which must exist. [Mount.Close] must be
// called at the end.
func Open(d *Disk, dir string) (*Mount, error) {
	m := &Mount{disk: d}
	m.thawed.L = &m.mu
	server, err := fuse.NewServer(&files{RawFileSystem: fuse.NewDefaultRawFileSystem(), m: m}, dir, &fuse.MountOptions{
		DirectMountStrict: true, FsName: "faultfs", Name: "faultfs",
		DisableXAttrs: true, DisableReadDirPlus: true, MaxWrite: 1 << 20,
		Logger: log.New(quiet{}, "", 0),
	})
	if err != nil {
		return nil, err
	}
	m.server = server
	go server.Serve()
	if err := server.WaitMount(); err != nil {
		return nil, err
	}
	return m, nil
}

// quiet swallows what go-fuse has to say about processes that were killed.
type quiet struct{}

func (quiet) Write(p []byte) (int, error) { return len(p), nil }

// Close unmounts the disk. No program may use it any more.
func (m *Mount) Close() error {
	m.Fail()
	return m.server.Unmount()
}

// Disk is the disk.
func (m *Mount) Disk() *Disk { return m.disk }

// Freeze lets all operations wait from now on, those under way too.
func (m *Mount) Freeze() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.frozen = true
}

// FreezeAt freezes the disk after n more changes: writes, syncs, changes of names.
// The channel is closed when that has come.
func (m *Mount) FreezeAt(n int) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.freezeAt, m.froze = n, make(chan struct{})
	return m.froze
}

// Thaw lets operations go on.
func (m *Mount) Thaw() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.frozen = false
	m.thawed.Broadcast()
}

// Fail lets all operations end with an error and without effect from now on,
// those too that wait in a frozen disk.
func (m *Mount) Fail() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.frozen, m.dead = false, true
	m.thawed.Broadcast()
}

// Set replaces what goes wrong with the disk.
func (m *Mount) Set(t Trouble) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trouble = t
}

// Changes is the number of changes so far.
func (m *Mount) Changes() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changes
}

// run carries out an operation on the disk, with what goes wrong.
func (m *Mount) run(k Kind, operation func(*Disk) syscall.Errno) fuse.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.trouble; t.On&k != 0 && t.Delay > 0 {
		m.mu.Unlock()
		time.Sleep(t.Delay)
		m.mu.Lock()
	}
	for m.frozen {
		m.thawed.Wait()
	}
	switch t := m.trouble; {
	case m.dead:
		return fuse.EIO
	case t.On&k != 0 && t.Err != 0:
		return fuse.Status(t.Err)
	}
	m.disk.mu.Lock()
	err := operation(m.disk)
	m.disk.mu.Unlock()
	if k != Reads && err == 0 {
		m.changes++
		if m.freezeAt--; m.freezeAt == 0 {
			m.frozen = true
			close(m.froze)
		}
	}
	return fuse.Status(err)
}
