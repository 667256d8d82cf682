package node

import (
	"context"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// raftLogger gives Raft's log lines to slog. Lines below Info are dropped: Raft
// has no use for a level of its own and writes several for each message. The
// same line comes at most once a second, since Raft repeats itself for as long
// as a member is down.
type raftLogger struct {
	log  *slog.Logger
	name string
	args []any // given to With

	said *said
}

// said remembers when each line was last written.
type said struct {
	mu   sync.Mutex
	last map[string]time.Time // bounded by the number of messages in Raft's source
}

const repeatLogEvery = time.Second

var _ hclog.Logger = (*raftLogger)(nil)

func newRaftLogger(log *slog.Logger) *raftLogger {
	return &raftLogger{log: log, said: &said{last: make(map[string]time.Time)}}
}

// Log implements hclog.Logger.
func (l *raftLogger) Log(level hclog.Level, msg string, args ...any) {
	var to slog.Level
	switch {
	case level < hclog.Info:
		return
	case level == hclog.Info:
		to = slog.LevelInfo
	case level == hclog.Warn:
		to = slog.LevelWarn
	default:
		to = slog.LevelError
	}
	if !l.log.Enabled(context.Background(), to) || level > hclog.Info && !l.said.first(msg) {
		return
	}
	attrs := make([]any, 0, len(args))
	for _, a := range args {
		switch v := a.(type) {
		case hclog.Format:
			a = fmt.Sprintf(fmt.Sprint(v[0]), v[1:]...)
		case fmt.Stringer: // a value that Raft changes meanwhile, such as the Raft itself
			a = v.String()
		}
		attrs = append(attrs, a)
	}
	l.log.Log(context.Background(), to, "raft: "+msg, attrs...)
}

func (s *said) first(msg string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.last[msg]) < repeatLogEvery {
		return false
	}
	s.last[msg] = time.Now()
	return true
}

func (l *raftLogger) Trace(string, ...any)             {}
func (l *raftLogger) Debug(string, ...any)             {}
func (l *raftLogger) Info(msg string, args ...any)     { l.Log(hclog.Info, msg, args...) }
func (l *raftLogger) Warn(msg string, args ...any)     { l.Log(hclog.Warn, msg, args...) }
func (l *raftLogger) Error(msg string, args ...any)    { l.Log(hclog.Error, msg, args...) }
func (l *raftLogger) IsTrace() bool                    { return false }
func (l *raftLogger) IsDebug() bool                    { return false }
func (l *raftLogger) IsInfo() bool                     { return true }
func (l *raftLogger) IsWarn() bool                     { return true }
func (l *raftLogger) IsError() bool                    { return true }
func (l *raftLogger) ImpliedArgs() []any               { return l.args }
func (l *raftLogger) Name() string                     { return l.name }
func (l *raftLogger) Named(n string) hclog.Logger      { return l.named(strings.Trim(l.name+"."+n, ".")) }
func (l *raftLogger) ResetNamed(n string) hclog.Logger { return l.named(n) }
func (l *raftLogger) SetLevel(hclog.Level)             {}
func (l *raftLogger) GetLevel() hclog.Level            { return hclog.Info }

func (l *raftLogger) named(name string) hclog.Logger {
	c := *l
	c.name = name
	return &c
}

// With implements hclog.Logger.
func (l *raftLogger) With(args ...any) hclog.Logger {
	c := *l
	c.args = append(append([]any(nil), l.args...), args...)
	c.log = l.log.With(args...)
	return &c
}

// StandardLogger implements hclog.Logger.
func (l *raftLogger) StandardLogger(o *hclog.StandardLoggerOptions) *stdlog.Logger {
	return stdlog.New(l.StandardWriter(o), "", 0)
}

// StandardWriter implements hclog.Logger.
func (l *raftLogger) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return lineWriter{l} }

type lineWriter struct{ l *raftLogger }

func (w lineWriter) Write(b []byte) (int, error) {
	w.l.Info(strings.TrimSpace(string(b)))
	return len(b), nil
}
