package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/client"
)

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// openScreen returns a terminal screen if a person sits at both ends, a pipe
// otherwise. hangUp is called when the person leaves.
func openScreen(a *app, hangUp func()) (screen, error) {
	if isTerminal(a.stdin) && isTerminal(a.stdout) {
		return openConsole(a.stdin.(*os.File), a.stdout.(*os.File), hangUp)
	}
	return &pipe{in: a.stdin, out: a.stdout}, nil
}

// pipe is a screen without a terminal: plain lines in, plain lines out.
type pipe struct {
	in io.Reader

	mu  sync.Mutex
	out io.Writer
}

var _ screen = (*pipe)(nil)

func (p *pipe) print(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.out, line)
}

func (p *pipe) message(m parley.Message) {
	p.print(fmt.Sprintf("message %d from %s: %s", m.ID, sender(m), visible(m.Body)))
}

func (p *pipe) identity(string)    {}
func (p *pipe) event(client.Event) {}
func (p *pipe) close()             {}

func (p *pipe) lines(ctx context.Context) iter.Seq2[string, error] {
	br := bufio.NewReader(p.in)
	return linesOf(ctx, func() (string, error) { return readLine(br) }, func() {})
}

// sender is a message's sender for showing.
func sender(m parley.Message) string {
	if m.From == "" {
		return "(anonymous)"
	}
	return visible(m.From)
}

// maxLine bounds one line of a chat; what the cluster takes is most likely less.
const maxLine = 1 << 20

var errLineTooLong = fmt.Errorf("a line of more than %d bytes", maxLine)

// readLine reads a line without its end. The last one may lack a newline. A
// line that is too long is skipped.
func readLine(br *bufio.Reader) (string, error) {
	var line []byte
	for {
		part, err := br.ReadSlice('\n')
		if len(line) <= maxLine {
			line = append(line, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) || err == io.EOF && len(part) > 0 {
			continue
		}
		switch {
		case err != nil && len(line) == 0:
			return "", err
		case len(line) > maxLine:
			return "", errLineTooLong
		}
		return strings.TrimRight(string(line), "\r\n"), nil
	}
}

// linesOf yields what read returns until it fails or ctx ends, and calls ended
// after a failure. read runs on a goroutine of its own, which cannot be
// interrupted while it waits for a person: it ends with ctx after its next line,
// or with the process.
func linesOf(ctx context.Context, read func() (string, error), ended func()) iter.Seq2[string, error] {
	type input struct {
		line string
		err  error
	}
	return func(yield func(string, error) bool) {
		inputs := make(chan input)
		go func() {
			defer close(inputs)
			for {
				line, err := read()
				if err == io.EOF {
					ended()
					return
				}
				select {
				case inputs <- input{line, err}:
				case <-ctx.Done():
					return
				}
				if err != nil && !errors.Is(err, errLineTooLong) {
					ended()
					return
				}
			}
		}()
		for {
			select {
			case in, ok := <-inputs:
				if !ok || !yield(in.line, in.err) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// console is a screen on a terminal: line editing and history by term.Terminal,
// and a prompt that says who and where one is.
type console struct {
	t      *term.Terminal
	in     int // file descriptor
	out    io.Writer
	before *term.State
	hangUp func()
	unwind func() // ends the watch for changes of the window's size
	color  bool

	mu      sync.Mutex
	user    string
	node    string // "" while not connected
	trouble string // the last one shown
}

var _ screen = (*console)(nil)

func openConsole(in, out *os.File, hangUp func()) (*console, error) {
	c := &console{in: int(in.Fd()), out: out, hangUp: hangUp, color: os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
	c.t = term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{in, out}, "")
	c.t.AutoCompleteCallback = completeVerb
	resize := func() {
		if width, height, err := term.GetSize(int(out.Fd())); err == nil && width > 0 {
			_ = c.t.SetSize(width, height)
		}
	}
	resize()
	c.prompt()
	var err error
	if c.before, err = term.MakeRaw(c.in); err != nil {
		return nil, err
	}
	c.unwind = onResize(resize)
	return c, nil
}

func (c *console) close() {
	c.unwind()
	_, _ = io.WriteString(c.out, "\r\x1b[K") // no prompt is left behind
	_ = term.Restore(c.in, c.before)
}

func (c *console) lines(ctx context.Context) iter.Seq2[string, error] {
	return linesOf(ctx, c.t.ReadLine, c.hangUp)
}

func (c *console) print(text string) { fmt.Fprintln(c.t, text) }

func (c *console) message(m parley.Message) {
	head := m.Time.Local().Format(time.TimeOnly) + " " + sender(m) + ":"
	if c.color {
		head = string(c.t.Escape.Cyan) + head + string(c.t.Escape.Reset)
	}
	c.print(head + " " + visible(m.Body))
}

func (c *console) identity(user string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.user = user
	c.prompt()
}

// event shows a failover: that a node was lost, and which one serves now.
func (c *console) event(e client.Event) {
	c.mu.Lock()
	text := e.String()
	switch e.Kind {
	case client.Connected:
		c.node, c.trouble = e.Node, ""
	case client.Lost:
		c.node = ""
	case client.Retrying: // said once per kind of trouble, not once per try
		text = fmt.Sprint(e.Err)
		if pe := new(parley.Error); errors.As(e.Err, &pe) {
			text = pe.Detail
		}
		trouble, _, _ := strings.Cut(text, ":")
		text += "; still trying"
		if trouble == c.trouble {
			text = ""
		}
		c.trouble = trouble
	}
	c.prompt()
	c.mu.Unlock()
	if text == "" {
		return
	}
	text = "-- " + visible(text)
	if c.color {
		text = string(c.t.Escape.Yellow) + text + string(c.t.Escape.Reset)
	}
	c.print(text)
}

// prompt sets the prompt: alice@n1>. mu is held, or nobody else is there yet.
func (c *console) prompt() {
	node := c.node
	if node == "" {
		node = "(no node)"
	}
	if c.user != "" {
		node = c.user + "@" + node
	}
	c.t.SetPrompt(visible(node) + "> ")
}

// completeVerb completes the command when Tab is pressed in it.
func completeVerb(line string, pos int, key rune) (string, int, bool) {
	if key != '\t' || line == "" || strings.Contains(line[:pos], " ") {
		return "", 0, false
	}
	var match []string
	for verb := range chatVerbs() {
		if strings.HasPrefix(verb, line[:pos]) {
			match = append(match, verb)
		}
	}
	if len(match) != 1 {
		return "", 0, false
	}
	return match[0] + " " + line[pos:], len(match[0]) + 1, true
}
