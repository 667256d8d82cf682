package fsm

import (
	"encoding/binary"

	"github.com/parley-chat/parley"
)

// head is what is known of a message besides its text.
type head struct {
	box  parley.Incarnation // of the user whose message it is
	id   uint64             // in that mailbox
	time int64              // ns since 1970
	end  uint64             // bytes of all messages of the mailbox up to and including this one
	from uint8              // bytes of the text that are the sender's name
}

// maxHead is the length of the longest head.
const maxHead = 3*binary.MaxVarintLen64 + 8 + 1

func (h *head) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(h.box))
	dst = binary.AppendUvarint(dst, h.id)
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.time))
	dst = binary.AppendUvarint(dst, h.end)
	return append(dst, h.from)
}

// message is one message.
type message struct {
	head
	text string // sender's name and body
}

func readMessage(payload []byte) (m message, ok bool) {
	h, text, ok := readHead(payload)
	return message{h, string(text)}, ok
}

// readHead reads a message without copying its text.
func readHead(payload []byte) (h head, text []byte, ok bool) {
	box, n := uvarint(payload)
	payload = payload[n:]
	id, k := uvarint(payload)
	payload = payload[k:]
	if n == 0 || k == 0 || len(payload) < 8 {
		return head{}, nil, false
	}
	h.time, payload = int64(binary.BigEndian.Uint64(payload)), payload[8:]
	end, n := uvarint(payload)
	if n == 0 || n == len(payload) {
		return head{}, nil, false
	}
	h.box, h.id, h.end = parley.Incarnation(box), id, end
	h.from, payload = payload[n], payload[n+1:]
	return h, payload, int(h.from) <= len(payload)
}
