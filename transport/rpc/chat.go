package rpc

import (
	"context"
	"math"

	"google.golang.org/grpc"

	"github.com/parley-chat/parley"
	parleyv1 "github.com/parley-chat/parley/api/parley/v1"
	"github.com/parley-chat/parley/internal/pause"
)

// chat is parley.v1.
type chat struct {
	parleyv1.UnimplementedChatServiceServer
	g *Gateway
}

var _ parleyv1.ChatServiceServer = (*chat)(nil)

func (c *chat) CreateUser(ctx context.Context, in *parleyv1.CreateUserRequest) (*parleyv1.CreateUserResponse, error) {
	cmd := parley.CreateUser{
		Name: in.GetName(), Password: parley.Secret(in.GetPassword()), Invite: parley.Secret(in.GetInvitationCode()),
	}
	r, err := c.g.do(ctx, cmd, in.GetOnce())
	if err != nil {
		return nil, err
	}
	return &parleyv1.CreateUserResponse{Incarnation: uint64(r.Incarnation)}, nil
}

func (c *chat) DeleteUser(ctx context.Context, in *parleyv1.DeleteUserRequest) (*parleyv1.DeleteUserResponse, error) {
	if _, err := c.g.do(ctx, parley.DeleteUser{Name: in.GetName()}, in.GetOnce()); err != nil {
		return nil, err
	}
	return &parleyv1.DeleteUserResponse{}, nil
}

func (c *chat) ListUsers(ctx context.Context, in *parleyv1.ListUsersRequest) (*parleyv1.ListUsersResponse, error) {
	after, err := parseToken(in.GetPageToken())
	if err != nil {
		return nil, newStatus(parley.CodeBadRequest, err.Error())
	}
	r, err := c.g.get(ctx, parley.Users{Pattern: in.GetPattern(), After: after, Limit: limit(in.GetPageSize())})
	if err != nil {
		return nil, err
	}
	out := &parleyv1.ListUsersResponse{Names: r.Names}
	if r.More && len(r.Names) > 0 {
		out.NextPageToken = pageToken(r.Names[len(r.Names)-1])
	}
	return out, nil
}

func (c *chat) Send(ctx context.Context, in *parleyv1.SendRequest) (*parleyv1.SendResponse, error) {
	r, err := c.g.do(ctx, parley.Send{From: in.GetFrom(), To: in.GetTo(), Body: in.GetBody()}, in.GetOnce())
	if err != nil {
		return nil, err
	}
	return &parleyv1.SendResponse{MessageId: uint64(r.Message)}, nil
}

func (c *chat) Inbox(ctx context.Context, in *parleyv1.InboxRequest) (*parleyv1.InboxResponse, error) {
	q := parley.Inbox{User: in.GetUser(), After: fromCursor(in.GetAfter()), Limit: limit(in.GetPageSize())}
	if in.GetCountsOnly() {
		q.Limit = -1
	}
	r, err := c.g.get(ctx, q)
	if err != nil {
		return nil, err
	}
	out := &parleyv1.InboxResponse{More: r.More, Cursor: toCursor(r.Cursor), Unread: r.Unread}
	for _, m := range r.Messages {
		out.Messages = append(out.Messages, toMessage(m))
	}
	return out, nil
}

func (c *chat) Ack(ctx context.Context, in *parleyv1.AckRequest) (*parleyv1.AckResponse, error) {
	cmd := parley.Ack{User: in.GetUser(), UpTo: fromCursor(in.GetUpTo())}
	var err error
	if in.GetOnce() == nil { // it says the same thing each time, and needs no session
		_, err = c.g.bare(ctx, cmd)
	} else {
		_, err = c.g.do(ctx, cmd, in.GetOnce())
	}
	if err != nil {
		return nil, err
	}
	return &parleyv1.AckResponse{}, nil
}

func (c *chat) OpenSession(ctx context.Context, _ *parleyv1.OpenSessionRequest) (*parleyv1.OpenSessionResponse, error) {
	r, err := c.g.bare(ctx, parley.OpenSession{})
	if err != nil {
		return nil, err
	}
	return &parleyv1.OpenSessionResponse{SessionId: uint64(r.Session)}, nil
}

func (c *chat) CloseSession(ctx context.Context, in *parleyv1.CloseSessionRequest) (*parleyv1.CloseSessionResponse, error) {
	if _, err := c.g.bare(ctx, parley.CloseSession{Session: parley.SessionID(in.GetSessionId())}); err != nil {
		return nil, err
	}
	return &parleyv1.CloseSessionResponse{}, nil
}

func (c *chat) ClusterStatus(ctx context.Context, _ *parleyv1.ClusterStatusRequest) (*parleyv1.ClusterStatusResponse, error) {
	r, err := c.g.get(ctx, parley.Status{})
	if err != nil {
		return nil, err
	}
	out := &parleyv1.ClusterStatusResponse{Node: c.g.cfg.NodeID}
	for _, m := range r.Members {
		out.Members = append(out.Members, toMember(m))
	}
	return out, nil
}

// Watch sends messages until the client or the drain ends it, or the user is
// gone. It goes on where it was when leadership moves.
func (c *chat) Watch(in *parleyv1.WatchRequest, out grpc.ServerStreamingServer[parleyv1.WatchResponse]) error {
	ctx := out.Context()
	if err := out.SendHeader(nil); err != nil {
		return err
	}
	after := fromCursor(in.GetAfter())
	for n := 0; ; n++ {
		before := after
		err := c.watch(ctx, in.GetUser(), &after, out)
		code := parley.CodeOf(err)
		if after != before {
			n = 0
		}
		switch {
		case ctx.Err() != nil: // sending fails then too, and looks otherwise
			return failure(ctx, ctx.Err())
		case !code.Retryable(), code == parley.CodeShuttingDown, !pause.For(ctx, pause.Backoff(n, firstPause, lastPause)):
			return failure(ctx, err)
		}
		c.g.log.Debug("watch interrupted", "user", in.GetUser(), "after", after.ID, "error", err)
	}
}

// watch sends messages until the service's watch ends or sending fails. after
// becomes the position of the last message sent.
func (c *chat) watch(ctx context.Context, user string, after *parley.Cursor, out grpc.ServerStreamingServer[parleyv1.WatchResponse]) error {
	if err := c.g.turn(ctx); err != nil {
		return err
	}
	for m, err := range callOf(ctx).caller.svc.Watch(ctx, user, *after) {
		if err != nil {
			return err
		}
		if err := out.Send(&parleyv1.WatchResponse{Message: toMessage(m)}); err != nil {
			return parley.Errorf(parley.CodeBadRequest, "message %d cannot be sent: %v", m.ID, err)
		}
		*after = m.Cursor
	}
	return parley.Errorf(parley.CodeInterrupted, "the watch ended without a reason")
}

// limit makes a page size of one that may be too large for an int.
func limit(size uint32) int { return int(min(size, math.MaxInt32)) }
