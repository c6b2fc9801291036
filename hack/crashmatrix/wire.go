// Package crashmatrix makes a manager fail at each of its effects in turn: what leaves it is recorded and cut off where
// the bytes leave, at the dialer of its database connections and at the transport of its HTTP requests. Nothing in the
// manager knows.
package crashmatrix

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Effect is something that leaves the manager: an SQL statement, a BEGIN or COMMIT, a write to the API server, an HTTP
// call.
type Effect struct {
	// What it is, without values.
	What string
	// Nth of its kind, from 1 on: the same effect in another run.
	Nth int
}

// Recorded is an effect of a run.
type Recorded struct {
	Effect
	// Within a transaction that goes on after it: it lasts only if that commits.
	Within bool
}

// Fault is what happens at an effect.
type Fault string

// The faults.
const (
	// DiedBefore ends the manager before the effect leaves it.
	DiedBefore Fault = "died before"
	// ReplyLost lets the effect happen, and breaks the connection instead of the reply.
	ReplyLost Fault = "reply lost"
	// KilledAfter lets the effect happen, and ends the manager before it learns of it.
	KilledAfter Fault = "killed after"
	// Overtaken lets another manager go first.
	Overtaken Fault = "overtaken"
)

// Plan is one fault at one effect.
type Plan struct {
	Effect
	Fault Fault
}

// ErrCut is the error of a connection that a fault broke, and of everything that a dead manager tries.
var ErrCut = errors.New("cut off by the crash matrix")

// Wire is what one manager is connected through.
type Wire struct {
	// Plan is the fault; nil for none.
	Plan *Plan
	// Overtake lets another manager go first, for the fault Overtaken. It may return before that one is done.
	Overtake func()
	// Rewrite changes SQL on its way, to make a manager that is broken on purpose; nil changes nothing.
	Rewrite func(sql string) string

	mu      sync.Mutex
	dead    bool
	fired   bool
	seen    map[string]int
	effects []Recorded
}

// Dead says whether the manager was ended by its fault.
func (w *Wire) Dead() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dead
}

// Fired says whether the fault happened.
func (w *Wire) Fired() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fired
}

// Effects that left the manager, in their order.
func (w *Wire) Effects() []Recorded {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.effects)
}

// leave records an effect and returns the fault that hits it.
func (w *Wire) leave(what string, within bool) (Fault, error) {
	w.mu.Lock()
	if w.dead {
		w.mu.Unlock()
		return "", ErrCut
	}
	if w.seen == nil {
		w.seen = map[string]int{}
	}
	w.seen[what]++
	effect := Effect{what, w.seen[what]}
	w.effects = append(w.effects, Recorded{effect, within})
	hit := w.Plan != nil && !w.fired && w.Plan.Effect == effect
	w.fired = w.fired || hit
	if hit && w.Plan.Fault == DiedBefore {
		w.dead = true
	}
	w.mu.Unlock()
	if !hit {
		return "", nil
	}
	switch w.Plan.Fault {
	case DiedBefore:
		return "", ErrCut
	case Overtaken:
		w.Overtake()
		return "", nil
	case ReplyLost, KilledAfter:
	}
	return w.Plan.Fault, nil
}

// cut ends the manager where its fault says so. The effect has happened.
func (w *Wire) cut(fault Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead = w.dead || fault == KilledAfter
}

// Transport records requests that describe names; those for which it returns an empty string are no effects.
func (w *Wire) Transport(next http.RoundTripper, describe func(*http.Request) string) http.RoundTripper {
	return transport{w, next, describe}
}

type transport struct {
	wire     *Wire
	next     http.RoundTripper
	describe func(*http.Request) string
}

func (t transport) RoundTrip(request *http.Request) (*http.Response, error) {
	if t.wire.Dead() {
		return nil, ErrCut
	}
	what := t.describe(request)
	if what == "" {
		return t.next.RoundTrip(request)
	}
	fault, err := t.wire.leave(what, false)
	if err != nil {
		return nil, err
	}
	response, err := t.next.RoundTrip(request)
	if err != nil || fault == "" {
		return response, err
	}
	_, err = io.Copy(io.Discard, response.Body)
	t.wire.cut(fault)
	return nil, errors.Join(ErrCut, err, response.Body.Close())
}

// Dial connects to Postgres.
func (w *Wire) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if w.Dead() {
		return nil, ErrCut
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, wire: w, statements: map[string]string{}}, nil
}

// DialSSH connects to a host that commands run on. What SSH says is sealed: each packet of the manager's is an effect.
func (w *Wire) DialSSH(ctx context.Context, network, address string) (net.Conn, error) {
	if w.Dead() {
		return nil, ErrCut
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &sshConn{Conn: c, wire: w}, nil
}

type sshConn struct {
	net.Conn
	wire *Wire

	mu   sync.Mutex
	lost Fault // the reply to the last packet is lost
}

func (c *sshConn) Write(p []byte) (int, error) {
	fault, err := c.wire.leave("SSH packet", false)
	if err != nil {
		return 0, errors.Join(err, c.Close())
	}
	c.mu.Lock()
	c.lost = fault
	c.mu.Unlock()
	n, err := c.Conn.Write(p)
	if fault == KilledAfter {
		c.wire.cut(fault)
		return n, errors.Join(ErrCut, err, c.Close())
	}
	return n, err
}

// Read returns what the host says, until it answered the packet whose reply is lost.
func (c *sshConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost == "" && !c.wire.Dead() {
		return n, err
	}
	return 0, errors.Join(io.ErrUnexpectedEOF, c.Close())
}

// conn understands as much of Postgres' protocol as it takes to tell statements apart: after the startup message, each
// message is a type, a length and a body (https://www.postgresql.org/docs/current/protocol-message-formats.html).
type conn struct {
	net.Conn
	wire       *Wire
	started    bool
	pending    []byte            // what the client wrote and no message ends
	group      []byte            // messages up to the next Sync
	within     bool              // a transaction has begun and not ended
	executed   []string          // the statements that the group executes
	statements map[string]string // SQL of prepared statements, by name

	mu     sync.Mutex
	lost   Fault  // the reply under way is lost
	answer []byte // what was read of it
}

// Write forwards what the client wrote up to the last complete request: a simple Query, or messages that end with a
// Sync.
func (c *conn) Write(p []byte) (int, error) {
	c.pending = append(c.pending, p...)
	for {
		header := 1
		if !c.started {
			header = 0
		}
		if len(c.pending) < header+4 {
			return len(p), nil
		}
		size := header + int(binary.BigEndian.Uint32(c.pending[header:]))
		if len(c.pending) < size {
			return len(p), nil
		}
		message := c.pending[:size]
		c.pending = c.pending[size:]
		if err := c.forward(message); err != nil {
			return 0, err
		}
	}
}

func (c *conn) forward(message []byte) error {
	if !c.started {
		c.started = true
		_, err := c.Conn.Write(message)
		return err
	}
	kind, body := message[0], message[5:]
	switch kind {
	case 'P':
		var parse pgproto3.Parse
		if err := parse.Decode(body); err != nil {
			return err
		}
		parse.Query = c.rewrite(parse.Query)
		c.statements[parse.Name] = parse.Query
		var err error
		if message, err = parse.Encode(nil); err != nil {
			return err
		}
	case 'B':
		var bind pgproto3.Bind
		if err := bind.Decode(body); err != nil {
			return err
		}
		c.executed = append(c.executed, c.statements[bind.PreparedStatement])
	case 'Q':
		var query pgproto3.Query
		if err := query.Decode(body); err != nil {
			return err
		}
		query.String = c.rewrite(query.String)
		c.executed = append(c.executed, query.String)
		var err error
		if message, err = query.Encode(nil); err != nil {
			return err
		}
	}
	c.group = append(c.group, message...)
	if kind != 'S' && kind != 'Q' && kind != 'p' && kind != 'X' {
		return nil
	}
	group, executed := c.group, c.executed
	c.group, c.executed = nil, nil
	return c.request(group, executed)
}

func (c *conn) rewrite(sql string) string {
	if c.wire.Rewrite == nil {
		return sql
	}
	return c.wire.Rewrite(sql)
}

// request sends a complete request, unless a fault says otherwise.
func (c *conn) request(group []byte, executed []string) error {
	if c.wire.Dead() {
		return errors.Join(ErrCut, c.Close())
	}
	what := name(executed)
	if what != "" {
		begun := c.within
		for _, sql := range executed {
			c.within = strings.HasPrefix(sql, "begin") || c.within && sql != "commit" && sql != "rollback"
		}
		fault, err := c.wire.leave(what, begun && c.within)
		if err != nil {
			return errors.Join(err, c.Close())
		}
		c.mu.Lock()
		c.lost = fault
		c.mu.Unlock()
	}
	_, err := c.Conn.Write(group)
	return err
}

// name is the statements' text, short enough to print. Preparing a statement is no effect, nor is a sign of life, or a
// look at a session that is new. Settings travel with what they are for, and are left out.
func name(executed []string) string {
	executed = slices.DeleteFunc(slices.Clone(executed), func(sql string) bool {
		return strings.HasPrefix(sql, "select set_config(")
	})
	what := strings.Join(strings.Fields(strings.Join(executed, "; ")), " ")
	if what == "" || strings.HasPrefix(what, "--") || strings.Contains(what, "; select pg_backend_pid()") ||
		strings.HasPrefix(what, "rollback; set ") {
		return ""
	}
	what = strings.Replace(what, "begin isolation level read committed", "begin", 1)
	return "SQL " + what[:min(len(what), 160)]
}

// Read returns replies. One that is lost is read to its end, so that what was asked for has happened, and then the
// connection breaks.
func (c *conn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		c.mu.Lock()
		lost := c.lost
		c.mu.Unlock()
		if lost == "" {
			return n, err
		}
		c.answer = append(c.answer, p[:n]...)
		if err == nil && !complete(c.answer) {
			continue
		}
		c.wire.cut(lost)
		return 0, errors.Join(io.ErrUnexpectedEOF, c.Close())
	}
}

// complete says whether a reply ends with ReadyForQuery.
func complete(answer []byte) bool {
	for len(answer) >= 5 {
		kind, size := answer[0], 1+int(binary.BigEndian.Uint32(answer[1:]))
		if len(answer) < size {
			return false
		}
		if kind == 'Z' {
			return true
		}
		answer = answer[size:]
	}
	return false
}
