package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// sizeValue is a flag for a number of bytes: "64KiB", "256MiB", "1GiB" or plain "65536".
type sizeValue int64

var _ pflag.Value = (*sizeValue)(nil)

// sizeUnits are the units from the largest to the smallest.
func sizeUnits() []struct {
	name  string
	bytes int64
} {
	return []struct {
		name  string
		bytes int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}
}

func (v *sizeValue) String() string {
	for _, u := range sizeUnits() {
		if *v != 0 && int64(*v)%u.bytes == 0 {
			return strconv.FormatInt(int64(*v)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(*v), 10)
}

func (v *sizeValue) Set(text string) error {
	digits, unit := text, int64(1)
	for _, u := range sizeUnits() {
		if d, ok := strings.CutSuffix(text, u.name); ok {
			digits, unit = strings.TrimSpace(d), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return fmt.Errorf("%q is not a size such as 65536, 64KiB or 256MiB", text)
	}
	*v = sizeValue(n * unit)
	return nil
}

func (v *sizeValue) Type() string { return "size" }

// sizeVar defines a flag for a number of bytes.
func sizeVar(flags *pflag.FlagSet, p *int64, name string, value int64, usage string) {
	*p = value
	flags.Var((*sizeValue)(p), name, usage)
}
