package fsm

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/parley-chat/parley"
)

// TestListing: pages are what is left of all names, whatever is in memory or in
// the checkpoint, for patterns with and without a prefix.
func TestListing(t *testing.T) {
	f := start(t, Config{CheckpointEvery: time.Hour})
	l := newLogger(t, f)
	rng := rand.New(rand.NewPCG(5, 6))
	shown := make(map[string]string) // by key
	for step := range 40 {
		for range rng.IntN(30) {
			name := fmt.Sprintf("%c%c-%d", "aAbJé"[rng.IntN(4)], "xYz"[rng.IntN(3)], rng.IntN(20))
			key := strings.ToLower(name)
			switch _, ok := shown[key]; {
			case !ok:
				l.cmd(parley.CreateUser{Name: name})
				shown[key] = name
			case rng.IntN(2) == 0:
				l.cmd(parley.DeleteUser{Name: name})
				delete(shown, key)
			}
		}
		switch rng.IntN(4) {
		case 0:
			l.checkpoint()
		case 1: // cut off, and not stored yet
			if step%8 == 0 {
				checkListings(t, f, rng, shown)
				f.checkpoints.Lock()
				g, db, err := f.cut()
				if err != nil || g == nil {
					t.Fatal(g, err)
				}
				checkListings(t, f, rng, shown)
				if err := db.Update(g.write); err != nil {
					t.Fatal(err)
				}
				checkListings(t, f, rng, shown) // written, and nobody knows
				f.mu.Lock()
				g.stored = true
				f.mu.Unlock()
				f.checkpoints.Unlock()
			}
		}
		checkListings(t, f, rng, shown)
	}
}

func checkListings(t *testing.T, f *FSM, rng *rand.Rand, shown map[string]string) {
	t.Helper()
	for _, pattern := range []string{
		"", "^a", "^A", "(?i)^aX", "^ax-1", "^J", "^(b)z", "x-1", "-1$", "^ax-1$", "(x|Y)-", "z-(1|2)+", "^b.*5", "nothing", "^nothing",
	} {
		after := ""
		if rng.IntN(2) == 0 {
			after = []string{"A", "ax-3", "bY", "jz-9", "zzz", "Ax-11"}[rng.IntN(6)]
		}
		re := regexp.MustCompile(pattern)
		var want []string
		for key, name := range shown {
			if key > strings.ToLower(after) && re.MatchString(name) {
				want = append(want, name)
			}
		}
		slices.SortFunc(want, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
		q := parley.Users{Pattern: pattern, After: after, Limit: rng.IntN(20)}
		more := q.Limit > 0 && len(want) > q.Limit
		if more {
			want = want[:q.Limit]
		}
		if r := f.Users(q); !slices.Equal(r.Names, want) || r.More != more {
			t.Fatalf("%+v: %v, more %v; want %v, %v", q, r.Names, r.More, want, more)
		}
	}
}

// TestNameIndex: however often somebody asks while names change, the runs say
// the same as the last change of each name.
func TestNameIndex(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	g := newGeneration(1)
	last := make(map[string]nameChange)
	for range 300 {
		for range rng.IntN(9) {
			name := fmt.Sprint(rng.IntN(400))
			g.rename(nameChange{name: name, shown: name, gone: rng.IntN(3) == 0})
			last[name] = g.names[len(g.names)-1]
		}
		from := fmt.Sprint(rng.IntN(400))
		var n names
		n.add(g.sorted.update(g.names), from)
		got := make(map[string]nameChange)
		previous := ""
		for c := n.peek(); c != nil; c = n.peek() {
			if c.name <= previous && len(got) > 0 {
				t.Fatalf("%q after %q", c.name, previous)
			}
			previous = c.name
			got[c.name] = *c
			n.next(c.name)
		}
		for name, c := range last {
			if got[name] != c && name >= from {
				t.Fatalf("%q: %+v, want %+v", name, got[name], c)
			}
		}
		for name := range got {
			if name < from {
				t.Fatalf("%q from %q on", name, from)
			}
		}
	}
	if n := len(g.sorted.runs); n > 12 {
		t.Errorf("%d runs", n)
	}
}

// TestKeyPrefix: the prefix holds for every name that matches, also if marks
// follow that combine with the letter before, once that is lower-case.
func TestKeyPrefix(t *testing.T) {
	for _, c := range []struct{ pattern, prefix, literal string }{
		{"^bench-12", "bench-12", "bench-12"}, {"^Bench", "bench", "Bench"}, {"^BencH", "benc", "BencH"},
		{"^(ab)c", "abc", "ab"}, {"^aé", "a", "aé"}, {"(?i)^user-1", "user-1", ""}, {"(?i)^user", "use", ""},
		{"^a|^b", "", ""}, {"abc", "", "abc"}, {"^", "", ""}, {"", "", ""}, {`\Aab$`, "ab", "ab"},
		{"^a*", "", ""}, {"^ab*", "a", "a"}, {"(xyz)+a", "", "xyz"}, {"(xyz)*a", "", "a"}, {"(xyz){2}", "", "xyz"}, {"(xyz)?", "", ""},
		{"(?m)^ab", "", "ab"}, {"^^ab", "", "ab"}, {"a.bcd.e", "", "bcd"},
	} {
		re, err := syntax.Parse(c.pattern, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		if p, l := keyPrefix(re), longestLiteral(re); p != c.prefix || l != c.literal {
			t.Errorf("%s: prefix %q, literal %q, want %q, %q", c.pattern, p, l, c.prefix, c.literal)
		}
	}
	var after []rune
	for _, table := range []*unicode.RangeTable{unicode.Mn, unicode.Mc, unicode.Lm, unicode.Sk, {R16: []unicode.Range16{{0x80, 0x24f, 1}, {0x370, 0x3ff, 1}, {0xff00, 0xffef, 1}}}} {
		for _, r16 := range table.R16 {
			for r := rune(r16.Lo); r <= rune(r16.Hi); r += rune(r16.Stride) {
				after = append(after, r)
			}
		}
	}
	names := 0
	for c := rune('!'); c <= '~'; c++ {
		for _, r := range after {
			key, shown, err := Fold(string([]rune{'q', c, r}))
			if err != nil || !strings.HasPrefix(shown, string([]rune{'q', c})) {
				continue // no name, or not one that begins so
			}
			names++
			for _, flags := range []syntax.Flags{syntax.Perl, syntax.Perl | syntax.FoldCase} {
				re, err := syntax.Parse("^q"+regexp.QuoteMeta(string(c)), flags)
				if err != nil {
					t.Fatal(err)
				}
				if p := keyPrefix(re); p == "" || !strings.HasPrefix(key, p) {
					t.Fatalf("%v: the key of %q is %q, which does not begin with %q", re, shown, key, p)
				}
			}
		}
	}
	if names < 10_000 {
		t.Errorf("only %d names", names)
	}
	for _, name := range []string{"ſx", "\u212Ax"} { // match (?i)^s and (?i)^k
		if key, shown, err := Fold(name); err == nil && shown == name {
			t.Errorf("%q is a name, its key is %q", name, key)
		}
	}
}

// A pattern that is short but compiles to a lot is refused, with the limit.
func TestPatternProgramIsLimited(t *testing.T) {
	for text, ok := range map[string]bool{"(.*)(.*)(.*)z?$": true, "[a-z]{1,100}": true, "(?:[a-z][0-9]x){300,1000}": false} {
		_, err := newPattern(text)
		if (err == nil) != ok || !ok && !strings.Contains(err.Error(), "limit 2000") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
