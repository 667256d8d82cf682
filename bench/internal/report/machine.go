package report

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Machine describes where something was measured, without saying which machine.
type Machine struct {
	CPU        string
	Cores      int
	MemoryGiB  float64
	System     string        // kernel
	FileSystem string        // of the servers' data
	Sync       time.Duration // median of appending 4 KiB to a file and waiting until it is on the disk
	Go         string
}

// ThisMachine describes this machine, and the disk that dir is on.
func ThisMachine(dir string) (Machine, error) {
	m := Machine{
		CPU: procField("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), Go: runtime.Version(),
		System:     strings.TrimSpace(runtime.GOOS + " " + kernelRelease()),
		FileSystem: fileSystem(dir),
	}
	if m.CPU == "" {
		m.CPU = runtime.GOARCH
	}
	if kb, err := strconv.ParseFloat(strings.TrimSuffix(procField("/proc/meminfo", "MemTotal"), " kB"), 64); err == nil {
		m.MemoryGiB = kb / (1 << 20)
	}
	var err error
	m.Sync, err = syncTime(dir)
	return m, err
}

// procField returns the first value of a field in a file of lines "field : value".
func procField(file, field string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for _, line := range strings.Split(string(text), "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == field {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	return ""
}

func kernelRelease() string {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// fileSystem names the type of the file system that dir is on.
func fileSystem(dir string) string {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return "unknown"
	}
	known := map[int64]string{
		0xef53: "ext4", 0x58465342: "xfs", 0x9123683e: "btrfs", 0x01021994: "tmpfs", 0x794c7630: "overlayfs", 0x2fc12fc1: "zfs",
	}
	if name, ok := known[int64(s.Type)]; ok {
		return name
	}
	return fmt.Sprintf("type %#x", s.Type)
}

// syncTime measures the disk alone.
func syncTime(dir string) (_ time.Duration, err error) {
	f, err := os.Create(filepath.Join(dir, "sync-time"))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	block := make([]byte, 4096)
	var times []time.Duration
	for range 300 {
		begun := time.Now()
		if _, err := f.Write(block); err != nil {
			return 0, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		times = append(times, time.Since(begun))
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}
