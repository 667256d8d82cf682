package node

import "github.com/parley-chat/parley/node/internal/store"

// LogStore says where a node keeps its log on disk. docs/adr/0020 tells what
// speaks for which.
type LogStore = store.Kind

// The log stores.
const (
	LogBolt LogStore = store.Bolt // raft-boltdb: one file, in pages
	LogWAL  LogStore = store.WAL  // raft-wal: segments that are appended to, with one flush for each append
)

// Converted says what [ConvertLog] has found.
type Converted = store.Converted

// ConvertLog moves the log of the node whose data is in dir to a log store. The
// node must not be running. If that fails or is interrupted, the log is where it
// was or where it was to be, whole in either case; it can be repeated.
func ConvertLog(dir string, to LogStore) (Converted, error) { return store.Convert(dir, to) }

// LogEntry is what one entry of a log is recognised by.
type LogEntry = store.LogEntry

// ReadLog verifies the log of the node whose data is in dir, which must not be
// running, and calls f with each of its entries, in order.
func ReadLog(dir string, f func(LogEntry)) error { return store.Read(dir, f) }
