package fsm

import (
	"bytes"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The limits of a pattern: its bytes, and the instructions that it compiles to,
// each of which may be looked at for each byte of each name.
const (
	maxPattern = 1 << 10
	maxProgram = 2000
)

// pattern is a regular expression, and what can be told of matching names
// without trying it.
type pattern struct {
	re      *regexp.Regexp // nil: all names match
	prefix  string         // of the keys of all names that match
	literal []byte         // part of all names that match
}

func newPattern(text string) (p pattern, err error) {
	if text == "" {
		return p, nil
	}
	if len(text) > maxPattern {
		return p, fmt.Errorf("the pattern has %d bytes: limit %d", len(text), maxPattern)
	}
	if p.re, err = regexp.Compile(text); err != nil {
		return p, err
	}
	re, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return p, err
	}
	if prog, err := syntax.Compile(re.Simplify()); err != nil {
		return p, err
	} else if len(prog.Inst) > maxProgram {
		return p, fmt.Errorf("the pattern compiles to %d instructions: limit %d", len(prog.Inst), maxProgram)
	}
	p.prefix, p.literal = keyPrefix(re), []byte(longestLiteral(re))
	return p, nil
}

// match reports whether a name, as it is shown, matches.
func (p *pattern) match(shown []byte) bool {
	return p.re == nil || bytes.Contains(shown, p.literal) && p.re.Match(shown)
}

// keyPrefix is a string with which the keys of all names that match the
// expression begin; "" if none is known. Patterns match names as they are shown,
// and keys are folded, so it counts on ASCII only. A mark may follow the literal
// and combine with its last letter, once that is lower-case (J and a caron), to
// something else.
func keyPrefix(re *syntax.Regexp) string {
	var prefix []rune
	var last rune // as it may be in a name
	for i, sub := range parts(re) {
		if i == 0 {
			if sub.Op != syntax.OpBeginText {
				return ""
			}
			continue
		}
		if sub.Op != syntax.OpLiteral {
			break
		}
		for _, r := range sub.Rune {
			if r >= utf8.RuneSelf {
				return fold(prefix, last)
			}
			if last = r; sub.Flags&syntax.FoldCase != 0 {
				last = unicode.ToUpper(r)
			}
			prefix = append(prefix, r)
		}
	}
	return fold(prefix, last)
}

// fold makes a prefix of keys of a prefix of names that ends with last.
func fold(prefix []rune, last rune) string {
	if unicode.IsUpper(last) {
		prefix = prefix[:len(prefix)-1]
	}
	return strings.ToLower(string(prefix))
}

// longestLiteral is the longest string that a look at the expression shows to be
// part of whatever matches.
func longestLiteral(re *syntax.Regexp) string {
	longest := ""
	for _, sub := range parts(re) {
		text := ""
		switch {
		case sub.Op == syntax.OpLiteral && sub.Flags&syntax.FoldCase == 0:
			text = string(sub.Rune)
		case sub.Op == syntax.OpPlus, sub.Op == syntax.OpRepeat && sub.Min > 0:
			text = longestLiteral(sub.Sub[0])
		}
		if len(text) > len(longest) {
			longest = text
		}
	}
	return longest
}

// parts is what must match one after the other; groups are opened.
func parts(re *syntax.Regexp) []*syntax.Regexp {
	switch re.Op {
	case syntax.OpCapture:
		return parts(re.Sub[0])
	case syntax.OpConcat:
		var all []*syntax.Regexp
		for _, sub := range re.Sub {
			all = append(all, parts(sub)...)
		}
		return all
	}
	return []*syntax.Regexp{re}
}
