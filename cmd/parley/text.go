package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// visible makes text from others safe to print on one line of a terminal:
// control characters, which could move the cursor or worse, and characters that
// change the direction of text or hide in it are shown as escapes.
func visible(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, treacherous) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case !treacherous(r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		i += n
	}
	return b.String()
}

// treacherous reports whether a character must not reach a terminal as it is.
// The joiners U+200C and U+200D are innocent: scripts and emoji need them.
func treacherous(r rune) bool {
	switch {
	case unicode.IsControl(r), unicode.Is(unicode.Zl, r), unicode.Is(unicode.Zp, r):
		return true
	case unicode.Is(unicode.Bidi_Control, r):
		return true
	case r == 0x200b, r == 0xfeff, r >= 0x2060 && r <= 0x206f, r >= 0xfff9 && r <= 0xfffb:
		return true
	case r == 0xe0001: // a tag; the other tags make flags
		return true
	}
	return false
}

// printJSON prints v as one line. What a terminal must not get is escaped, as
// JSON allows for every character.
func printJSON(w io.Writer, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = jsonWriter{w}.Write(append(raw, '\n'))
	return err
}

// jsonWriter passes JSON on with all that a terminal must not get escaped. Each
// Write is whole lines.
type jsonWriter struct{ w io.Writer }

func (j jsonWriter) Write(raw []byte) (int, error) {
	var b strings.Builder
	for _, r := range string(raw) {
		switch {
		case !treacherous(r) || r == '\n': // which JSON has between objects only
			b.WriteRune(r)
		case r > 0xffff:
			hi, lo := surrogates(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	if _, err := io.WriteString(j.w, b.String()); err != nil {
		return 0, err
	}
	return len(raw), nil
}

func surrogates(r rune) (hi, lo rune) {
	r -= 0x10000
	return 0xd800 + r>>10, 0xdc00 + r&0x3ff
}
