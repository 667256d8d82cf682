package account

import (
	"context"
	"encoding/base64"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/api/helloworld"
	parleyv1 "github.com/parley-chat/parley/api/parley/v1"
	"github.com/parley-chat/parley/client"
	"github.com/parley-chat/parley/transport"
	"github.com/parley-chat/parley/transport/rpc"
	"github.com/parley-chat/parley/transport/tcp"
	"github.com/parley-chat/parley/wire"
)

// serve puts gateways before the stage's guard, as a node does, and returns their port.
func (s *stage) serve() string {
	s.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	g := tcp.New(tcp.Config{Service: s.guard.Anybody(), Login: s.guard.Login, NodeID: "n1"})
	calls := rpc.New(rpc.Config{Service: s.guard.Anybody(), Login: s.guard.Login, NodeID: "n1"})
	sniff := &transport.Sniff{HTTP2: calls.Handle, Others: g.Handle, Timeout: time.Minute}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { transport.New(transport.Config{}).Serve(ctx, ln, sniff.Handle) }) //nolint:errcheck // the listener is ours
	s.t.Cleanup(func() {
		cancel()
		wg.Wait()
		calls.Close()
	})
	return ln.Addr().String()
}

// TestFramedTable: the table of required mode over the framed protocol.
func TestFramedTable(t *testing.T) {
	columns, rows := table(t, required)
	for row, cells := range rows {
		if row == "StoreUser" || row == "StorePassword" {
			continue // see TestFramedLogin in transport/tcp: they cannot be made by the client
		}
		for i, column := range columns {
			if column == "adm" {
				continue
			}
			s := newStage(t, parley.Policy{Auth: parley.AuthRequired}, "ann")
			cfg := client.Config{Servers: []string{s.serve()}}
			want := cells[i]
			if column != "any" {
				cfg.Credentials = client.Static(s.creds[column])
			}
			if column == "exp" || column == "rev" {
				want = "L" // the login itself is refused
			}
			c, err := client.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if got := cell(s.try(c, row)); got != want {
				t.Errorf("%s by %s: %s, want %s", row, column, got, want)
			}
			c.Close()
		}
	}
}

// rpcRows are the rows of the table that the calls of parley.v1 stand for.
var rpcRows = map[string]string{
	"CreateUser": "CreateUser", "DeleteUser": "DeleteUser", "ListUsers": "Users", "Send": "Send", "Inbox": "Inbox", "Ack": "Ack",
	"Watch": "Watch", "OpenSession": "OpenSession", "CloseSession": "CloseSession", "SetPassword": "SetPassword",
	"IssueToken": "AddToken", "ListTokens": "Tokens", "RevokeToken": "RevokeToken", "GetPolicy": "GetPolicy", "ClusterStatus": "Status",
}

// authorize puts a column's credentials into a call's metadata.
func (s *stage) authorize(column string) context.Context {
	c, ok := s.creds[column]
	switch {
	case !ok:
		return s.ctx
	case c.Token != "":
		return metadata.AppendToOutgoingContext(s.ctx, "authorization", "Bearer "+string(c.Token))
	}
	basic := base64.StdEncoding.EncodeToString([]byte(c.User + ":" + string(c.Password)))
	return metadata.AppendToOutgoingContext(s.ctx, "authorization", "Basic "+basic)
}

func (s *stage) dial() *grpc.ClientConn {
	conn, err := grpc.NewClient("passthrough:///"+s.serve(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	return conn
}

// call makes a call of parley.v1 about ann.
func call(ctx context.Context, c parleyv1.ChatServiceClient, method string) (err error) {
	switch method {
	case "CreateUser":
		_, err = c.CreateUser(ctx, &parleyv1.CreateUserRequest{Name: "new", Password: "a new password"})
	case "DeleteUser":
		_, err = c.DeleteUser(ctx, &parleyv1.DeleteUserRequest{Name: "ann"})
	case "ListUsers":
		_, err = c.ListUsers(ctx, &parleyv1.ListUsersRequest{})
	case "Send":
		_, err = c.Send(ctx, &parleyv1.SendRequest{To: "bob", Body: "hello"})
	case "Inbox":
		_, err = c.Inbox(ctx, &parleyv1.InboxRequest{User: "ann"})
	case "Ack":
		_, err = c.Ack(ctx, &parleyv1.AckRequest{User: "ann", UpTo: &parleyv1.Cursor{MessageId: 1}})
	case "Watch":
		var in grpc.ServerStreamingClient[parleyv1.WatchResponse]
		if in, err = c.Watch(ctx, &parleyv1.WatchRequest{User: "ann"}); err == nil {
			_, err = in.Recv()
		}
	case "OpenSession":
		_, err = c.OpenSession(ctx, &parleyv1.OpenSessionRequest{})
	case "CloseSession":
		var s *parleyv1.OpenSessionResponse
		if s, err = c.OpenSession(ctx, &parleyv1.OpenSessionRequest{}); err == nil {
			_, err = c.CloseSession(ctx, &parleyv1.CloseSessionRequest{SessionId: s.GetSessionId()})
		}
	case "SetPassword":
		_, err = c.SetPassword(ctx, &parleyv1.SetPasswordRequest{User: "ann", CurrentPassword: annsPassword, NewPassword: "a new password"})
	case "IssueToken":
		_, err = c.IssueToken(ctx, &parleyv1.IssueTokenRequest{User: "ann"})
	case "ListTokens":
		_, err = c.ListTokens(ctx, &parleyv1.ListTokensRequest{User: "ann"})
	case "RevokeToken":
		_, err = c.RevokeToken(ctx, &parleyv1.RevokeTokenRequest{User: "ann"})
	case "GetPolicy":
		_, err = c.GetPolicy(ctx, &parleyv1.GetPolicyRequest{})
	case "ClusterStatus":
		_, err = c.ClusterStatus(ctx, &parleyv1.ClusterStatusRequest{})
	}
	return err
}

// TestTypedTable: the table of required mode over parley.v1, which needs a row for
// each call that there is.
func TestTypedTable(t *testing.T) {
	columns, rows := table(t, required)
	var methods []string
	for _, m := range parleyv1.ChatService_ServiceDesc.Methods {
		methods = append(methods, m.MethodName)
	}
	for _, m := range parleyv1.ChatService_ServiceDesc.Streams {
		methods = append(methods, m.StreamName)
	}
	for _, method := range methods {
		cells := rows[rpcRows[method]]
		if cells == nil {
			t.Fatalf("%s: which row is that?", method)
		}
		for i, column := range columns {
			if column == "adm" {
				continue
			}
			s := newStage(t, parley.Policy{Auth: parley.AuthRequired}, "ann")
			s.must(s.as["bob"], parley.Send{To: "ann", Body: "hello"})
			want := cells[i]
			if column == "exp" || column == "rev" {
				want = "L"
			}
			got := "+"
			switch err := call(s.authorize(column), parleyv1.NewChatServiceClient(s.dial()), method); status.Code(err) {
			case codes.OK:
			case codes.Unauthenticated:
				got = "L"
			case codes.PermissionDenied:
				got = "P"
			default:
				got = err.Error()
			}
			if got != want {
				t.Errorf("%s by %s: %s, want %s", method, column, got, want)
			}
		}
	}
}

// exercise is what the exercise's protocols answer in required mode: + done, - not.
const exercise = `
               any ann bob snd rd  ful exp rev
create          +   +   +   -   -   +   -   -
delete          -   +   -   -   -   +   -   -
list            -   +   +   -   +   +   -   -
send            -   +   +   +   -   +   -   -
connect         -   +   -   -   +   +   -   -
listen          -   +   -   -   +   +   -   -
`

func exerciseTable(t *testing.T) (columns []string, rows map[string][]string) {
	rows = make(map[string][]string)
	for i, line := range strings.Split(strings.TrimSpace(exercise), "\n") {
		if f := strings.Fields(line); i == 0 {
			columns = f
		} else {
			rows[f[0]] = f[1:]
		}
	}
	return columns, rows
}

// TestLegacyTable: helloworld.Chat, with credentials in the metadata.
func TestLegacyTable(t *testing.T) {
	columns, rows := exerciseTable(t)
	for row, cells := range rows {
		for i, column := range columns {
			s := newStage(t, parley.Policy{Auth: parley.AuthRequired}, "ann")
			s.must(s.as["bob"], parley.Send{To: "ann", Body: "hello"})
			c, ctx := helloworld.NewChatClient(s.dial()), s.authorize(column)
			got := "-"
			if row == "listen" {
				out, err := c.Listen(ctx, &helloworld.User{Name: "ann"})
				if err == nil && out.GetMessage() != "" {
					got = "+"
				}
			} else {
				line := map[string]string{
					"create": "create new a-new-password", "delete": "delete ann", "list": "list", "send": "send bob hello", "connect": "connect ann",
				}[row]
				out, err := c.TryCommand(ctx, &helloworld.Command{Command: line})
				if err == nil && !strings.HasPrefix(out.GetMessage(), "Cannot") {
					got = "+"
				}
			}
			if got != cells[i] {
				t.Errorf("%s by %s: %s, want %s", row, column, got, cells[i])
			}
		}
	}
}

// TestClassicTable: the classic protocol, whose users log in by password only.
func TestClassicTable(t *testing.T) {
	_, rows := exerciseTable(t)
	for row, cells := range rows {
		for i, column := range []string{"any", "ann", "bob"} {
			if row == "listen" || row == "connect" && column != "any" {
				continue // connect brings the mail, and is the login itself
			}
			s := newStage(t, parley.Policy{Auth: parley.AuthRequired}, "ann")
			nc, err := net.Dial("tcp", s.serve())
			if err != nil {
				t.Fatal(err)
			}
			nc.SetDeadline(time.Now().Add(time.Minute))
			ask := func(command, args string) string {
				nc.Write(wire.AppendClassic(nil, command, args)) //nolint:errcheck // reading fails then
				for {
					b := make([]byte, wire.ClassicFrame)
					if _, err := io.ReadFull(nc, b); err != nil {
						t.Fatal(err)
					}
					f, err := wire.ParseClassic(b)
					if err != nil {
						t.Fatal(err)
					}
					if f.Command != "string" {
						return f.Command
					}
				}
			}
			if c, ok := s.creds[column]; ok && ask("connect", c.User+","+string(c.Password)) != "ok" {
				t.Fatalf("%s cannot connect", column)
			}
			args := map[string]string{"create": "new,a new password", "delete": "ann", "send": "bob,hello", "connect": "ann"}[row]
			got := "+"
			if ask(row, args) == "notok" {
				got = "-"
			}
			if got != cells[i] {
				t.Errorf("%s by %s: %s, want %s", row, column, got, cells[i])
			}
			nc.Close()
		}
	}
}
