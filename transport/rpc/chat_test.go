package rpc

import (
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/parley-chat/parley"
	parleyv1 "github.com/parley-chat/parley/api/parley/v1"
	"github.com/parley-chat/parley/parleytest"
)

// lose has every message fail n times, the first time after it took effect.
func lose(n int) func(parley.Request) parleytest.Fault {
	var mu sync.Mutex
	type key struct {
		session parley.SessionID
		seq     uint64
		body    string
	}
	tries := make(map[key]int)
	return func(r parley.Request) parleytest.Fault {
		mu.Lock()
		defer mu.Unlock()
		send, ok := r.Command.(parley.Send)
		k := key{r.Session, r.Seq, send.Body}
		if tries[k]++; !ok || tries[k] > n {
			return parleytest.Fault{}
		}
		return parleytest.Fault{Err: parley.Errorf(parley.CodeInterrupted, "planted"), Applied: tries[k] == 1}
	}
}

// TestSendOnce: a call takes effect once although it has to be tried more than
// once, with and without a number of the client's.
func TestSendOnce(t *testing.T) {
	w := newWorld(t, Config{})
	w.run(parley.CreateUser{Name: "ann"})
	w.fake.OnStart(lose(3))
	chat := w.chat()
	for i := range 3 {
		out, err := chat.Send(w.ctx, &parleyv1.SendRequest{To: "ann", Body: fmt.Sprint(i)})
		if err != nil || out.GetMessageId() != uint64(i+1) {
			t.Fatalf("%v, %v", out, err)
		}
	}
	session, err := chat.OpenSession(w.ctx, &parleyv1.OpenSessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	once := &parleyv1.Once{SessionId: session.GetSessionId(), Sequence: 1}
	for range 2 {
		out, err := chat.Send(w.ctx, &parleyv1.SendRequest{To: "ann", Body: "3", Once: once})
		if err != nil || out.GetMessageId() != 4 {
			t.Fatalf("%v, %v", out, err)
		}
	}
	w.wantUnread("ann", "0", "1", "2", "3")
}

// TestPipelined: numbered calls that a client begins all at once take effect in
// order, none is turned away.
func TestPipelined(t *testing.T) {
	w := newWorld(t, Config{})
	w.run(parley.CreateUser{Name: "ann"})
	chat := w.chat()
	session, err := chat.OpenSession(w.ctx, &parleyv1.OpenSessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	const n = 100
	var want []string
	var calls sync.WaitGroup
	for i := range n {
		want = append(want, fmt.Sprint(i+1))
		calls.Go(func() {
			once := &parleyv1.Once{SessionId: session.GetSessionId(), Sequence: uint64(i + 1)}
			if _, err := chat.Send(w.ctx, &parleyv1.SendRequest{To: "ann", Body: fmt.Sprint(i + 1), Once: once}); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	w.wantUnread("ann", want...)
	// A number that does not follow is turned away in the end.
	once := &parleyv1.Once{SessionId: session.GetSessionId(), Sequence: n + 2}
	_, err = chat.Send(w.ctx, &parleyv1.SendRequest{To: "ann", Body: "x", Once: once})
	w.want(err, codes.Aborted, "OUT_OF_ORDER")
}

// TestExpiredMeanwhile: after a try that may have taken effect, nobody can say.
func TestExpiredMeanwhile(t *testing.T) {
	w := newWorld(t, Config{})
	w.run(parley.CreateUser{Name: "ann"})
	chat := w.chat()
	session, err := chat.OpenSession(w.ctx, &parleyv1.OpenSessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var once1 sync.Once
	w.fake.OnStart(func(parley.Request) (f parleytest.Fault) {
		once1.Do(func() {
			f = parleytest.Fault{Err: parley.Errorf(parley.CodeNoQuorum, "planted"), Applied: true}
			go w.fake.ExpireSessions()
		})
		if w.fake.Sessions() > 0 { // until it has happened
			f.Err = parley.Errorf(parley.CodeNoQuorum, "planted")
		}
		return f
	})
	once := &parleyv1.Once{SessionId: session.GetSessionId(), Sequence: 1}
	_, err = chat.Send(w.ctx, &parleyv1.SendRequest{To: "ann", Body: "x", Once: once})
	w.want(err, codes.Unknown, "OUTCOME_UNKNOWN")
}

// TestStatuses: every code has its status and its reason, and the .proto tells.
func TestStatuses(t *testing.T) {
	for c := parley.CodeNoSuchUser; c <= parley.CodeOutcomeUnknown; c++ {
		if strings.HasPrefix(c.String(), "code ") {
			continue
		}
		err := newStatus(c, "detail")
		if got, ok := codeOfReason(reasonOf(err)); !ok || got != c {
			t.Errorf("%v: reason %q", c, reasonOf(err))
		}
		var retry *errdetails.RetryInfo
		for _, d := range status.Convert(err).Details() {
			if r, ok := d.(*errdetails.RetryInfo); ok {
				retry = r
			}
		}
		if (retry != nil) != c.Retryable() {
			t.Errorf("%v: retry %v", c, retry)
		}
		if s := status.Code(err); s == codes.OK || s == codes.Internal {
			t.Errorf("%v: status %v", c, s)
		}
		for _, file := range []string{"../../api/parley/v1/chat.proto", "../../docs/grpc.md"} {
			if !mentions(t, file, reason(c), status.Code(err)) {
				t.Errorf("%s does not say that %s comes with %v", file, reason(c), status.Code(err))
			}
		}
	}
}

// TestNoAnswer: when the cluster cannot answer, it is said so once the time is up.
func TestNoAnswer(t *testing.T) {
	w := newWorld(t, Config{CommandTimeout: 300 * time.Millisecond})
	w.fake.OnStart(func(parley.Request) parleytest.Fault {
		return parleytest.Fault{Err: parley.Errorf(parley.CodeNoQuorum, "planted")}
	})
	w.fake.OnGet(func(parley.Query) error { return parley.Errorf(parley.CodeNotLeader, "planted") })
	chat := w.chat()
	_, err := chat.Send(t.Context(), &parleyv1.SendRequest{To: "ann", Body: "x"})
	w.want(err, codes.Unavailable, "NO_QUORUM")
	_, err = chat.Inbox(t.Context(), &parleyv1.InboxRequest{User: "ann"})
	w.want(err, codes.Unavailable, "NO_QUORUM")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond) // the caller's own
	defer cancel()
	_, err = chat.Inbox(ctx, &parleyv1.InboxRequest{User: "ann"})
	w.want(err, codes.DeadlineExceeded, "")
}

// TestBadInput: whatever a client sends, it gets words.
func TestBadInput(t *testing.T) {
	w := newWorld(t, Config{})
	w.run(parley.CreateUser{Name: "ann"})
	chat := parleyv1.NewChatServiceClient(w.dial(grpc.WithDefaultCallOptions(carelessly())))
	for _, token := range []string{"x", "====", "MQ", strings.Repeat("A", 10_000), pageToken("x")[1:]} {
		_, err := chat.ListUsers(w.ctx, &parleyv1.ListUsersRequest{PageToken: token})
		w.want(err, codes.InvalidArgument, "BAD_REQUEST")
	}
	for _, pattern := range []string{"(", strings.Repeat("a", 2000), "a{1000}{1000}", "\xff"} {
		_, err := chat.ListUsers(w.ctx, &parleyv1.ListUsersRequest{Pattern: pattern})
		w.want(err, codes.InvalidArgument, "BAD_PATTERN")
	}
	for _, year := range []int{1, 1969, 2263, 2700, 9999} {
		_, err := chat.IssueToken(w.ctx, &parleyv1.IssueTokenRequest{User: "ann", Expires: timestamppb.New(time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC))})
		w.want(err, codes.InvalidArgument, "BAD_REQUEST")
	}
	forever, cancel := context.WithTimeout(t.Context(), math.MaxInt64)
	defer cancel()
	_, err := chat.Inbox(forever, &parleyv1.InboxRequest{User: "ann"})
	w.want(err, codes.OK, "")
	_, err = chat.Send(w.ctx, &parleyv1.SendRequest{To: "ann", Body: "a\xffb"})
	w.want(err, codes.InvalidArgument, "BAD_TEXT")
	_, err = chat.CreateUser(w.ctx, &parleyv1.CreateUserRequest{Name: "\xff"})
	w.want(err, codes.InvalidArgument, "BAD_NAME")
	_, err = chat.Send(w.ctx, &parleyv1.SendRequest{To: "ann", Body: strings.Repeat("x", 64<<10+1)})
	w.want(err, codes.InvalidArgument, "BODY_TOO_LARGE")
	_, err = chat.Send(w.ctx, &parleyv1.SendRequest{To: "ann", Body: strings.Repeat("x", 200<<10)})
	w.want(err, codes.ResourceExhausted, "") // of gRPC itself: it is not even read
	_, err = chat.Ack(w.ctx, &parleyv1.AckRequest{User: "ann", UpTo: &parleyv1.Cursor{MessageId: math.MaxUint64}})
	w.want(err, codes.OK, "")
	_, err = chat.Send(w.ctx, &parleyv1.SendRequest{To: "ann", Once: &parleyv1.Once{SessionId: 1, Sequence: 1, Answered: math.MaxUint64}})
	w.want(err, codes.InvalidArgument, "BAD_REQUEST")
	_, err = chat.Send(w.ctx, &parleyv1.SendRequest{To: "ann", Once: &parleyv1.Once{SessionId: 1 << 60, Sequence: math.MaxUint64, Answered: math.MaxUint64 - 1}})
	w.want(err, codes.FailedPrecondition, "SESSION_EXPIRED")
	out, err := chat.Inbox(w.ctx, &parleyv1.InboxRequest{User: "ann", PageSize: math.MaxUint32})
	if err != nil || len(out.GetMessages()) != 0 {
		t.Errorf("%v, %v", out, err)
	}
}

// TestTrailers: every answer says who leads.
func TestTrailers(t *testing.T) {
	leader := Leader{ID: "n2", Client: "host2:3000"}
	w := newWorld(t, Config{Leadership: func() (Leader, <-chan struct{}) { return leader, nil }})
	chat := w.chat()
	var ok, failed metadata.MD
	if _, err := chat.ListUsers(w.ctx, &parleyv1.ListUsersRequest{}, grpc.Trailer(&ok)); err != nil {
		t.Fatal(err)
	}
	_, err := chat.Inbox(w.ctx, &parleyv1.InboxRequest{User: "nobody"}, grpc.Trailer(&failed))
	w.want(err, codes.NotFound, "NO_SUCH_USER")
	watch, err := chat.Watch(w.ctx, &parleyv1.WatchRequest{User: "nobody"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = watch.Recv()
	w.want(err, codes.NotFound, "NO_SUCH_USER")
	for name, md := range map[string]metadata.MD{"ok": ok, "failed": failed, "watch": watch.Trailer()} {
		want := map[string]string{"parley-node": "n1", "parley-leader": "n2", "parley-leader-address": "host2:3000"}
		if name != "ok" {
			want["parley-reason"] = "NO_SUCH_USER"
		}
		for key, value := range want {
			if got := md.Get(key); len(got) != 1 || got[0] != value {
				t.Errorf("%s: trailer %s is %q", name, key, got)
			}
		}
	}
}

// TestWatchGoesOn: a watch outlives a change of leader, without loss or repetition.
func TestWatchGoesOn(t *testing.T) {
	w := newWorld(t, Config{})
	w.run(parley.CreateUser{Name: "ann"})
	watch, err := w.chat().Watch(w.ctx, &parleyv1.WatchRequest{User: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Header(); err != nil { // comes although there is no mail
		t.Fatal(err)
	}
	for i := range 20 {
		w.run(parley.Send{To: "ann", Body: fmt.Sprint(i)})
		if i%3 == 0 {
			w.fake.EndWatches(parley.Errorf(parley.CodeInterrupted, "planted"))
		}
		out, err := watch.Recv()
		if err != nil || out.GetMessage().GetBody() != fmt.Sprint(i) {
			t.Fatalf("message %d: %v, %v", i, out, err)
		}
	}
	w.run(parley.DeleteUser{Name: "ann"})
	_, err = watch.Recv()
	w.want(err, codes.NotFound, "NO_SUCH_USER")
}

// TestSlowWatch: a client that does not read holds up nobody else, and costs no
// more than the windows of HTTP/2.
func TestSlowWatch(t *testing.T) {
	w := newWorld(t, Config{})
	w.run(parley.CreateUser{Name: "ann"})
	chat := w.chat()
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	if _, err := chat.Watch(ctx, &parleyv1.WatchRequest{User: "ann"}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the watch is there", func() bool { return w.fake.Watches() == 1 })
	for range 100 {
		w.run(parley.Send{To: "ann", Body: strings.Repeat("x", 64<<10)})
	}
	out, err := chat.Inbox(w.ctx, &parleyv1.InboxRequest{User: "ann", CountsOnly: true})
	if err != nil || out.GetUnread() != 100 {
		t.Errorf("%v, %v", out, err)
	}
	cancel()
	w.eventually("the watch has ended", func() bool { return w.fake.Watches() == 0 })
}

// mentions reports whether a file has a line with both a reason and its status.
func mentions(t *testing.T, file, reason string, code codes.Code) bool {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	words := map[codes.Code]string{
		codes.NotFound: "NOT_FOUND", codes.AlreadyExists: "ALREADY_EXISTS", codes.InvalidArgument: "INVALID_ARGUMENT",
		codes.ResourceExhausted: "RESOURCE_EXHAUSTED", codes.FailedPrecondition: "FAILED_PRECONDITION",
		codes.Unauthenticated: "UNAUTHENTICATED", codes.PermissionDenied: "PERMISSION_DENIED",
		codes.Unimplemented: "UNIMPLEMENTED", codes.Unknown: "UNKNOWN", codes.Unavailable: "UNAVAILABLE", codes.Aborted: "ABORTED",
	}
	for line := range strings.Lines(string(b)) {
		fields := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" |`/\n", r) })
		if slices.Contains(fields, reason) && slices.Contains(fields, words[code]) {
			return true
		}
	}
	return false
}
