package rpc

import (
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// TestReflection does what grpcurl does: a client that has no stubs calls what the
// reflection service describes.
func TestReflection(t *testing.T) {
	w := newWorld(t, Config{})
	conn := w.dial()
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(r *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	var names []string
	for _, s := range ask(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}).GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	const chat = "parley.v1.ChatService"
	for _, want := range []string{chat, "helloworld.Chat", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not among %v", want, names)
		}
	}
	var set descriptorpb.FileDescriptorSet
	for _, b := range ask(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: chat},
	}).GetFileDescriptorResponse().GetFileDescriptorProto() {
		file := new(descriptorpb.FileDescriptorProto)
		if err := proto.Unmarshal(b, file); err != nil {
			t.Fatal(err)
		}
		set.File = append(set.File, file)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("the reflection ends with %v", err)
	}
	files, err := protodesc.NewFiles(&set) // fails if one is missing
	if err != nil {
		t.Fatal(err)
	}
	found, err := files.FindDescriptorByName(chat)
	if err != nil {
		t.Fatal(err)
	}
	service, ok := found.(protoreflect.ServiceDescriptor)
	if !ok {
		t.Fatalf("%s is a %T", chat, found)
	}
	// call returns the first answer as JSON.
	call := func(method protoreflect.Name, request string) string {
		m := service.Methods().ByName(method)
		in, out := dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output())
		if err := protojson.Unmarshal([]byte(request), in); err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		s, err := conn.NewStream(w.ctx, &grpc.StreamDesc{ServerStreams: m.IsStreamingServer()}, "/"+chat+"/"+string(method))
		if err == nil {
			err = s.SendMsg(in)
		}
		if err == nil {
			err = s.CloseSend()
		}
		if err == nil {
			err = s.RecvMsg(out)
		}
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		b, err := protojson.Marshal(out)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	call("CreateUser", `{"name": "ann"}`)
	call("Send", `{"to": "ann", "body": "hello"}`)
	for _, method := range []protoreflect.Name{"Inbox", "Watch"} {
		if got := call(method, `{"user": "ann"}`); !strings.Contains(got, "hello") {
			t.Errorf("%s: %s", method, got)
		}
	}
}
