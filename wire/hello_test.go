package wire

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/parley-chat/parley"
)

func TestHello(t *testing.T) {
	for _, mode := range []Mode{ModeLeader, ModeAny} {
		b := AppendHello(nil, Hello{Mode: mode})
		c, err := ParseClassic(b)
		if err != nil {
			t.Fatal(err)
		}
		h, refusal := ParseHello(c)
		if refusal != nil || h != (Hello{Version: 1, Mode: mode}) {
			t.Errorf("%+v, %v", h, refusal)
		}
	}
	for args, want := range map[string]parley.Code{
		"": parley.CodeBadRequest, "1": parley.CodeBadRequest, "x,any": parley.CodeBadRequest, "+1,any": parley.CodeBadRequest,
		"2,any": parley.CodeUnsupported, "1,all": parley.CodeUnsupported, "1,any,x": parley.CodeUnsupported,
	} {
		if _, refusal := ParseHello(Classic{Command: "hello", Args: args}); refusal == nil || refusal.Code != want {
			t.Errorf("%q: %v, want %v", args, refusal, want)
		}
	}
}

func TestAnswersToHello(t *testing.T) {
	read := func(b []byte) (Welcome, error) { return ReadWelcome(bytes.NewReader(b)) }

	w := Welcome{Node: "n1", MaxFrame: 131072, Idle: 90 * time.Second}
	if got, err := read(AppendWelcome(nil, w)); err != nil || got != w {
		t.Errorf("%+v, %v", got, err)
	}
	want := Redirect{Node: "n2", Addr: "10.0.0.2:3000"}
	var to *Redirect
	if _, err := read(AppendRedirect(nil, want)); !errors.As(err, &to) || *to != want {
		t.Errorf("%v", err)
	}
	for _, e := range []*parley.Error{
		{Code: parley.CodeUnsupported, Detail: "no, and that's that"},
		{Code: parley.CodeNotLeader, Detail: "no leader known"},
	} {
		b := AppendHelloRefusal(nil, e)
		var got *parley.Error
		if _, err := read(b); !errors.As(err, &got) || !reflect.DeepEqual(got, e) {
			t.Errorf("%v, want %v", got, e)
		}
		if word := string(bytes.TrimRight(b[:ClassicHeader], "\x00")); (word == "error") != e.Code.Retryable() {
			t.Errorf("%v is refused by %q", e, word)
		}
	}
}

func TestBadAnswersToHello(t *testing.T) {
	for _, c := range []Classic{
		{"ok", "1,n1,100"}, {"ok", "1,n1,100,90,1"}, {"ok", "1,,100,90"}, {"ok", "1,n1,x,90"}, {"ok", "1,n1,100,0"},
		{"ok", "1,n1,1,90"}, {"ok", "1,n1,99999999999,90"}, {"redirect", "1,0,n1"}, {"redirect", "1,x,n1,a"},
		{"redirect", "1,0,,a"}, {"notok", "1,x,y"}, {"notok", "1,65536,y"}, {"string", "1,x"},
	} {
		_, err := ReadWelcome(bytes.NewReader(AppendClassic(nil, c.Command, c.Args)))
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%v: %v", c, err)
		}
	}
	if _, err := ReadWelcome(bytes.NewReader(AppendClassic(nil, "ok", "2,n1,100,90"))); parley.CodeOf(err) != parley.CodeUnsupported {
		t.Errorf("version 2: %v", err)
	}
	if _, err := ReadWelcome(strings.NewReader("HTTP/1.1 400 Bad Request\r\n")); err == nil {
		t.Error("half an answer was accepted")
	}
	if _, err := ReadWelcome(bytes.NewReader(bytes.Repeat([]byte("x"), ClassicFrame))); !errors.Is(err, ErrClassic) {
		t.Errorf("garbage: %v", err)
	}
}
