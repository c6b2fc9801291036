package servers

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// SSHD is an OpenSSH server on loopback, in a folder of its own. It lets in the user that runs it, with one key.
type SSHD struct {
	dir, sshd string
	port      int
	user      string
	key       []byte
	host      ssh.PublicKey
	process   *Process
}

// StartSSHD starts a server in dir.
func StartSSHD(ctx context.Context, dir string) (*SSHD, error) {
	// It starts itself anew for each connection, and so must be called by its whole path.
	sshd, err := find(ctx, "sshd", "openssh-server", "/usr/sbin/sshd")
	if err != nil {
		return nil, err
	}
	me, err := user.Current()
	if err != nil {
		return nil, fmt.Errorf("finding out who we are: %w", err)
	}
	s := &SSHD{dir: dir, sshd: sshd, user: me.Username}
	if s.port, err = FreePort(); err != nil {
		return nil, err
	}
	if err := s.initialise(); err != nil {
		return nil, fmt.Errorf("preparing sshd in %s: %w", dir, err)
	}
	return s, s.Start(ctx)
}

func (s *SSHD) initialise() error {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		// Where a server that was started as root locks up its unprivileged half; its package leaves making it to the
		// service.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return err
		}
	}
	private, public, err := newSSHKey()
	if err != nil {
		return err
	}
	s.key = private
	config := fmt.Sprintf(`Port %d
ListenAddress 127.0.0.1
HostKey %[2]s/host_key
AuthorizedKeysFile %[2]s/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
PrintMotd no
MaxStartups 100
`, s.port, s.dir)
	return errors.Join(
		os.WriteFile(filepath.Join(s.dir, "authorized_keys"), ssh.MarshalAuthorizedKey(public), 0o644),
		os.WriteFile(filepath.Join(s.dir, "sshd_config"), []byte(config), 0o644),
		s.ChangeHostKey(),
	)
}

func newSSHKey() (private []byte, public ssh.PublicKey, err error) {
	publicKey, privateKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generating a key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(crypto.PrivateKey(privateKey), "")
	if err != nil {
		return nil, nil, fmt.Errorf("encoding a private key: %w", err)
	}
	if public, err = ssh.NewPublicKey(publicKey); err != nil {
		return nil, nil, fmt.Errorf("encoding a public key: %w", err)
	}
	return pem.EncodeToMemory(block), public, nil
}

// ChangeHostKey gives the server another key, which it shows from its next start on.
func (s *SSHD) ChangeHostKey() error {
	private, public, err := newSSHKey()
	if err != nil {
		return err
	}
	s.host = public
	return os.WriteFile(filepath.Join(s.dir, "host_key"), private, 0o600)
}

// Start starts a stopped server, on the port that it had.
func (s *SSHD) Start(ctx context.Context) error {
	process, err := start("sshd", exec.Command(s.sshd, "-D", "-e", "-f", filepath.Join(s.dir, "sshd_config")),
		filepath.Join(s.dir, "log"), syscall.SIGTERM)
	if err != nil {
		return err
	}
	s.process = process
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := process.AwaitReady(ctx, func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(s.Host(), strconv.Itoa(s.port)))
		if err != nil {
			return err
		}
		return conn.Close()
	}); err != nil {
		return errors.Join(err, process.Stop(context.WithoutCancel(ctx)))
	}
	return nil
}

// Stop ends the server; connections that are open stay.
func (s *SSHD) Stop(ctx context.Context) error { return s.process.Stop(ctx) }

// Log is what the server has logged.
func (s *SSHD) Log() string { return s.process.Log() }

// Host that it listens on.
func (s *SSHD) Host() string { return "127.0.0.1" }

// Port that it listens on.
func (s *SSHD) Port() int { return s.port }

// User who may log in.
func (s *SSHD) User() string { return s.user }

// PrivateKey lets User in.
func (s *SSHD) PrivateKey() []byte { return s.key }

// KnownHosts pins the key that the server shows now.
func (s *SSHD) KnownHosts() []byte {
	return []byte(knownhosts.Line([]string{net.JoinHostPort(s.Host(), strconv.Itoa(s.port))}, s.host) + "\n")
}
