package parley

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"hash/crc32"
	"strings"
)

// A token's text is
//
//	"parley_" | base32 of: secret, 32 bytes | user's name | CRC32C, 4 bytes
//
// in lower case and without padding; the checksum covers all before it, the
// prefix too. An invitation code is "parleyinvite_" and the same without a name
// and with a secret of 16 bytes. Both are so recognisable that a search finds
// them where they should not be, and one that was mistyped or cut off is noticed
// where it is typed.
const (
	tokenPrefix  = "parley_"
	invitePrefix = "parleyinvite_"
	tokenSecret  = 32
	inviteSecret = 16
	maxTokenName = 64
)

var tokenText = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// NewToken makes a token for a user: the text that the user keeps, and what
// [AddToken] needs of it. The text cannot be found out from the latter.
func NewToken(user string) (Secret, Hash) {
	secret := make([]byte, tokenSecret, tokenSecret+len(user)+4)
	rand.Read(secret) //nolint:errcheck // it never fails
	return seal(tokenPrefix, append(secret, user...)), sha256.Sum256(secret)
}

// ParseToken takes a token apart: whose it is, and what it is recognised by. It
// says nothing about whether the cluster knows it.
func ParseToken(text Secret) (user string, h Hash, err error) {
	b, ok := unseal(tokenPrefix, text)
	if !ok || len(b) <= tokenSecret || len(b) > tokenSecret+maxTokenName {
		return "", Hash{}, Errorf(CodeUnauthenticated, "this is not a token, or not all of one")
	}
	return string(b[tokenSecret:]), sha256.Sum256(b[:tokenSecret]), nil
}

// NewInvite makes an invitation code: the text to be passed on, and what
// [AddInvite] needs of it.
func NewInvite() (Secret, Hash) {
	secret := make([]byte, inviteSecret, inviteSecret+4)
	rand.Read(secret) //nolint:errcheck // it never fails
	return seal(invitePrefix, secret), sha256.Sum256(secret)
}

// ParseInvite finds what an invitation code is recognised by.
func ParseInvite(text Secret) (Hash, error) {
	b, ok := unseal(invitePrefix, text)
	if !ok || len(b) != inviteSecret {
		return Hash{}, Errorf(CodeInviteNeeded, "this is not an invitation code, or not all of one")
	}
	return sha256.Sum256(b), nil
}

func seal(prefix string, b []byte) Secret {
	b = binary.BigEndian.AppendUint32(b, tokenSum(prefix, b))
	return Secret(prefix + tokenText.EncodeToString(b))
}

func unseal(prefix string, text Secret) (b []byte, ok bool) {
	const longest = 1 << 8
	coded, ok := strings.CutPrefix(string(text), prefix)
	if !ok || len(coded) > longest || strings.ContainsAny(coded, "\r\n") { // which the decoder would skip
		return nil, false
	}
	b, err := tokenText.DecodeString(coded)
	if err != nil || len(b) < 4 || tokenText.EncodeToString(b) != coded {
		return nil, false
	}
	n := len(b) - 4
	return b[:n], binary.BigEndian.Uint32(b[n:]) == tokenSum(prefix, b[:n])
}

func tokenSum(prefix string, b []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(prefix), castagnoli), castagnoli, b)
}
