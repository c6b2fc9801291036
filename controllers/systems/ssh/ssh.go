// Package ssh runs a command, at most once, on a host whose key is pinned. It says whether the command can have begun.
package ssh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/sys/unix"
)

// connectTimeout bounds connecting, the handshake and the authentication together.
const connectTimeout = 15 * time.Second

// Target is where a command runs, and as whom.
type Target struct {
	Host string
	Port int
	User string
	// PrivateKey opens the account: PEM, without a passphrase.
	PrivateKey []byte
	// KnownHosts pins the host's keys, in the format of ~/.ssh/known_hosts. A host that is not in it is refused.
	KnownHosts []byte
}

func (t Target) address() string { return net.JoinHostPort(t.Host, strconv.Itoa(t.Port)) }

// Unusable says that a part of the Target can't be used: the private key, or the known hosts.
type Unusable struct {
	// Part is privateKey or knownHosts.
	Part, Why string
}

func (e *Unusable) Error() string { return e.Part + " " + e.Why }

// HostKeyRefused says that the host showed a key that is not pinned: the host has a new key, or another host answers in
// its place. Nothing was sent.
type HostKeyRefused struct {
	// Fingerprint of the key that the host showed, as ssh-keygen -l prints it.
	Fingerprint string
	// Line of known hosts that pins this key.
	Line string
	// Pinned are the fingerprints of the host's pinned keys. It is empty where none is pinned.
	Pinned []string
	// Revoked says that known hosts mark the key with @revoked.
	Revoked bool
}

func (e *HostKeyRefused) Error() string {
	switch {
	case e.Revoked:
		return fmt.Sprintf("the host showed the key %s, which is marked as revoked", e.Fingerprint)
	case len(e.Pinned) == 0:
		return fmt.Sprintf("the host showed the key %s, and none is pinned for it", e.Fingerprint)
	}
	return fmt.Sprintf("the host showed the key %s, and pinned is %s", e.Fingerprint, strings.Join(e.Pinned, ", "))
}

// AuthRefused says that the host did not accept the private key for the user.
type AuthRefused struct{ User string }

func (e *AuthRefused) Error() string {
	return fmt.Sprintf("the host does not accept the private key for the user %q", e.User)
}

// NotSent says that the command can't have begun, so it may be run again.
type NotSent struct{ Err error }

func (e *NotSent) Error() string { return "the command was not sent: " + e.Err.Error() }
func (e *NotSent) Unwrap() error { return e.Err }

// Lost says that the connection ended before the command did. Nobody knows whether the command still runs, or what came
// of it.
type Lost struct{ Err error }

func (e *Lost) Error() string { return "the connection ended before the command did: " + e.Err.Error() }
func (e *Lost) Unwrap() error { return e.Err }

// Dial connects to an address over TCP, as net.Dialer.DialContext does.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Connection to a host, authenticated. Nothing was run over it yet.
type Connection struct{ client *ssh.Client }

// Connect opens a connection. A nil dial uses the network. Connect runs nothing, so it may be called again after any
// error. Its errors are *Unusable, *HostKeyRefused, *AuthRefused and *NotSent.
func Connect(ctx context.Context, target Target, dial Dial) (*Connection, error) {
	key, err := signer(target)
	if err != nil {
		return nil, err
	}
	pins, err := pinned(target)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	connection, err := connect(ctx, target, key, pins, dial)
	// A host whose new key is of another kind doesn't show it to a client that asks for the old kind.
	if negotiation := (*ssh.AlgorithmNegotiationError)(nil); errors.As(err, &negotiation) && len(pins.algorithms) > 0 {
		pins.algorithms = nil
		connection, err = connect(ctx, target, key, pins, dial)
	}
	return connection, err
}

// Check returns the *Unusable that Connect would come to by the target alone. It connects to nobody.
func (t Target) Check() error {
	if _, err := signer(t); err != nil {
		return err
	}
	pins, err := pinned(t)
	if err != nil {
		return err
	}
	// The keys that an authority signs are known only once the host shows them.
	if len(pins.algorithms) == 0 && !bytes.Contains(t.KnownHosts, []byte("@cert-authority")) {
		return &Unusable{"knownHosts", "has no key of " + knownhosts.Normalize(t.address()) +
			": any that it shows is refused"}
	}
	return nil
}

func signer(target Target) (ssh.Signer, error) {
	key, err := ssh.ParsePrivateKey(target.PrivateKey)
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		return nil, &Unusable{"privateKey", "has a passphrase: put one without it there"}
	}
	if err != nil {
		// The parser's own text may repeat a piece of the key.
		return nil, &Unusable{"privateKey", "is not a private key in PEM, as ssh-keygen writes it"}
	}
	return key, nil
}

func connect(ctx context.Context, target Target, key ssh.Signer, pins *pins, dial Dial) (*Connection, error) {
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	conn, err := dial(ctx, "tcp", target.address())
	if err != nil {
		return nil, &NotSent{describe(err)}
	}
	// The handshake takes no context.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	var refused error
	config := &ssh.ClientConfig{
		User: target.User,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKeyCallback: func(_ string, remote net.Addr, key ssh.PublicKey) error {
			refused = pins.check(target.address(), remote, key)
			return refused
		},
		HostKeyAlgorithms: pins.algorithms,
	}
	transport, channels, requests, err := ssh.NewClientConn(conn, target.address(), config)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		return &Connection{ssh.NewClient(transport, channels, requests)}, nil
	}
	conn.Close()
	switch {
	case refused != nil:
		return nil, refused
	case strings.Contains(err.Error(), "unable to authenticate"): // ssh.clientAuthenticate has no type for this error
		return nil, &AuthRefused{target.User}
	case ctx.Err() != nil:
		return nil, &NotSent{errors.New("the host did not answer in time")}
	}
	return nil, &NotSent{describe(err)}
}

// describe drops from a network error what is different each time, such as the port at our end.
func describe(err error) error {
	if network := (*net.OpError)(nil); errors.As(err, &network) {
		return fmt.Errorf("%s: %w", network.Op, network.Err)
	}
	return err
}

// Close ends the connection. It implements io.Closer.
func (c *Connection) Close() error { return c.client.Close() }

// Result of a command that ended.
type Result struct {
	ExitStatus int
	// Output of both streams in the order in which it came, without what looks like a secret. Of a long output it is the
	// beginning and the end, about 64 KiB together.
	Output string
}

// Run runs a command in the user's shell, without a terminal, and waits for its end. When the context ends, the
// connection is closed; the command may go on. The error is *NotSent where the command can't have begun. It is *Lost,
// with the output so far, where nobody knows what came of the command.
func (c *Connection) Run(ctx context.Context, command string) (Result, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if ctx.Err() != nil {
		return Result{}, &NotSent{context.Cause(ctx)}
	}
	session, err := c.client.NewSession()
	if err != nil {
		return Result{}, &NotSent{describe(err)}
	}
	defer session.Close()
	var output output
	session.Stdout, session.Stderr = &output, &output
	err = session.Run(command)
	result := Result{Output: output.String()}
	exit := (*ssh.ExitError)(nil)
	switch {
	case err == nil:
		return result, nil
	case errors.As(err, &exit) && exit.Signal() == "":
		result.ExitStatus = exit.ExitStatus()
		return result, nil
	case errors.As(err, &exit):
		// The shell was killed. What it had started may still run.
		return result, &Lost{fmt.Errorf("the shell was ended by signal %s", exit.Signal())}
	case ctx.Err() != nil:
		return result, &Lost{context.Cause(ctx)}
	}
	if missing := (*ssh.ExitMissingError)(nil); errors.As(err, &missing) || errors.Is(err, io.EOF) {
		err = errors.New("it broke")
	}
	return result, &Lost{describe(err)}
}

// pins are the keys that a host may show.
type pins struct {
	known ssh.HostKeyCallback
	// algorithms of the pinned keys: a host that has several keys must show a pinned one. nil means any.
	algorithms []string
}

// pinned reads known hosts. knownhosts reads only files, and a container may have no place to write one, so the file is
// in memory.
func pinned(target Target) (*pins, error) {
	file, err := unix.MemfdCreate("known_hosts", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, &NotSent{fmt.Errorf("keeping known hosts in memory: %w", err)}
	}
	defer unix.Close(file)
	if _, err := unix.Write(file, append(bytes.Clone(target.KnownHosts), '\n')); err != nil {
		return nil, &NotSent{fmt.Errorf("keeping known hosts in memory: %w", err)}
	}
	known, err := knownhosts.New("/proc/self/fd/" + strconv.Itoa(file))
	if err != nil {
		// The error may repeat a line, and somebody may have put a private key into this field.
		return nil, &Unusable{"knownHosts", "can't be read as lines of known_hosts, such as ssh-keyscan prints them"}
	}
	p := &pins{known: known}
	// Asked about a key that nobody has, knownhosts answers with the keys that it knows.
	unknown, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, &NotSent{fmt.Errorf("making a key: %w", err)}
	}
	key, err := ssh.NewPublicKey(unknown)
	if err != nil {
		return nil, &NotSent{fmt.Errorf("making a key: %w", err)}
	}
	for _, known := range p.of(target.address(), nil, key) {
		algorithms := []string{known.Key.Type()}
		if algorithms[0] == ssh.KeyAlgoRSA {
			algorithms = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
		}
		for _, algorithm := range algorithms {
			if !slices.Contains(p.algorithms, algorithm) {
				p.algorithms = append(p.algorithms, algorithm)
			}
		}
	}
	return p, nil
}

// of returns the keys that are pinned for the host, where key is not one of them.
func (p *pins) of(address string, remote net.Addr, key ssh.PublicKey) []knownhosts.KnownKey {
	if remote == nil {
		remote = &net.TCPAddr{}
	}
	if mismatch := (*knownhosts.KeyError)(nil); errors.As(p.known(address, remote, key), &mismatch) {
		return mismatch.Want
	}
	return nil
}

// check returns HostKeyRefused for a key that is not pinned.
func (p *pins) check(address string, remote net.Addr, key ssh.PublicKey) error {
	err := p.known(address, remote, key)
	if err == nil {
		return nil
	}
	refused := &HostKeyRefused{Fingerprint: ssh.FingerprintSHA256(key), Line: knownhosts.Line([]string{address}, key)}
	revoked := (*knownhosts.RevokedError)(nil)
	refused.Revoked = errors.As(err, &revoked)
	for _, known := range p.of(address, remote, key) {
		refused.Pinned = append(refused.Pinned, ssh.FingerprintSHA256(known.Key))
	}
	return refused
}
