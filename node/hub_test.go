package node

import (
	"strings"
	"testing"
	"unsafe"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/fsm"
)

// TestHubKeepsNoEntry: what waits for a watcher does not keep the log entry, of which
// an event's texts are parts, in memory.
func TestHubKeepsNoEntry(t *testing.T) {
	entry := strings.Repeat("box", 100)
	first := uintptr(unsafe.Pointer(unsafe.StringData(entry)))
	part := func(s string) bool {
		at := uintptr(unsafe.Pointer(unsafe.StringData(s)))
		return at >= first && at < first+uintptr(len(entry))
	}
	h := newHub(nil, 1)
	w, err := h.subscribe(strings.Clone("box"), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.take()
	e := fsm.Event{Kind: fsm.EventMail, Key: entry[:3], Message: parley.Message{From: entry[3:6], Body: entry[6:12]}}
	if !part(e.Key) || !part(e.Message.From) {
		t.Fatal("this cannot be seen here")
	}
	h.publish([]fsm.Event{e})
	events, missed, _ := w.take()
	if missed || len(events) != 1 {
		t.Fatalf("%d events, missed %v", len(events), missed)
	}
	got := events[0]
	if got.Key != "box" || got.Message.From != "box" || got.Message.Body != "boxbox" {
		t.Errorf("%+v", got)
	}
	for _, s := range []string{got.Key, got.Message.From, got.Message.Body} {
		if part(s) {
			t.Errorf("%q keeps the entry in memory", s)
		}
	}
}
