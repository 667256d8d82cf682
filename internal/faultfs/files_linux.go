package faultfs

import (
	"bytes"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// files is what the kernel asks of a Mount. What it does not ask about here is
// not supported: links, extended attributes, special files but sockets. Owners, modes and
// times are not kept. Locks are the kernel's own.
type files struct {
	fuse.RawFileSystem
	m *Mount
}

// forever is how long the kernel may believe what it was told: nobody but it
// changes anything.
const forever = time.Hour

func attr(n *node, out *fuse.Attr) {
	out.Ino, out.Nlink, out.Mode = n.id, 1, syscall.S_IFREG|0o600
	out.Size, out.Blksize = uint64(len(n.now)), 4096
	out.Blocks = (out.Size + Sector - 1) / Sector
	switch n.typ {
	case directory:
		out.Mode, out.Nlink = syscall.S_IFDIR|0o700, 2
	case socket:
		out.Mode = syscall.S_IFSOCK | 0o600
	}
}

func entry(n *node, out *fuse.EntryOut) {
	out.NodeId, out.Generation = n.id, 1
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	attr(n, &out.Attr)
}

// Lookup implements fuse.RawFileSystem.
func (f *files) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	return f.m.run(Reads, func(d *Disk) syscall.Errno {
		id, ok := d.nodes[h.NodeId].names[name]
		if !ok {
			return syscall.ENOENT
		}
		entry(d.nodes[id], out)
		return 0
	})
}

// Forget implements fuse.RawFileSystem. Files stay as long as the disk does.
func (f *files) Forget(uint64, uint64) {}

// GetAttr implements fuse.RawFileSystem.
func (f *files) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	return f.m.run(Reads, func(d *Disk) syscall.Errno {
		out.SetTimeout(forever)
		attr(d.nodes[in.NodeId], &out.Attr)
		return 0
	})
}

// SetAttr implements fuse.RawFileSystem.
func (f *files) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	size, resize := in.GetSize()
	k := Reads
	if resize {
		k = Writes
	}
	return f.m.run(k, func(d *Disk) syscall.Errno {
		n := d.nodes[in.NodeId]
		if resize && int64(size) != int64(len(n.now)) {
			d.do(op{kind: opTruncate, node: n.id, off: int64(size)})
		}
		out.SetTimeout(forever)
		attr(n, &out.Attr)
		return 0
	})
}

// Access implements fuse.RawFileSystem.
func (f *files) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.OK }

// create makes a file, directory or socket. mu is held.
func (d *Disk) create(parent uint64, name string, of typ) (*node, syscall.Errno) {
	if _, ok := d.nodes[parent].names[name]; ok {
		return nil, syscall.EEXIST
	}
	id := d.next
	d.do(op{kind: opMake, node: parent, name: name, to: id, typ: of})
	return d.nodes[id], 0
}

// Mkdir implements fuse.RawFileSystem.
func (f *files) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return f.m.run(Names, func(d *Disk) syscall.Errno {
		n, err := d.create(in.NodeId, name, directory)
		if err == 0 {
			entry(n, out)
		}
		return err
	})
}

// Mknod implements fuse.RawFileSystem, for sockets.
func (f *files) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	if in.Mode&syscall.S_IFMT != syscall.S_IFSOCK {
		return fuse.EPERM
	}
	return f.m.run(Names, func(d *Disk) syscall.Errno {
		n, err := d.create(in.NodeId, name, socket)
		if err == 0 {
			entry(n, out)
		}
		return err
	})
}

// Create implements fuse.RawFileSystem.
func (f *files) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	return f.m.run(Names, func(d *Disk) syscall.Errno {
		n, err := d.create(in.NodeId, name, file)
		if err == 0 {
			entry(n, &out.EntryOut)
		}
		return err
	})
}

// Unlink implements fuse.RawFileSystem.
func (f *files) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return f.m.run(Names, func(d *Disk) syscall.Errno {
		if _, ok := d.nodes[h.NodeId].names[name]; !ok {
			return syscall.ENOENT
		}
		d.do(op{kind: opRemove, node: h.NodeId, name: name})
		return 0
	})
}

// Rmdir implements fuse.RawFileSystem.
func (f *files) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return f.m.run(Names, func(d *Disk) syscall.Errno {
		id, ok := d.nodes[h.NodeId].names[name]
		switch {
		case !ok:
			return syscall.ENOENT
		case len(d.nodes[id].names) > 0:
			return syscall.ENOTEMPTY
		}
		d.do(op{kind: opRemove, node: h.NodeId, name: name})
		return 0
	})
}

// Rename implements fuse.RawFileSystem.
func (f *files) Rename(_ <-chan struct{}, in *fuse.RenameIn, name, toName string) fuse.Status {
	if in.Flags != 0 {
		return fuse.Status(syscall.EINVAL)
	}
	return f.m.run(Names, func(d *Disk) syscall.Errno {
		id, ok := d.nodes[in.NodeId].names[name]
		if !ok {
			return syscall.ENOENT
		}
		if old, ok := d.nodes[in.Newdir].names[toName]; ok && d.nodes[old].typ == directory && len(d.nodes[old].names) > 0 {
			return syscall.ENOTEMPTY
		}
		d.do(op{kind: opRename, node: in.NodeId, name: name, to: in.Newdir, toName: toName, moved: id})
		return 0
	})
}

// Open implements fuse.RawFileSystem.
func (f *files) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.OK }

// Release implements fuse.RawFileSystem.
func (f *files) Release(<-chan struct{}, *fuse.ReleaseIn) {}

// Flush implements fuse.RawFileSystem.
func (f *files) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

// Read implements fuse.RawFileSystem.
func (f *files) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	got := 0
	status := f.m.run(Reads, func(d *Disk) syscall.Errno {
		if n := d.nodes[in.NodeId]; in.Offset < uint64(len(n.now)) {
			got = copy(buf, n.now[in.Offset:])
		}
		return 0
	})
	return fuse.ReadResultData(buf[:got]), status
}

// Writev implements fuse.RawFileSystem.
func (f *files) Writev(_ <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	b := bytes.Join(data, nil)
	return uint32(len(b)), f.m.run(Writes, func(d *Disk) syscall.Errno {
		d.do(op{kind: opWrite, node: in.NodeId, off: int64(in.Offset), data: b})
		return 0
	})
}

// Fallocate implements fuse.RawFileSystem.
func (f *files) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	const keepSize = 1
	if in.Mode&^keepSize != 0 {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	return f.m.run(Writes, func(d *Disk) syscall.Errno {
		end := int64(in.Offset + in.Length)
		if in.Mode == 0 && end > int64(len(d.nodes[in.NodeId].now)) {
			d.do(op{kind: opTruncate, node: in.NodeId, off: end})
		}
		return 0
	})
}

// Fsync implements fuse.RawFileSystem.
func (f *files) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return f.sync(in.NodeId) }

// FsyncDir implements fuse.RawFileSystem.
func (f *files) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return f.sync(in.NodeId) }

func (f *files) sync(id uint64) fuse.Status {
	return f.m.run(Syncs, func(d *Disk) syscall.Errno {
		d.do(op{kind: opSync, node: id})
		return 0
	})
}

// OpenDir implements fuse.RawFileSystem.
func (f *files) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.OK }

// ReleaseDir implements fuse.RawFileSystem.
func (f *files) ReleaseDir(*fuse.ReleaseIn) {}

// ReadDir implements fuse.RawFileSystem. A directory that changes between two of
// its parts may show names twice or not at all.
func (f *files) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.m.run(Reads, func(d *Disk) syscall.Errno {
		names := sortedNames(d.nodes[in.NodeId].names)
		for i, name := range names[min(int(in.Offset), len(names)):] {
			n := d.nodes[d.nodes[in.NodeId].names[name]]
			var a fuse.Attr
			attr(n, &a)
			if !out.AddDirEntry(fuse.DirEntry{Name: name, Ino: n.id, Mode: a.Mode, Off: in.Offset + uint64(i) + 1}) {
				break
			}
		}
		return 0
	})
}

// StatFs implements fuse.RawFileSystem.
func (f *files) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	*out = fuse.StatfsOut{Bsize: 4096, Frsize: 4096, Blocks: 1 << 24, Bfree: 1 << 23, Bavail: 1 << 23, NameLen: 255}
	return fuse.OK
}
