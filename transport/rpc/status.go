package rpc

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/parley-chat/parley"
)

// domain is that of the reasons in the details of a status.
const domain = "parley"

// retryAfter is the pause that clients are asked to make before they try again.
const retryAfter = 50 * time.Millisecond

// maxDetail is the most bytes of a status message: it travels as a header.
const maxDetail = 1 << 10

// reason is the stable name of a code, such as NO_SUCH_USER.
func reason(c parley.Code) string {
	return strings.ToUpper(strings.ReplaceAll(c.String(), " ", "_"))
}

// reasonOf is the reason that a status bears, "" if none.
func reasonOf(err error) string {
	if err == nil {
		return ""
	}
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == domain {
			return info.GetReason()
		}
	}
	return ""
}

// grpcCode is the status under which a code travels.
func grpcCode(c parley.Code) codes.Code {
	switch c {
	case parley.CodeNoSuchUser, parley.CodeNoSuchToken:
		return codes.NotFound
	case parley.CodeUnauthenticated:
		return codes.Unauthenticated
	case parley.CodePermissionDenied, parley.CodeInviteNeeded:
		return codes.PermissionDenied
	case parley.CodePasswordNeeded:
		return codes.FailedPrecondition
	case parley.CodeNameTaken:
		return codes.AlreadyExists
	case parley.CodeBadName, parley.CodeBadPattern, parley.CodeBadText, parley.CodeBodyTooLarge, parley.CodeBadRequest, parley.CodeBadPassword:
		return codes.InvalidArgument
	case parley.CodeMailboxFull, parley.CodeTooManyUsers, parley.CodeTooManySessions,
		parley.CodeTooManyTokens, parley.CodeTooManyInvites:
		return codes.ResourceExhausted
	case parley.CodeSessionExpired, parley.CodeForgotten:
		return codes.FailedPrecondition
	case parley.CodeOutOfOrder:
		return codes.Aborted
	case parley.CodeUnsupported:
		return codes.Unimplemented
	}
	if c.Retryable() {
		return codes.Unavailable
	}
	return codes.Unknown
}

// refusal is a result other than CodeOK as a status.
func refusal(r parley.Result) error { return newStatus(r.Code, r.Detail) }

// failure is a non-answer to a call as a status.
func failure(ctx context.Context, err error) error {
	code := parley.CodeOf(err)
	if !code.Retryable() {
		return newStatus(code, detail(err))
	}
	switch cause := context.Cause(ctx); {
	case cause == nil:
		return newStatus(code, detail(err))
	case errors.Is(cause, errPatience):
		return newStatus(parley.CodeNoQuorum, "no answer in time; last: "+err.Error())
	case errors.Is(cause, errDraining):
		return newStatus(parley.CodeShuttingDown, cause.Error())
	default:
		return status.FromContextError(ctx.Err()).Err()
	}
}

// detail is what an error says besides its code.
func detail(err error) string {
	var e *parley.Error
	if errors.As(err, &e) {
		return e.Detail
	}
	return err.Error()
}

// newStatus makes a status with its reason.
func newStatus(c parley.Code, text string) error {
	if text == "" {
		text = c.String()
	}
	s := status.New(grpcCode(c), clip(text, maxDetail))
	info := &errdetails.ErrorInfo{Reason: reason(c), Domain: domain}
	details := []protoadapt.MessageV1{info}
	if c.Retryable() {
		applied := "unknown"
		if c.NotApplied() {
			applied = "no"
		}
		info.Metadata = map[string]string{"applied": applied}
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)})
	}
	if full, err := s.WithDetails(details...); err == nil {
		s = full
	}
	return s.Err()
}

// clip makes text valid UTF-8 of at most n bytes.
func clip(text string, n int) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= n {
		return text
	}
	for !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}
