package fsm

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"go.etcd.io/bbolt"
)

// Digest is a checksum over all keys and values of the state after the entry at
// index, the same on every node that is at this index. Where in the log the
// state stands is not part of it.
//
// It makes a checkpoint and reads that, so that applying need not wait.
func (f *FSM) Digest() (index uint64, sum string, err error) {
	if err := f.Checkpoint(context.Background()); err != nil {
		return 0, "", err
	}
	tx, m, err := f.snaps.begin()
	if err != nil {
		return 0, "", err
	}
	err = guard(func() error {
		defer tx.Rollback()
		sum, err = digest(tx)
		return err
	})
	if err != nil {
		f.fail(err)
	}
	return m.index, sum, err
}

func digest(tx *bbolt.Tx) (string, error) {
	h := sha256.New()
	var head []byte
	for _, b := range buckets {
		err := tx.Bucket(b.name).ForEach(func(k, v []byte) error {
			if string(b.name) == string(bucketMeta.name) && string(k) == string(keyRaft) {
				return nil
			}
			payload, err := b.open(k, v)
			if err != nil {
				return err
			}
			head = appendString(head[:0], string(b.name))
			head = appendString(head, string(k))
			head = binary.AppendUvarint(head, uint64(len(payload)))
			h.Write(head)
			h.Write(payload)
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
