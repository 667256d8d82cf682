package rpc

import (
	"encoding/base64"
	"errors"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/parley-chat/parley"
	parleyv1 "github.com/parley-chat/parley/api/parley/v1"
)

func fromCursor(c *parleyv1.Cursor) parley.Cursor {
	return parley.Cursor{Incarnation: parley.Incarnation(c.GetIncarnation()), ID: parley.MessageID(c.GetMessageId())}
}

func toCursor(c parley.Cursor) *parleyv1.Cursor {
	return &parleyv1.Cursor{Incarnation: uint64(c.Incarnation), MessageId: uint64(c.ID)}
}

// toMessage makes sure of UTF-8: one text that is none would keep the whole
// response from being sent.
func toMessage(m parley.Message) *parleyv1.Message {
	return &parleyv1.Message{
		Cursor: toCursor(m.Cursor), Time: timestamppb.New(m.Time),
		From: strings.ToValidUTF8(m.From, "\uFFFD"), Body: strings.ToValidUTF8(m.Body, "\uFFFD"),
	}
}

func toMember(m parley.Member) *parleyv1.Member {
	return &parleyv1.Member{
		Name: m.ID, ServerId: m.Server, Role: toRole(m.Role), ClientAddress: m.Client, PeerAddress: m.Peer,
		Term: m.Term, Applied: m.Applied, Reachable: m.Reachable,
	}
}

func toRole(r parley.Role) parleyv1.Role {
	switch r {
	case parley.RoleLeader:
		return parleyv1.Role_ROLE_LEADER
	case parley.RoleFollower:
		return parleyv1.Role_ROLE_FOLLOWER
	case parley.RoleCandidate:
		return parleyv1.Role_ROLE_CANDIDATE
	case parley.RoleLearner:
		return parleyv1.Role_ROLE_LEARNER
	}
	return parleyv1.Role_ROLE_UNSPECIFIED
}

// A page token is the name behind which the page begins, written so that nobody
// takes it for one, with a version in front.
const tokenVersion = "1"

// maxToken is the longest token that there can be: names have 64 bytes at most.
const maxToken = 128

func pageToken(after string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(tokenVersion + after))
}

var errToken = errors.New("page_token is none that this service has issued")

func parseToken(token string) (after string, err error) {
	if token == "" {
		return "", nil
	}
	if len(token) > maxToken {
		return "", errToken
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil {
		return "", errToken
	}
	after, ok := strings.CutPrefix(string(b), tokenVersion)
	if !ok || after == "" {
		return "", errToken
	}
	return after, nil
}
