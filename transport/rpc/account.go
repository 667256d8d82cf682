package rpc

import (
	"context"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/parley-chat/parley"
	parleyv1 "github.com/parley-chat/parley/api/parley/v1"
)

func (c *chat) SetPassword(ctx context.Context, in *parleyv1.SetPasswordRequest) (*parleyv1.SetPasswordResponse, error) {
	cmd := parley.SetPassword{
		User: in.GetUser(), Current: parley.Secret(in.GetCurrentPassword()), New: parley.Secret(in.GetNewPassword()),
	}
	if _, err := c.g.do(ctx, cmd, nil); err != nil {
		return nil, err
	}
	return &parleyv1.SetPasswordResponse{}, nil
}

// IssueToken makes a token here, and repeats the same command until it is known.
func (c *chat) IssueToken(ctx context.Context, in *parleyv1.IssueTokenRequest) (*parleyv1.IssueTokenResponse, error) {
	text, hash := parley.NewToken(in.GetUser())
	t := parley.Token{Hash: hash, Label: in.GetLabel()}
	switch in.GetScope() {
	case parleyv1.Scope_SCOPE_UNSPECIFIED, parleyv1.Scope_SCOPE_FULL:
		t.Scope = parley.ScopeFull
	case parleyv1.Scope_SCOPE_SEND_ONLY:
		t.Scope = parley.ScopeSend
	case parleyv1.Scope_SCOPE_READ_ONLY:
		t.Scope = parley.ScopeRead
	default:
		return nil, newStatus(parley.CodeBadRequest, "there is no such scope")
	}
	if in.GetExpires() != nil {
		if t.Expires = in.GetExpires().AsTime(); in.GetExpires().CheckValid() != nil || t.Expires.Unix() <= 0 || t.Expires.Unix() >= math.MaxInt64/int64(time.Second) {
			return nil, newStatus(parley.CodeBadRequest, "expires is not a time after 1970 and before 2262")
		}
	}
	if _, err := c.g.do(ctx, parley.AddToken{User: in.GetUser(), Token: t}, nil); err != nil {
		return nil, err
	}
	return &parleyv1.IssueTokenResponse{Token: string(text), TokenId: hash.ID().String()}, nil
}

func (c *chat) ListTokens(ctx context.Context, in *parleyv1.ListTokensRequest) (*parleyv1.ListTokensResponse, error) {
	r, err := c.g.get(ctx, parley.Tokens{User: in.GetUser()})
	if err != nil {
		return nil, err
	}
	out := &parleyv1.ListTokensResponse{}
	for _, t := range r.Tokens {
		shown := &parleyv1.Token{TokenId: t.Hash.ID().String(), Label: t.Label, Scope: toScope(t.Scope)}
		if !t.Expires.IsZero() {
			shown.Expires = timestamppb.New(t.Expires)
		}
		out.Tokens = append(out.Tokens, shown)
	}
	return out, nil
}

func toScope(s parley.Scope) parleyv1.Scope {
	switch s {
	case parley.ScopeFull:
		return parleyv1.Scope_SCOPE_FULL
	case parley.ScopeSend:
		return parleyv1.Scope_SCOPE_SEND_ONLY
	case parley.ScopeRead:
		return parleyv1.Scope_SCOPE_READ_ONLY
	}
	return parleyv1.Scope_SCOPE_UNSPECIFIED
}

func (c *chat) RevokeToken(ctx context.Context, in *parleyv1.RevokeTokenRequest) (*parleyv1.RevokeTokenResponse, error) {
	cmd := parley.RevokeToken{User: in.GetUser()}
	if in.GetTokenId() != "" {
		var err error
		if cmd.ID, err = parley.ParseTokenID(in.GetTokenId()); err != nil {
			return nil, failure(ctx, err)
		}
	}
	if _, err := c.g.do(ctx, cmd, nil); err != nil {
		return nil, err
	}
	return &parleyv1.RevokeTokenResponse{}, nil
}

func (c *chat) GetPolicy(ctx context.Context, _ *parleyv1.GetPolicyRequest) (*parleyv1.GetPolicyResponse, error) {
	r, err := c.g.get(ctx, parley.GetPolicy{})
	if err != nil {
		return nil, err
	}
	return &parleyv1.GetPolicyResponse{
		PasswordRequired:   r.Policy.Auth == parley.AuthRequired,
		InvitationRequired: r.Policy.Registration == parley.RegistrationInvite,
	}, nil
}
