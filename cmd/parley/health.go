package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newHealthCmd(a *app) *cobra.Command {
	var addr string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Say whether the node on this machine is ready, for container health checks",
		Long: `Health asks a node's ops listener whether the node is ready: it knows a leader,
and what it shows is current. Exit status 0 means ready, 3 not ready or not there.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			body, err := askReady(ctx, addr)
			if err != nil {
				fmt.Fprintf(a.stderr, "parley: %v\n", err)
				return &quietError{exitNoAnswer}
			}
			_, err = fmt.Fprintln(a.stdout, body)
			return err
		},
	}
	cmd.Flags().StringVar(&addr, "ops-listen", "127.0.0.1:8080", "the node's ops `address`, as given to 'parley serve'")
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Second, "give up after this `time`")
	return cmd
}

// askReady fetches /readyz from an ops address, which may be one to listen on
// (":8080").
func askReady(ctx context.Context, addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", usagef("--ops-listen: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return "", err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return "", err
	}
	text := visible(strings.TrimSpace(string(body)))
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("not ready: %s", text)
	}
	return text, nil
}
