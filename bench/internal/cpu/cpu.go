// Package cpu tells how much of the machine others used while something was
// measured: figures that were taken beside a busy neighbour say little.
package cpu

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is the unit of /proc; it is the same on all Linux systems.
const tick = time.Second / 100

// Meter measures from Start on.
type Meter struct {
	pids  []int
	begun reading
}

type reading struct {
	all time.Duration // that programs, or other virtual machines, used
	own time.Duration // of it, by this process and the given ones
	max time.Duration // that could have been used
}

// Used is the processor time that processes have used since they began.
func Used(pids ...int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		used, err := parseProcess(string(stat))
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

// Resident is the memory that a process occupies, in bytes.
func Resident(pid int) (int64, error) {
	file := fmt.Sprintf("/proc/%d/statm", pid)
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(text))
	if len(f) < 2 {
		return 0, fmt.Errorf("%s: %q", file, text)
	}
	pages, err := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// Start begins to measure. pids are processes of ours besides this one.
func Start(pids ...int) *Meter {
	m := &Meter{pids: pids}
	m.begun, _ = m.read()
	return m
}

// Others is the share of the machine, from 0 to 1, that others have used since the
// beginning. False: this system does not tell, or one of the processes has ended.
func (m *Meter) Others() (float64, bool) {
	now, err := m.read()
	if err != nil || m.begun.max == 0 {
		return 0, false
	}
	return others(m.begun, now)
}

func others(begun, now reading) (float64, bool) {
	span := now.max - begun.max
	if span <= 0 {
		return 0, false
	}
	used := (now.all - begun.all) - (now.own - begun.own)
	return min(1, max(0, float64(used)/float64(span))), true
}

func (m *Meter) read() (reading, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return reading{}, err
	}
	r, err := parseMachine(string(stat))
	if err != nil {
		return reading{}, err
	}
	var self syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &self); err != nil {
		return reading{}, err
	}
	r.own = time.Duration(self.Utime.Nano() + self.Stime.Nano())
	servers, err := Used(m.pids...)
	if err != nil {
		return reading{}, err
	}
	r.own += servers
	return r, nil
}

// parseMachine reads /proc/stat. The time of interrupts is left out: it is nobody's.
func parseMachine(stat string) (reading, error) {
	line, _, _ := strings.Cut(stat, "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return reading{}, fmt.Errorf("/proc/stat begins with %q", line)
	}
	n, err := numbers(f[1:9]) // user nice system idle iowait irq softirq steal
	if err != nil {
		return reading{}, err
	}
	busy := n[0] + n[1] + n[2] + n[7]
	return reading{all: time.Duration(busy) * tick, max: time.Duration(busy+n[3]+n[4]+n[5]+n[6]) * tick}, nil
}

// parseProcess reads /proc/PID/stat.
func parseProcess(stat string) (time.Duration, error) {
	f := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:]) // a name may hold anything
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/PID/stat: %q", stat)
	}
	n, err := numbers(f[11:13])
	if err != nil {
		return 0, err
	}
	return time.Duration(n[0]+n[1]) * tick, nil
}

func numbers(fields []string) ([]int64, error) {
	var ns []int64
	for _, f := range fields {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return nil, err
		}
		ns = append(ns, n)
	}
	return ns, nil
}
