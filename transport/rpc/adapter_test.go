package rpc

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/parley-chat/parley"
	parleyv1 "github.com/parley-chat/parley/api/parley/v1"
)

// adapter is a [parley.Service] over the stubs that Go clients use, so that the
// conformance suite can look at the gateway from outside.
type adapter struct {
	conn *grpc.ClientConn
	stub parleyv1.ChatServiceClient

	mu   sync.Mutex
	turn <-chan struct{} // closed when the last call has been begun
}

func newAdapter(conn *grpc.ClientConn) *adapter {
	first := make(chan struct{})
	close(first)
	return &adapter{conn: conn, stub: parleyv1.NewChatServiceClient(conn), turn: first}
}

var _ parley.Service = (*adapter)(nil)

// Start begins calls in the order in which it is called, as a client does that
// begins one after the other without waiting for answers.
func (a *adapter) Start(ctx context.Context, r parley.Request, done func(parley.Result, error)) {
	mine := make(chan struct{})
	a.mu.Lock()
	turn := a.turn
	a.turn = mine
	a.mu.Unlock()
	go func() {
		<-turn
		method, in, out := callFor(r)
		stream, err := a.conn.NewStream(ctx, &grpc.StreamDesc{}, method)
		if err == nil {
			err = stream.SendMsg(in)
		}
		if err == nil {
			err = stream.CloseSend()
		}
		close(mine)
		if err == nil || errors.Is(err, io.EOF) { // which says that receiving tells why
			err = stream.RecvMsg(out)
		}
		if err != nil {
			done(a.outcome(err))
			return
		}
		done(result(out), nil)
	}()
}

// callFor is the call that a request makes.
func callFor(r parley.Request) (method string, in, out proto.Message) {
	var once *parleyv1.Once
	if r.Session != 0 || r.Seq != 0 || r.Answered != 0 {
		once = &parleyv1.Once{SessionId: uint64(r.Session), Sequence: r.Seq, Answered: r.Answered}
	}
	switch c := r.Command.(type) {
	case parley.CreateUser:
		return parleyv1.ChatService_CreateUser_FullMethodName, &parleyv1.CreateUserRequest{Name: c.Name, Once: once}, &parleyv1.CreateUserResponse{}
	case parley.DeleteUser:
		return parleyv1.ChatService_DeleteUser_FullMethodName, &parleyv1.DeleteUserRequest{Name: c.Name, Once: once}, &parleyv1.DeleteUserResponse{}
	case parley.Send:
		return parleyv1.ChatService_Send_FullMethodName, &parleyv1.SendRequest{From: c.From, To: c.To, Body: c.Body, Once: once}, &parleyv1.SendResponse{}
	case parley.Ack:
		return parleyv1.ChatService_Ack_FullMethodName, &parleyv1.AckRequest{User: c.User, UpTo: toCursor(c.UpTo), Once: once}, &parleyv1.AckResponse{}
	case parley.OpenSession:
		return parleyv1.ChatService_OpenSession_FullMethodName, &parleyv1.OpenSessionRequest{}, &parleyv1.OpenSessionResponse{}
	case parley.CloseSession:
		return parleyv1.ChatService_CloseSession_FullMethodName, &parleyv1.CloseSessionRequest{SessionId: uint64(c.Session)}, &parleyv1.CloseSessionResponse{}
	}
	panic("no such command")
}

// result is what a response says.
func result(out proto.Message) (r parley.Result) {
	switch out := out.(type) {
	case *parleyv1.CreateUserResponse:
		r.Incarnation = parley.Incarnation(out.GetIncarnation())
	case *parleyv1.SendResponse:
		r.Message = parley.MessageID(out.GetMessageId())
	case *parleyv1.OpenSessionResponse:
		r.Session = parley.SessionID(out.GetSessionId())
	}
	return r
}

func (a *adapter) Get(ctx context.Context, q parley.Query) (result parley.Result, err error) {
	switch q := q.(type) {
	case parley.Users:
		in := &parleyv1.ListUsersRequest{Pattern: q.Pattern, PageSize: uint32(q.Limit)}
		if q.After != "" {
			in.PageToken = pageToken(q.After)
		}
		var out *parleyv1.ListUsersResponse
		out, err = a.stub.ListUsers(ctx, in)
		result.Names, result.More = out.GetNames(), out.GetNextPageToken() != ""
	case parley.Inbox:
		in := &parleyv1.InboxRequest{User: q.User, After: toCursor(q.After), PageSize: uint32(max(0, q.Limit)), CountsOnly: q.Limit < 0}
		var out *parleyv1.InboxResponse
		out, err = a.stub.Inbox(ctx, in)
		result.More, result.Cursor, result.Unread = out.GetMore(), fromCursor(out.GetCursor()), out.GetUnread()
		for _, m := range out.GetMessages() {
			result.Messages = append(result.Messages, fromMessage(m))
		}
	case parley.Status:
		var out *parleyv1.ClusterStatusResponse
		out, err = a.stub.ClusterStatus(ctx, &parleyv1.ClusterStatusRequest{})
		for _, m := range out.GetMembers() {
			member := parley.Member{ID: m.GetName(), Reachable: m.GetReachable()}
			if m.GetRole() == parleyv1.Role_ROLE_LEADER {
				member.Role = parley.RoleLeader
			}
			result.Members = append(result.Members, member)
		}
	default:
		err = errors.ErrUnsupported
	}
	if err != nil {
		return a.outcome(err)
	}
	return result, nil
}

func (a *adapter) Watch(ctx context.Context, user string, after parley.Cursor) iter.Seq2[parley.Message, error] {
	return func(yield func(parley.Message, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		in, err := a.stub.Watch(ctx, &parleyv1.WatchRequest{User: user, After: toCursor(after)})
		for {
			var out *parleyv1.WatchResponse
			if err == nil {
				out, err = in.Recv()
			}
			if err != nil {
				r, err := a.outcome(err)
				yield(parley.Message{}, errors.Join(err, r.Err()))
				return
			}
			if !yield(fromMessage(out.GetMessage()), nil) {
				return
			}
		}
	}
}

// outcome makes of a status what it was made of.
func (a *adapter) outcome(err error) (parley.Result, error) {
	s := status.Convert(err)
	code, ok := codeOfReason(reasonOf(err))
	switch {
	case ok && code.IsAnswer():
		return parley.Result{Code: code, Detail: s.Message()}, nil
	case ok:
		return parley.Result{}, &parley.Error{Code: code, Detail: s.Message()}
	case s.Code() == codes.Canceled:
		return parley.Result{}, context.Canceled
	case s.Code() == codes.DeadlineExceeded:
		return parley.Result{}, context.DeadlineExceeded
	}
	return parley.Result{}, parley.Errorf(parley.CodeInterrupted, "%v", err)
}

// codeOfReason is the code of that reason.
func codeOfReason(name string) (parley.Code, bool) {
	for c := parley.Code(0); c < 1000; c++ {
		if reason(c) == name {
			return c, true
		}
	}
	return 0, false
}

func fromMessage(m *parleyv1.Message) parley.Message {
	return parley.Message{Cursor: fromCursor(m.GetCursor()), From: m.GetFrom(), Body: m.GetBody(), Time: m.GetTime().AsTime()}
}

// careless is the codec of a client that sends texts which are not UTF-8, as
// clients in some languages can.
type careless struct{ encoding.CodecV2 }

func carelessly() grpc.CallOption {
	return grpc.ForceCodecV2(careless{encoding.GetCodecV2("proto")})
}

func (c careless) Marshal(v any) (mem.BufferSlice, error) {
	out, err := c.CodecV2.Marshal(v)
	if err == nil {
		return out, nil
	}
	return mem.BufferSlice{mem.SliceBuffer(appendCarelessly(nil, v.(proto.Message).ProtoReflect()))}, nil
}

func appendCarelessly(b []byte, m protoreflect.Message) []byte {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch fd.Kind() {
		case protoreflect.StringKind:
			b = protowire.AppendTag(b, fd.Number(), protowire.BytesType)
			b = protowire.AppendString(b, v.String())
		case protoreflect.MessageKind:
			b = protowire.AppendTag(b, fd.Number(), protowire.BytesType)
			b = protowire.AppendBytes(b, appendCarelessly(nil, v.Message()))
		case protoreflect.Uint64Kind, protoreflect.Uint32Kind:
			b = protowire.AppendTag(b, fd.Number(), protowire.VarintType)
			b = protowire.AppendVarint(b, v.Uint())
		}
		return true
	})
	return b
}
