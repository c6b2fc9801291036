package ssh_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/systems/ssh"
	"github.com/1pass-dev/playbook-operator/hack/servers"
)

func startSSHD(t *testing.T) *servers.SSHD {
	t.Helper()
	server, err := servers.StartSSHD(t.Context(), filepath.Join(t.TempDir(), "sshd"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return server
}

func target(server *servers.SSHD) ssh.Target {
	return ssh.Target{Host: server.Host(), Port: server.Port(), User: server.User(), PrivateKey: server.PrivateKey(),
		KnownHosts: server.KnownHosts()}
}

func connect(t *testing.T, target ssh.Target) *ssh.Connection {
	t.Helper()
	connection, err := ssh.Connect(t.Context(), target, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return connection
}

func TestACommandRunsAndItsEndIsTold(t *testing.T) {
	server := startSSHD(t)
	result, err := connect(t, target(server)).Run(t.Context(),
		`echo out; echo err >&2; printf '%s\n' "$((6 * 7))"; exit 3`)
	if err != nil || result.ExitStatus != 3 || !strings.Contains(result.Output, "out\n") ||
		!strings.Contains(result.Output, "err\n") || !strings.Contains(result.Output, "42\n") {
		t.Errorf("%+v, %v\n%s", result, err, server.Log())
	}
	result, err = connect(t, target(server)).Run(t.Context(),
		`yes 0123456789 | head -c 1000000; echo DATABASE_URL=postgres://owner:hunter-two@db/x`)
	if err != nil || result.ExitStatus != 0 || len(result.Output) > 70_000 ||
		!strings.Contains(result.Output, "bytes left out") || strings.Contains(result.Output, "hunter-two") {
		t.Errorf("%d bytes, exit status %d, %v", len(result.Output), result.ExitStatus, err)
	}
}

func TestAHostWhoseKeyIsNotPinnedIsSentNothing(t *testing.T) {
	server, other := startSSHD(t), startSSHD(t)
	pinned := target(server)
	foreign := strings.Fields(string(other.KnownHosts()))[1:]
	line := strings.Fields(string(server.KnownHosts()))
	for name, known := range map[string]string{
		"nothing is pinned":      "# none\n",
		"another host is pinned": string(other.KnownHosts()),
		"another key is pinned":  line[0] + " " + strings.Join(foreign, " "),
		"a key of another kind is": line[0] +
			" ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABB" +
			"BEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg=",
		"the key is marked revoked": "@revoked " + strings.Join(line, " "),
	} {
		pinned.KnownHosts = []byte(known)
		connection, err := ssh.Connect(t.Context(), pinned, nil)
		refused := (*ssh.HostKeyRefused)(nil)
		if !errors.As(err, &refused) || connection != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if refused.Line != strings.Join(line, " ") || !strings.HasPrefix(refused.Fingerprint, "SHA256:") ||
			!strings.Contains(err.Error(), refused.Fingerprint) {
			t.Errorf("%s: %+v", name, refused)
		}
		if strings.Contains(name, "is pinned") && strings.HasPrefix(name, "another key") != (len(refused.Pinned) == 1) {
			t.Errorf("%s: pinned are %q", name, refused.Pinned)
		}
	}
	// The line in the error is the line that pins the host.
	pinned.KnownHosts = server.KnownHosts()
	connect(t, pinned)
}

func TestATargetThatCantBeUsedIsTold(t *testing.T) {
	server, other := startSSHD(t), startSSHD(t)
	const planted = "planted-secret-1f0c"
	for name, c := range map[string]struct {
		change func(*ssh.Target)
		want   any
	}{
		"no key":          {func(t *ssh.Target) { t.PrivateKey = []byte(planted) }, new(*ssh.Unusable)},
		"no known hosts":  {func(t *ssh.Target) { t.KnownHosts = []byte(planted) }, new(*ssh.Unusable)},
		"swapped":         {func(t *ssh.Target) { t.KnownHosts = t.PrivateKey }, new(*ssh.Unusable)},
		"another's key":   {func(t *ssh.Target) { t.PrivateKey = other.PrivateKey() }, new(*ssh.AuthRefused)},
		"another user":    {func(t *ssh.Target) { t.User = "nobody-here" }, new(*ssh.AuthRefused)},
		"nobody listens":  {func(t *ssh.Target) { t.Port = 1 }, new(*ssh.NotSent)},
		"no such address": {func(t *ssh.Target) { t.Host = "host.invalid" }, new(*ssh.NotSent)},
	} {
		it := target(server)
		c.change(&it)
		_, err := ssh.Connect(t.Context(), it, nil)
		if err == nil || !errors.As(err, c.want) {
			t.Errorf("%s: %T: %v", name, err, err)
			continue
		}
		for _, secret := range []string{planted, strings.Split(string(server.PrivateKey()), "\n")[1]} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestASilentHostIsGivenUp(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	it := target(startSSHD(t))
	it.Port = listener.Addr().(*net.TCPAddr).Port
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	unsent := (*ssh.NotSent)(nil)
	if _, err := ssh.Connect(ctx, it, nil); !errors.As(err, &unsent) || !strings.Contains(err.Error(), "in time") {
		t.Error(err)
	}
}

func TestAConnectionThatEndsBeforeTheCommandIsLost(t *testing.T) {
	server := startSSHD(t)
	lost := (*ssh.Lost)(nil)
	result, err := connect(t, target(server)).Run(t.Context(), `echo begun; kill -9 $PPID; sleep 60`)
	if !errors.As(err, &lost) {
		t.Errorf("%+v, %v", result, err)
	}
	begun := filepath.Join(t.TempDir(), "begun")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(begun); err == nil {
				cancel()
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	if result, err := connect(t, target(server)).Run(ctx, `touch `+begun+`; sleep 60`); !errors.As(err, &lost) {
		t.Errorf("%+v, %v", result, err)
	}
	// A shell that was killed may leave behind processes that it had started.
	if result, err := connect(t, target(server)).Run(t.Context(), `kill -9 $$`); !errors.As(err, &lost) {
		t.Errorf("%+v, %v", result, err)
	}
	unsent := (*ssh.NotSent)(nil)
	closed := connect(t, target(server))
	closed.Close()
	if result, err := closed.Run(t.Context(), `echo begun`); !errors.As(err, &unsent) {
		t.Errorf("%+v, %v", result, err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if result, err := connect(t, target(server)).Run(ended, `echo begun`); !errors.As(err, &unsent) {
		t.Errorf("%+v, %v", result, err)
	}
}
