// Package wire turns Parley's two client protocols into values and back. It
// knows bytes only: no connections, no deadlines, no goroutines.
//
// The classic protocol is what simple clients speak: frames of 15 bytes of
// command and comma-joined arguments, padded to 1,024 bytes or not, without a
// length field ([ClassicReader], [AppendClassic]). The framed protocol is what
// the client library and the members among themselves speak: it is opened by a
// classic-shaped hello ([AppendHello], [ParseHello], [ReadWelcome]) and goes on
// with length-prefixed frames ([Frame], [FrameReader], [AppendFrame]).
//
// docs/protocol.md describes every byte.
package wire
