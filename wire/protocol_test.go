package wire

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/parley-chat/parley"
)

// page is docs/protocol.md, from which others write clients.
func page(t *testing.T) string {
	text, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestPageHasEveryCode and calls it by its name.
func TestPageHasEveryCode(t *testing.T) {
	text, named := page(t), 0
	for c := parley.Code(0); c < 1000; c++ {
		name := c.String()
		if strings.HasPrefix(name, "code ") {
			continue
		}
		named++
		if row := fmt.Sprintf("\n| %d | %s", c, name); !strings.Contains(text, row) {
			t.Errorf("no row %q", row[1:])
		}
	}
	if named < 21 {
		t.Errorf("only %d codes", named)
	}
}

// TestPageHasEveryKind of frame, command and query.
func TestPageHasEveryKind(t *testing.T) {
	text := page(t)
	for row, n := range map[string]int{
		"Do": int(KindDo), "Get": int(KindGet), "Watch": int(KindWatch), "Credit": int(KindCredit), "Cancel": int(KindCancel),
		"Call": int(KindCall), "Ping": int(KindPing), "Pong": int(KindPong), "Result": int(KindResult), "Error": int(KindError),
		"Login": int(KindLogin), "Push": int(KindPush), "Reply": int(KindReply), "Redirect": int(KindRedirect),
		"CreateUser": cmdCreateUser, "DeleteUser": cmdDeleteUser, "Send": cmdSend, "Ack": cmdAck,
		"OpenSession": cmdOpenSession, "CloseSession": cmdCloseSession,
		"SetPassword": cmdSetPassword, "AddToken": cmdAddToken, "RevokeToken": cmdRevokeToken, "SetPolicy": cmdSetPolicy,
		"AddInvite": cmdAddInvite, "RevokeInvite": cmdRevokeInvite, "Register": cmdRegister,
		"GetPolicy": queryPolicy, "Tokens": queryTokens, "Invites": queryInvites,
		"Users": queryUsers, "Inbox": queryInbox, "Status": queryStatus,
	} {
		if row = fmt.Sprintf("\n| %d | %s |", n, row); !strings.Contains(text, row) {
			t.Errorf("no row %q", row[1:])
		}
	}
	for row, bit := range map[string]int{
		"detail": hasDetail, "session": hasSession, "incarnation": hasIncarnation, "message": hasMessage, "names": hasNames,
		"more": hasMore, "messages": hasMessages, "cursor": hasCursor, "unread": hasUnread, "members": hasMembers,
		"policy": hasPolicy, "tokens": hasTokens, "invites": hasInvites,
	} {
		if row = fmt.Sprintf("\n| 0x%03x | %s |", bit, row); !strings.Contains(text, row) {
			t.Errorf("no row %q", row[1:])
		}
	}
}

// TestPageExample: the bytes of the example are those of the codec.
func TestPageExample(t *testing.T) {
	do := func(id uint64, r parley.Request) []byte {
		b, err := AppendDo(nil, id, &r)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	want := [][]byte{
		do(1, parley.Request{Command: parley.OpenSession{}}),
		AppendResult(nil, 1, &parley.Result{Session: 9}),
		do(2, parley.Request{Session: 9, Seq: 1, Command: parley.Send{From: "ann", To: "bob", Body: "hi, bob"}}),
		AppendResult(nil, 2, &parley.Result{Message: 42}),
	}
	lines := regexp.MustCompile(`(?m)^[→←] ([0-9a-f ]+)(…?)`).FindAllStringSubmatch(page(t), -1)
	if len(lines) != len(want) {
		t.Fatalf("%d lines of example, want %d", len(lines), len(want))
	}
	for i, line := range lines {
		got, err := hex.DecodeString(strings.ReplaceAll(line[1], " ", ""))
		if err != nil || !bytes.HasPrefix(want[i], got) || line[2] == "" && len(got) != len(want[i]) {
			t.Errorf("line %d is %x, want %x", i+1, got, want[i])
		}
	}
}
