package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// makeInterval is how often is looked whether make was interrupted.
const makeInterval = 200 * time.Millisecond

// withMake ends the context when the make that runs this program is interrupted or gone. A terminal's Ctrl-C reaches
// the whole process group. A SIGINT to make alone does not: make takes it, tells its recipe nothing, and waits.
func withMake(ctx context.Context) context.Context {
	if os.Getenv("MAKELEVEL") == "" {
		return ctx
	}
	ctx, stop := context.WithCancel(ctx)
	parent := os.Getppid()
	before := fatalSignals(parent)
	go func() {
		defer stop()
		for ctx.Err() == nil && os.Getppid() == parent && fatalSignals(parent) == before {
			select {
			case <-ctx.Done():
			case <-time.After(makeInterval):
			}
		}
	}()
	return ctx
}

// fatalSignals is a mask of the fatal signals that a process catches, as Linux tells. GNU make catches them until one
// comes, and then no longer catches that one (fatal_error_signal in its commands.c).
func fatalSignals(pid int) uint64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // a process that is gone catches none
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "SigCgt:"); ok {
			mask, _ := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
			return mask & (1<<(syscall.SIGHUP-1) | 1<<(syscall.SIGINT-1) | 1<<(syscall.SIGQUIT-1))
		}
	}
	return 0
}
