package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"
)

// ErrDamaged is in the chain of every error that says that stored bytes are not
// what was written.
var ErrDamaged = errors.New("stored data is damaged")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// An entry's checksum travels and is stored in raft.Log.Extensions: one byte of
// version, CRC32C over index, term, type and data in four.
const (
	sumVersion = 1
	sumLen     = 5
)

func sumOf(l *raft.Log) [sumLen]byte {
	var head [17]byte
	binary.BigEndian.PutUint64(head[0:], l.Index)
	binary.BigEndian.PutUint64(head[8:], l.Term)
	head[16] = byte(l.Type)
	crc := crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, l.Data)
	sum := [sumLen]byte{sumVersion}
	binary.BigEndian.PutUint32(sum[1:], crc)
	return sum
}

// seal gives an entry its checksum, or verifies the one it has.
func seal(l *raft.Log) error {
	if len(l.Extensions) != 0 {
		return Verify(l)
	}
	sum := sumOf(l)
	l.Extensions = sum[:]
	return nil
}

// Verify checks an entry that must have a checksum.
func Verify(l *raft.Log) error {
	if len(l.Extensions) != sumLen || l.Extensions[0] != sumVersion {
		return fmt.Errorf("%w: log entry %d has no checksum that this program knows", ErrDamaged, l.Index)
	}
	if sumOf(l) != [sumLen]byte(l.Extensions) {
		return fmt.Errorf("%w: log entry %d does not match its checksum", ErrDamaged, l.Index)
	}
	return nil
}

// sealValue puts a checksum over key and value before the value.
func sealValue(key, value []byte) []byte {
	crc := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
	return append(binary.BigEndian.AppendUint32(nil, crc), value...)
}

func openValue(key, sealed []byte) ([]byte, error) {
	if len(sealed) < 4 {
		return nil, fmt.Errorf("%w: value of %s is too short", ErrDamaged, key)
	}
	value := sealed[4:]
	crc := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
	if binary.BigEndian.Uint32(sealed) != crc {
		return nil, fmt.Errorf("%w: value of %s does not match its checksum", ErrDamaged, key)
	}
	return value, nil
}
