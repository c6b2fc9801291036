// Package servers starts real servers as child processes that never outlive their parent.
package servers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is a child process. It is killed by the kernel when this process ends, however that happens.
type Process struct {
	name    string
	log     string
	cmd     *exec.Cmd
	stop    syscall.Signal
	done    chan struct{}
	waitErr error
}

// StartProcess starts cmd, with its output appended to the file log. Stop interrupts it.
func StartProcess(name string, cmd *exec.Cmd, log string) (*Process, error) {
	return start(name, cmd, log, syscall.SIGTERM)
}

func start(name string, cmd *exec.Cmd, log string, stop syscall.Signal) (*Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the log of %s: %w", name, err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	// A group of its own, so that a terminal's Ctrl-C reaches only us and we stop things in order.
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if stop == syscall.SIGINT {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT // Postgres: end at once, and its children too
	}
	p := &Process{name: name, log: log, cmd: cmd, stop: stop, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The parent-death signal is sent when the thread that forked ends, so that thread must live as long as the child.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.waitErr = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	return p, nil
}

// Pid of the process.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends the process a signal.
func (p *Process) Signal(signal syscall.Signal) error { return p.cmd.Process.Signal(signal) }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// LogPath is the file that has what the process has printed.
func (p *Process) LogPath() string { return p.log }

// Log is what the process has printed.
func (p *Process) Log() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Stop asks the process to end, and kills it where it has not within 10 s or when ctx is done.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.Signal(p.stop); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping %s: %w", p.name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	select {
	case <-p.done:
	case <-ctx.Done():
		if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("killing %s: %w", p.name, err)
		}
		<-p.done
	}
	return nil
}

// AwaitReady calls probe until it succeeds. It fails when the process ends, or ctx is done, with the end of the log.
func (p *Process) AwaitReady(ctx context.Context, probe func(context.Context) error) error {
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended early: %v\n%s", p.name, p.waitErr, tail(p.Log()))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w (%w)\n%s", p.name, err, ctx.Err(), tail(p.Log()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func tail(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// FreePort is a loopback port that nothing listened on a moment ago. It is below those that systems give to outgoing
// connections, or one of these might take it before the server that it is for.
func FreePort() (int, error) {
	for {
		port := 10000 + rand.IntN(20000)
		listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("looking for a free port: %w", err)
		}
		return port, listener.Close()
	}
}
