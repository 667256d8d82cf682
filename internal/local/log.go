package local

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
)

const maxLog = 16 << 20 // a larger log is set aside when the node starts

// openLog opens a node's log for appending, and returns how long it is already.
// A large one becomes NAME.old.
func openLog(path string) (f *os.File, size int64, err error) {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, 0, err
	case st.Size() > maxLog:
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, 0, err
		}
	default:
		size = st.Size()
	}
	f, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return f, size, err
}

// LastLog returns what the latest process wrote into the log about why it ended,
// or the last line if it did not say.
func (n *Node) LastLog() string {
	n.mu.Lock()
	var from int64
	if n.proc != nil {
		from = n.proc.logFrom
	}
	n.mu.Unlock()
	const most = 64 << 10
	st, err := os.Stat(n.Log)
	if err != nil {
		return "no log: " + err.Error()
	}
	tail, err := n.Tail(min(most, max(0, st.Size()-from)))
	if err != nil {
		return "no log: " + err.Error()
	}
	lines := strings.Split(strings.TrimSpace(tail), "\n")
	for _, line := range slices.Backward(lines) {
		if said, ok := strings.CutPrefix(line, "parley: "); ok { // how the program reports an error; goroutines may log a little more
			return said
		}
	}
	return lines[len(lines)-1]
}

// Tail returns the last size bytes of the node's log.
func (n *Node) Tail(size int64) (string, error) {
	f, err := os.Open(n.Log)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.NewSectionReader(f, max(0, st.Size()-size), size))
	return string(b), err
}
