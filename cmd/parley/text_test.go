package main

import (
	"bytes"
	"encoding/json"
	"testing"
)

func TestVisible(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"hello, world", "hello, world"},
		{"grüße 你好 👩‍👩‍👧 \ufffd", "grüße 你好 👩‍👩‍👧 \ufffd"},
		{"a\nb\tc\r", `a\nb\tc\r`},
		{"\x1b[2J", `\x1b[2J`},
		{"\x7f\u009b31m", `\x7f\u009b31m`},
		{"invoice\u202egnp.exe", `invoice\u202egnp.exe`},
		{"\u2066x\u2069\u200f\u061c", `\u2066x\u2069\u200f\u061c`},
		{"a\u2028b\u200bc\ufeff", `a\u2028b\u200bc\ufeff`},
		{"\U000e0001", `\U000e0001`},
		{"bad \xff\xc3", `bad \xff\xc3`},
		{`C:\dir`, `C:\dir`},
	} {
		if got := visible(c.in); got != c.want {
			t.Errorf("visible(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

func TestPrintJSON(t *testing.T) {
	in := "a\x1b[2J\u009b\u202e\U000e0001\u2028\"\\ü"
	var b bytes.Buffer
	if err := printJSON(&b, in); err != nil {
		t.Fatal(err)
	}
	for _, r := range b.String() {
		if treacherous(r) && r != '\n' {
			t.Errorf("%q contains %q", b.String(), r)
		}
	}
	var out string
	if err := json.Unmarshal(b.Bytes(), &out); err != nil || out != in {
		t.Errorf("got back %q (%v), want %q", out, err, in)
	}
}

func TestSize(t *testing.T) {
	for _, c := range []struct {
		in, shown string
		want      int64
	}{
		{"0", "0", 0}, {"65536", "64KiB", 65536}, {"64KiB", "64KiB", 65536}, {"1000", "1000", 1000},
		{"256 MiB", "256MiB", 256 << 20}, {"2GiB", "2GiB", 2 << 30},
	} {
		var v sizeValue
		if err := v.Set(c.in); err != nil || int64(v) != c.want || v.String() != c.shown {
			t.Errorf("%q: %d %q %v, want %d %q", c.in, int64(v), v.String(), err, c.want, c.shown)
		}
	}
	for _, in := range []string{"", "x", "-1", "64kb", "9223372036854775807KiB", "1.5MiB"} {
		if err := new(sizeValue).Set(in); err == nil {
			t.Errorf("%q accepted", in)
		}
	}
}
