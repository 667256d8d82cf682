package rpc

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that this one is built upon
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// codec is gRPC's own, except that a text which is not UTF-8 reaches the handler:
// it is refused with a reason like any other bad text, instead of failing the
// call with an internal error.
type codec struct{ encoding.CodecV2 }

func newCodec() encoding.CodecV2 { return codec{encoding.GetCodecV2("proto")} }

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	err := c.CodecV2.Unmarshal(data, v)
	m, ok := v.(proto.Message)
	if err == nil || !ok {
		return err
	}
	proto.Reset(m)
	if lax(data.Materialize(), m.ProtoReflect(), maxDepth) != nil {
		return err
	}
	return nil
}

// maxDepth is how deep messages may lie in each other.
const maxDepth = 8

// lax decodes a message without looking at whether its texts are UTF-8.
func lax(b []byte, m protoreflect.Message, depth int) error {
	if depth == 0 {
		return fmt.Errorf("messages within messages within messages")
	}
	for len(b) > 0 {
		num, typ, tag := protowire.ConsumeTag(b)
		if tag < 0 {
			return protowire.ParseError(tag)
		}
		n := protowire.ConsumeFieldValue(num, typ, b[tag:])
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := laxField(b[:tag+n], b[tag:tag+n], m, num, typ, depth); err != nil {
			return err
		}
		b = b[tag+n:]
	}
	return nil
}

// laxField decodes one field: all of it, and its value alone.
func laxField(field, value []byte, m protoreflect.Message, num protowire.Number, typ protowire.Type, depth int) error {
	fd := m.Descriptor().Fields().ByNumber(num)
	if fd != nil && typ == protowire.BytesType && fd.Cardinality() != protoreflect.Repeated {
		inner, _ := protowire.ConsumeBytes(value)
		switch fd.Kind() {
		case protoreflect.StringKind:
			m.Set(fd, protoreflect.ValueOfString(string(inner)))
			return nil
		case protoreflect.MessageKind:
			return lax(inner, m.Mutable(fd).Message(), depth-1)
		}
	}
	return proto.UnmarshalOptions{Merge: true}.Unmarshal(field, m.Interface())
}
