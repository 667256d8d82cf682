// The program in this directory uses a Parley cluster through gRPC: it creates a
// user, sends it a message exactly once, watches its mailbox and acknowledges what
// comes. Then it does the like through the exercise's service.
//
//	go run ./examples/go -server 127.0.0.1:3000
//
// Programs in Go are better served by package client, which finds the leader,
// pipelines and resumes by itself; this shows what it takes in any language.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/parley-chat/parley/api/helloworld"
	parleyv1 "github.com/parley-chat/parley/api/parley/v1"
)

func main() {
	log.SetFlags(0)
	server := flag.String("server", "127.0.0.1:3000", "a node's `address`")
	user := flag.String("user", fmt.Sprintf("example-%d", os.Getpid()), "`name` of the user to create")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *server, *user); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, server, user string) error {
	conn, err := grpc.NewClient(server, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := typed(ctx, parleyv1.NewChatServiceClient(conn), user); err != nil {
		return fmt.Errorf("parley.v1: %s: %w", reason(err), err)
	}
	if err := legacy(ctx, helloworld.NewChatClient(conn), user+"-2"); err != nil {
		return fmt.Errorf("helloworld: %w", err)
	}
	return nil
}

// typed uses parley.v1.
func typed(ctx context.Context, chat parleyv1.ChatServiceClient, user string) error {
	session, err := chat.OpenSession(ctx, &parleyv1.OpenSessionRequest{})
	if err != nil {
		return err
	}
	create := &parleyv1.CreateUserRequest{Name: user, Once: once(session, 1)}
	if err := insist(ctx, func(ctx context.Context) error { _, err := chat.CreateUser(ctx, create); return err }); err != nil {
		return err
	}
	send := &parleyv1.SendRequest{From: "example", To: user, Body: "hello", Once: once(session, 2)}
	if err := insist(ctx, func(ctx context.Context) error { _, err := chat.Send(ctx, send); return err }); err != nil {
		return err
	}
	if err := readOne(ctx, chat, user); err != nil {
		return err
	}
	remove := &parleyv1.DeleteUserRequest{Name: user, Once: once(session, 3)}
	if err := insist(ctx, func(ctx context.Context) error { _, err := chat.DeleteUser(ctx, remove); return err }); err != nil {
		return err
	}
	_, err = chat.CloseSession(ctx, &parleyv1.CloseSessionRequest{SessionId: session.GetSessionId()})
	return err
}

// once numbers a command. All numbers before it have been answered.
func once(session *parleyv1.OpenSessionResponse, sequence uint64) *parleyv1.Once {
	return &parleyv1.Once{SessionId: session.GetSessionId(), Sequence: sequence, Answered: sequence - 1}
}

// insist calls until there is an answer: the numbered command in the call takes
// effect once all the same.
func insist(ctx context.Context, call func(context.Context) error) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := call(attempt)
		cancel()
		switch status.Code(err) {
		case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted:
		default:
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// readOne shows the next message and acknowledges it.
func readOne(ctx context.Context, chat parleyv1.ChatServiceClient, user string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the watch
	messages, err := chat.Watch(ctx, &parleyv1.WatchRequest{User: user})
	if err != nil {
		return err
	}
	next, err := messages.Recv()
	if err != nil {
		return err
	}
	m := next.GetMessage()
	fmt.Printf("%d from %s: %s\n", m.GetCursor().GetMessageId(), m.GetFrom(), m.GetBody())
	_, err = chat.Ack(ctx, &parleyv1.AckRequest{User: user, UpTo: m.GetCursor()})
	return err
}

// reason is the stable name of what went wrong, such as NO_SUCH_USER.
func reason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return status.Code(err).String()
}

// legacy uses the exercise's service.
func legacy(ctx context.Context, chat helloworld.ChatClient, user string) error {
	for _, line := range []string{"create " + user, "connect " + user, "send " + user + " hello there", "list ^" + user} {
		out, err := chat.TryCommand(ctx, &helloworld.Command{Command: line})
		if err != nil {
			return err
		}
		fmt.Printf("%s → %s\n", line, out.GetMessage())
	}
	out, err := chat.Listen(ctx, &helloworld.User{Name: user})
	if err != nil {
		return err
	}
	fmt.Print(out.GetMessage())
	_, err = chat.TryCommand(ctx, &helloworld.Command{Command: "delete " + user})
	return err
}
