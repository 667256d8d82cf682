package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/hashicorp/raft"
)

// The staging file has two halves. Each is written from its beginning, batch by
// batch, over what was there before. A batch takes whole sectors, which disks
// write at once or not at all:
//
//	CRC32C 4 (of the sector's place and all that follows), generation 4, batch 4, content 500
//
// A half has another generation each time that it is written from the beginning
// again, and its batches are counted from 1. So every sector is either zero, or
// older, or of a known batch, or damaged; there is no guessing where the log ends.
//
// The content of a batch: its length 4, index of the first entry 8, entries, and
// then zeros. An entry: term, type, time in seconds 8 and nanoseconds 4, data and
// checksum (as checksum.go has it) with their lengths; numbers are varints where
// no length is given. All others are little-endian.
const (
	sectorHead    = 12
	sectorContent = sector - sectorHead
	batchHead     = 12

	entryHead = 3*binary.MaxVarintLen64 + 1 + 12 // what an entry takes besides its bytes, at most
)

// sectorsFor is how many sectors a batch takes whose entries have so many bytes.
func sectorsFor(bytes int64) int64 { return (batchHead + bytes + sectorContent - 1) / sectorContent }

// entryBytes is what an entry takes in a batch, at most.
func entryBytes(e *raft.Log) int64 { return int64(entryHead + len(e.Data) + len(e.Extensions)) }

func appendEntry(b []byte, e *raft.Log) []byte {
	b = binary.AppendUvarint(b, e.Term)
	b = append(b, byte(e.Type))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.AppendedAt.Unix()))
	b = binary.LittleEndian.AppendUint32(b, uint32(e.AppendedAt.Nanosecond()))
	b = binary.AppendUvarint(b, uint64(len(e.Data)))
	b = append(b, e.Data...)
	b = binary.AppendUvarint(b, uint64(len(e.Extensions)))
	return append(b, e.Extensions...)
}

// appendBatch appends the content of a batch.
func appendBatch(b []byte, entries []*raft.Log) []byte {
	from := len(b)
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, entries[0].Index)
	for _, e := range entries {
		b = appendEntry(b, e)
	}
	binary.LittleEndian.PutUint32(b[from:], uint32(len(b)-from))
	return b
}

// appendSectors appends the sectors of a batch that begins at a position of the file.
func appendSectors(b, content []byte, at int64, gen, batch uint32) []byte {
	for len(content) > 0 {
		n := min(len(content), sectorContent)
		from := len(b)
		b = append(b, 0, 0, 0, 0)
		b = binary.LittleEndian.AppendUint32(b, gen)
		b = binary.LittleEndian.AppendUint32(b, batch)
		b = append(b, content[:n]...)
		b = append(b, zeros[:sectorContent-n]...)
		binary.LittleEndian.PutUint32(b[from:], sectorSum(b[from:], at))
		content, at = content[n:], at+sector
	}
	return b
}

var zeros [sector]byte

// sectorSum is the checksum of a sector at a position of the file.
func sectorSum(b []byte, at int64) uint32 {
	var place [8]byte
	binary.LittleEndian.PutUint64(place[:], uint64(at))
	return crc32.Update(crc32.Checksum(place[:], castagnoli), castagnoli, b[4:sector])
}

// readHalf reads the batches of a generation from a half that begins at a
// position of the file. used reports that there is anything of that generation,
// be it a batch that the machine did not finish.
func readHalf(b []byte, at int64, gen uint32) (entries []*raft.Log, used bool, err error) {
	batches := make([]uint32, len(b)/sector) // of the sectors; 0: zero or older
	for i := range batches {
		s := b[i*sector : (i+1)*sector]
		if [sector]byte(s) == zeros {
			continue
		}
		pos := at + int64(i)*sector
		if binary.LittleEndian.Uint32(s) != sectorSum(s, pos) {
			return nil, false, fmt.Errorf("%w: the sector at byte %d does not match its checksum", ErrDamaged, pos)
		}
		switch g := binary.LittleEndian.Uint32(s[4:]); {
		case g > gen:
			return nil, false, fmt.Errorf("%w: the sector at byte %d is newer than what is known", ErrDamaged, pos)
		case g == gen:
			batches[i], used = binary.LittleEndian.Uint32(s[8:]), true
		}
	}
	i, next := 0, uint32(1)
	for ; i < len(batches) && batches[i] == next; next++ {
		size := binary.LittleEndian.Uint32(b[i*sector+sectorHead:])
		n := (int(size) + sectorContent - 1) / sectorContent
		if n == 0 || i+n > len(batches) {
			return nil, false, fmt.Errorf("%w: the batch at byte %d has %d bytes", ErrDamaged, at+int64(i)*sector, size)
		}
		if !all(batches[i:i+n], next) {
			break
		}
		content := make([]byte, 0, n*sectorContent) // the entries keep it
		for ; n > 0; n, i = n-1, i+1 {
			content = append(content, b[i*sector+sectorHead:(i+1)*sector]...)
		}
		if entries, err = decodeBatch(entries, content[:size]); err != nil {
			return nil, false, err
		}
	}
	for ; i < len(batches); i++ { // the next batch may be there in part
		if batches[i] != 0 && batches[i] != next {
			return nil, false, fmt.Errorf("%w: batch %d is not whole, but batch %d is there, at byte %d", ErrDamaged, next, batches[i], at+int64(i)*sector)
		}
	}
	return entries, used, nil
}

func all(batches []uint32, want uint32) bool {
	for _, b := range batches {
		if b != want {
			return false
		}
	}
	return true
}

// decodeBatch appends the entries of a batch, which follow those before it.
func decodeBatch(entries []*raft.Log, content []byte) ([]*raft.Log, error) {
	if len(content) < batchHead {
		return nil, fmt.Errorf("%w: a batch has %d bytes", ErrDamaged, len(content))
	}
	index := binary.LittleEndian.Uint64(content[4:])
	d := decoder{b: content[batchHead:]}
	for ; len(d.b) > 0; index++ {
		e := &raft.Log{Index: index, Term: d.varint(), Type: raft.LogType(d.bytes(1)[0])}
		at := d.bytes(12)
		e.AppendedAt = time.Unix(int64(binary.LittleEndian.Uint64(at)), int64(binary.LittleEndian.Uint32(at[8:])))
		e.Data = d.bytes(d.varint())
		e.Extensions = d.bytes(d.varint())
		if d.bad {
			return nil, fmt.Errorf("%w: log entry %d is not whole", ErrDamaged, index)
		}
		if n := len(entries); n > 0 && entries[n-1].Index+1 != index {
			return nil, fmt.Errorf("%w: log entry %d follows entry %d", ErrDamaged, index, entries[n-1].Index)
		}
		if err := Verify(e); err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// decoder takes values off the front of b, zeros when b has not enough.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) varint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return zeros[:min(n, sector)]
	}
	taken := d.b[:n:n]
	d.b = d.b[n:]
	return taken
}
