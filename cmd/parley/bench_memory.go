package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/parley-chat/parley/internal/bench"
)

// residentMetric is how /metrics names the memory that a process occupies.
const residentMetric = "process_resident_memory_bytes"

// nodesMemory asks the ops addresses of nodes for their memory.
func nodesMemory(ctx context.Context, addrs []string) ([]bench.Memory, error) {
	var all []bench.Memory
	for _, addr := range addrs {
		n, err := residentMemory(ctx, addr)
		if err != nil {
			return nil, fmt.Errorf("memory of %s: %w", addr, err)
		}
		all = append(all, bench.Memory{Node: addr, Bytes: n})
	}
	return all, nil
}

func residentMemory(ctx context.Context, addr string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("/metrics: %s", res.Status)
	}
	for lines := bufio.NewScanner(io.LimitReader(res.Body, 16<<20)); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), residentMetric+" "); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return int64(n), err
		}
	}
	return 0, fmt.Errorf("/metrics does not tell %s", residentMetric)
}
