package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
)

// find returns the path of a program: the newest that matches the globs, else that in PATH, else after installing the
// Debian package that has it.
func find(ctx context.Context, program, debianPackage string, globs ...string) (string, error) {
	if path := installed(program, globs); path != "" {
		return path, nil
	}
	if err := install(ctx, debianPackage); err != nil {
		return "", fmt.Errorf("%s is not installed: install the package %s: %w", program, debianPackage, err)
	}
	if path := installed(program, globs); path != "" {
		return path, nil
	}
	return "", fmt.Errorf("the package %s is installed and has no %s", debianPackage, program)
}

func installed(program string, globs []string) string {
	for _, glob := range globs {
		paths, _ := filepath.Glob(glob) // an error is a bad pattern, and ours are constants
		if len(paths) > 0 {
			return slices.Max(paths)
		}
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return ""
	}
	return path
}

func install(ctx context.Context, debianPackage string) error {
	if os.Geteuid() != 0 {
		return errors.New("that needs root")
	}
	// Packages of tests run side by side, and apt refuses a second one.
	unlock, err := Lock(filepath.Join(os.TempDir(), "playbook-operator-apt.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	for _, args := range [][]string{{"update"}, {"install", "-y", "--no-install-recommends", debianPackage}} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		// RUNLEVEL keeps the package from starting its own service: each World has one in a folder of its own.
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", args[0], err, tail(string(out)))
		}
	}
	return nil
}

// Lock takes a lock that holds between processes, and returns the function that releases it.
func Lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		file.Close()
		return nil, fmt.Errorf("taking the lock %s: %w", path, err)
	}
	return func() { file.Close() }, nil
}
