package store

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/hashicorp/raft-wal/types"
)

// The layout of segments: a header, then batches, each of frames. A frame is
// type 1, zeros 3, length 4 bytes, and then the payload, padded to 8. A batch
// ends with a commit frame, which has a CRC32C of the batch instead of a length;
// the first batch counts from the beginning of the file. The last batch of a
// full segment has an index frame before that. What follows is zero.
const (
	segmentHeader = 32
	segmentMagic  = 0x58eb6b0d
	frameHeader   = 8

	entryFrame  = 1
	indexFrame  = 2
	commitFrame = 3

	sector = 512 // what disks write at once, or not at all
)

// tailEnd is where the batches of a segment end.
type tailEnd struct {
	at      int64  // behind the last batch
	entries uint64 // in all batches
	index   uint64 // where the index begins, if the segment is full
}

// checkTail verifies the last segment of a log, of which the list of segments
// only knows where it begins. It is done before raft-wal gets the file, because
// raft-wal takes whatever it cannot read for the end of the log.
//
// A batch that was being written when the machine stopped is removed; nobody was
// told that it had been stored. That it is one, and no damage, is known because
// nothing follows it, and because it lacks its end or whole sectors.
func checkTail(path string, info types.SegmentInfo) (tailEnd, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return tailEnd{}, missing(err)
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return tailEnd{}, err
	}
	if stat.Size() < int64(info.SizeLimit) {
		return tailEnd{}, fmt.Errorf("%w: %s has %d bytes, it was made with %d", ErrDamaged, path, stat.Size(), info.SizeLimit)
	}
	end, err := readBatches(io.NewSectionReader(f, 0, stat.Size()), info)
	if err == nil {
		err = clearRest(f, end.at, stat.Size())
	}
	if err != nil {
		return tailEnd{}, fmt.Errorf("%s: %w", path, err)
	}
	return end, nil
}

// readBatches reads as many whole batches as there are.
func readBatches(file io.Reader, info types.SegmentInfo) (end tailEnd, err error) {
	r := bufio.NewReaderSize(file, 64<<10)
	var header [segmentHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return end, noEOF(err)
	}
	var batch tailEnd // what end will be after this batch
	batch.at = segmentHeader
	crc := crc32.New(castagnoli)
	crc.Write(header[:])
	for end.index == 0 {
		var frame [frameHeader]byte
		if _, err := io.ReadFull(r, frame[:]); err != nil {
			return end, noEOF(err)
		}
		kind, size := binary.LittleEndian.Uint32(frame[:]), binary.LittleEndian.Uint32(frame[4:])
		batch.at += frameHeader
		if kind == commitFrame {
			if size != crc.Sum32() {
				return end, nil
			}
			if end.at == 0 {
				if err := checkHeader(header[:], info); err != nil {
					return end, err
				}
			}
			end = batch
			crc.Reset()
			continue
		}
		if kind != entryFrame && kind != indexFrame {
			return end, nil
		}
		if kind == entryFrame {
			batch.entries++
		} else {
			batch.index = uint64(batch.at)
		}
		crc.Write(frame[:])
		if _, err := io.CopyN(crc, r, padded(size)); err != nil {
			return end, noEOF(err)
		}
		batch.at += padded(size)
	}
	return end, nil
}

// indexEnd is where a full segment ends: behind its index, and the end of the
// batch that the index is in.
func indexEnd(f io.ReaderAt, info types.SegmentInfo) (int64, error) {
	var frame [frameHeader]byte
	if _, err := f.ReadAt(frame[:], int64(info.IndexStart)-frameHeader); err != nil {
		return 0, err
	}
	kind, size := binary.LittleEndian.Uint32(frame[:]), binary.LittleEndian.Uint32(frame[4:])
	if kind != indexFrame {
		return 0, fmt.Errorf("%w: segment %d has no index at byte %d", ErrDamaged, info.BaseIndex, info.IndexStart)
	}
	return int64(info.IndexStart) + padded(size) + frameHeader, nil
}

// padded is the length of a payload with what follows it.
func padded(size uint32) int64 { return (int64(size) + frameHeader - 1) / frameHeader * frameHeader }

func noEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

func checkHeader(header []byte, info types.SegmentInfo) error {
	var want [segmentHeader]byte
	binary.LittleEndian.PutUint64(want[:], segmentMagic)
	binary.LittleEndian.PutUint64(want[8:], info.BaseIndex)
	binary.LittleEndian.PutUint64(want[16:], info.ID)
	binary.LittleEndian.PutUint64(want[24:], info.Codec)
	if !bytes.Equal(header, want[:]) {
		return fmt.Errorf("%w: the header is that of another segment", ErrDamaged)
	}
	return nil
}

// clearRest sees to it that a file has nothing but zeros from a position on.
func clearRest(f *os.File, from, size int64) error {
	used, err := lastUsed(f, from, size)
	if err != nil || used == from {
		return err
	}
	rest := make([]byte, used-from)
	if _, err := f.ReadAt(rest, from); err != nil {
		return err
	}
	if why := notTorn(rest, from); why != "" {
		return fmt.Errorf("%w: at byte %d: %s", ErrDamaged, from, why)
	}
	clear(rest)
	if _, err := f.WriteAt(rest, from); err != nil {
		return err
	}
	return syncData(f)
}

// lastUsed returns where the last frame-sized word that is not zero ends, from if
// there is none from there on.
func lastUsed(f *os.File, from, size int64) (int64, error) {
	buf := make([]byte, min(1<<20, size-from))
	used := from
	for at := from; at < size; {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), size-at)], at)
		if err != nil && err != io.EOF {
			return 0, err
		}
		if n == 0 {
			break
		}
		if i := int64(len(bytes.TrimRight(buf[:n], "\x00"))); i > 0 {
			used = min(size, (at+i-1+frameHeader)/frameHeader*frameHeader)
		}
		at += int64(n)
	}
	return used, nil
}

// notTorn says why what follows the last good batch, up to the last word that is
// not zero, cannot be a batch of which only a part was written; "" if it can.
func notTorn(rest []byte, at int64) string {
	for i := frameHeader; i+frameHeader <= len(rest); i += frameHeader {
		if isCommit(rest[i-frameHeader:]) && wholeBatch(rest[i:]) {
			return "a batch does not match its checksum, and others follow it"
		}
	}
	n := len(rest) - frameHeader
	sum := binary.LittleEndian.Uint32(rest[n+4:])
	switch {
	case n > 0 && crc32.Checksum(rest[:n], castagnoli) == sum:
		return "the end of the last batch is damaged"
	case isCommit(rest[n:]) && !hasEmptySector(rest, at):
		return "the last batch is all there and does not match its checksum"
	}
	return ""
}

func isCommit(word []byte) bool { return binary.LittleEndian.Uint32(word) == commitFrame }

// wholeBatch reports whether b begins with a batch that matches its checksum.
func wholeBatch(b []byte) bool {
	for at := 0; at+frameHeader <= len(b); {
		kind, size := binary.LittleEndian.Uint32(b[at:]), binary.LittleEndian.Uint32(b[at+4:])
		switch kind {
		case entryFrame, indexFrame:
			at += frameHeader + int(padded(size))
		case commitFrame:
			return at > 0 && crc32.Checksum(b[:at], castagnoli) == size
		default:
			return false
		}
	}
	return false
}

// hasEmptySector reports whether a sector of the file, of which b begins at a
// position, holds nothing but zeros in b.
func hasEmptySector(b []byte, at int64) bool {
	for len(b) > 0 {
		n := min(len(b), int(sector-at%sector))
		if len(bytes.TrimLeft(b[:n], "\x00")) == 0 {
			return true
		}
		b, at = b[n:], at+int64(n)
	}
	return false
}
