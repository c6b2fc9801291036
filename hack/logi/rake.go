package logi

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/jackc/pgx/v5"
)

// RakeFault is how the platform's rake fails.
type RakeFault struct {
	// Fail ends it with exit status 1 before it does anything.
	Fail bool
	// Hang is how long it waits before it does anything.
	Hang time.Duration
	// Drop kills the rake's SSH connection after the work. DropBefore kills it, and the work is not done.
	Drop, DropBefore bool
	// Print is printed in addition.
	Print string
}

// RakeRun is one start of the platform's rake.
type RakeRun struct {
	// Directory in which it was started, and its arguments.
	Directory string
	Arguments []string
}

// rakes is the state of the platform's rake.
type rakes struct {
	runs   []RakeRun
	fault  RakeFault
	cipher cipher.AEAD // nil: private keys are in the clear
}

// SetRakeFault makes the rake fail from now on.
func (s *Server) SetRakeFault(fault RakeFault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rakes.fault = fault
}

// RakeRuns lists how often, and how, the rake was started.
func (s *Server) RakeRuns() []RakeRun {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]RakeRun{}, s.rakes.runs...)
}

// InstallBundle writes a program into dir that plays bundler: `bundle exec rails <task> RAILS_ENV=<environment>` runs
// the rake. It needs curl, and returns its path.
func (s *Server) InstallBundle(dir string) (string, error) {
	script := fmt.Sprintf(`#!/bin/sh
for argument; do
    set -- "$@" --data-urlencode "argument=$argument"
    shift
done
curl --silent --show-error --fail-with-body --data-urlencode "directory=$PWD" --data-urlencode "pid=$$" "$@" \
    %s/_control/rake || exit 1
`, s.url)
	path := filepath.Join(dir, "bundle")
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		return "", fmt.Errorf("installing bundle: %w", err)
	}
	return path, nil
}

// serveRake runs the rake for the program of InstallBundle. That program fails if the answer's status is an error.
func (s *Server) serveRake(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	pid, _ := strconv.Atoi(r.PostForm.Get("pid"))
	printed, ok := s.Rake(r.Context(), r.PostForm.Get("directory"), r.PostForm["argument"], pid)
	if !ok {
		w.WriteHeader(http.StatusInternalServerError)
	}
	_, _ = io.WriteString(w, printed) // a client that has gone
}

// rakeTask is Rake::Application#parse_task_string, for tasks of two arguments.
var rakeTask = regexp.MustCompile(`^([^\[]+)\[\s*((?:[^\\,]|\\.)*?)\s*,\s*((?:[^\\,]|\\.)*?)\s*\]$`)

// Rake runs `bundle <arguments>` as if a process had started it in a directory. It returns what it prints, and whether
// it succeeds.
func (s *Server) Rake(ctx context.Context, directory string, arguments []string, pid int) (printed string, ok bool) {
	s.mu.Lock()
	s.rakes.runs = append(s.rakes.runs, RakeRun{directory, arguments})
	fault := s.rakes.fault
	s.mu.Unlock()
	printed = fault.Print
	abort := func(format string, args ...any) (string, bool) {
		return printed + "rails aborted!\n" + fmt.Sprintf(format, args...) + "\n", false
	}
	select {
	case <-time.After(fault.Hang):
	case <-s.stopping.Done():
		return abort("SignalException: SIGTERM")
	}
	if fault.DropBefore {
		killSSH(pid)
		return "", false
	}
	if fault.Fail {
		return abort("ActiveRecord::ConnectionNotEstablished: connection refused")
	}
	if len(arguments) != 4 || arguments[0] != "exec" || arguments[1] != "rails" || arguments[3] != "RAILS_ENV=production" {
		return abort("what is %q?", arguments)
	}
	task := rakeTask.FindStringSubmatch(arguments[2])
	if task == nil || task[1] != "webhooks:compromise" {
		return abort("Don't know how to build task '%s' (See the list of available tasks with `rails --tasks`)", arguments[2])
	}
	unescape := regexp.MustCompile(`\\(.)`)
	application, err := strconv.ParseInt(unescape.ReplaceAllString(task[2], "$1"), 10, 64)
	if err != nil {
		return abort("ActiveRecord::RecordNotFound: Couldn't find OauthApplication with 'id'=%s", task[2])
	}
	// The command goes on after the caller has gone.
	said, err := s.compromise(context.WithoutCancel(ctx), application, unescape.ReplaceAllString(task[3], "$1"))
	if err != nil {
		return abort("%v", err)
	}
	if fault.Drop {
		killSSH(pid)
	}
	return printed + said + "\n", true
}

// compromise does the work of the platform's rake in one transaction. It revokes the key, issues a new one, signs the
// undelivered entries anew, and enqueues the event. It does so in each call.
func (s *Server) compromise(ctx context.Context, application int64, kid string) (said string, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE webhook_signing_keys
			SET status = 'revoked', revoked_at = clock_timestamp(), updated_at = clock_timestamp()
			WHERE oauth_application_id = $1 AND kid = $2`, application, kid)
		if err != nil {
			return fmt.Errorf("revoking: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return fmt.Errorf("ActiveRecord::RecordNotFound: Couldn't find WebhookSigningKey with 'kid'=%s", kid)
		}
		if _, err := tx.Exec(ctx, `UPDATE webhook_signing_keys SET status = 'grace', updated_at = clock_timestamp()
			WHERE oauth_application_id = $1 AND status = 'active'`, application); err != nil {
			return fmt.Errorf("retiring: %w", err)
		}
		successor, err := s.issueSuccessor(ctx, tx, application)
		if err != nil {
			return err
		}
		n, err := reSign(ctx, tx, application, successor)
		if err != nil {
			return err
		}
		said = fmt.Sprintf("revoked %s, issued %s, re-signed %d entries, enqueued webhook_key.compromised", kid,
			successor.kid, n)
		return enqueueCompromised(ctx, tx, application, kid, successor)
	})
	return said, err
}

func (s *Server) issueSuccessor(ctx context.Context, tx pgx.Tx, application int64) (signer, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return signer{}, fmt.Errorf("generating a key: %w", err)
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return signer{}, fmt.Errorf("encoding a private key: %w", err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return signer{}, fmt.Errorf("encoding a public key: %w", err)
	}
	kid := fmt.Sprintf("whk_%d_r%s", application, strings.ToLower(rand.Text()[:8]))
	if _, err := tx.Exec(ctx, `INSERT INTO webhook_signing_keys
			(oauth_application_id, kid, algorithm, public_key, private_key, status, activated_at)
		VALUES ($1, $2, $3, $4, $5, 'active', clock_timestamp())`, application, kid, string(jose.EdDSA),
		string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER})),
		s.sealed(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: privateDER})))); err != nil {
		return signer{}, fmt.Errorf("inserting a signing key: %w", err)
	}
	return newSigner(kid, string(jose.EdDSA), private)
}

func reSign(ctx context.Context, tx pgx.Tx, application int64, successor signer) (int, error) {
	rows, err := tx.Query(ctx, `SELECT id, payload::text FROM webhook_outbox_entries
		WHERE oauth_application_id = $1 AND delivered_at IS NULL ORDER BY id FOR UPDATE`, application)
	if err != nil {
		return 0, fmt.Errorf("reading entries: %w", err)
	}
	var ids []int64
	var signatures []string
	var id int64
	var body string
	if _, err := pgx.ForEachRow(rows, []any{&id, &body}, func() error {
		signature, err := successor.sign([]byte(body))
		ids, signatures = append(ids, id), append(signatures, signature)
		return err
	}); err != nil {
		return 0, fmt.Errorf("signing entries: %w", err)
	}
	if _, err := tx.Exec(ctx, `UPDATE webhook_outbox_entries w
		SET kid = $1, signature = e.signature, updated_at = clock_timestamp()
		FROM unnest($2::bigint[], $3::text[]) AS e(id, signature)
		WHERE w.id = e.id`, successor.kid, ids, signatures); err != nil {
		return 0, fmt.Errorf("writing signatures: %w", err)
	}
	return len(ids), nil
}

func enqueueCompromised(ctx context.Context, tx pgx.Tx, application int64, kid string, successor signer) error {
	event, err := json.Marshal(map[string]any{"id": "evt_" +
		rand.Text(), "type": "webhook_key.compromised", "data": map[string]string{"kid": kid, "new_kid": successor.kid}})
	if err != nil {
		return fmt.Errorf("encoding the event: %w", err)
	}
	var body string
	if err := tx.QueryRow(ctx, `SELECT $1::jsonb::text`, string(event)).Scan(&body); err != nil {
		return fmt.Errorf("printing the event: %w", err)
	}
	signature, err := successor.sign([]byte(body))
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `INSERT INTO webhook_outbox_entries
			(oauth_application_id, event_type, payload, idempotency_key, kid, signature, enqueued_at)
		SELECT $1, 'webhook_key.compromised', $2::jsonb, 'compromised-' || $3::text || '-' || count(*), $4, $5,
			clock_timestamp()
		FROM webhook_outbox_entries WHERE idempotency_key LIKE 'compromised-%'`,
		application, body, kid, successor.kid, signature); err != nil {
		return fmt.Errorf("enqueueing the event: %w", err)
	}
	return nil
}

// killSSH kills the sshd over which a process was started.
func killSSH(pid int) {
	for pid > 1 {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return
		}
		// The fields are pid (name) state parent. The name may contain blanks and brackets.
		name, rest := string(stat), ""
		if end := strings.LastIndexByte(name, ')'); end > 0 {
			name, rest = name[strings.IndexByte(name, '(')+1:end], name[end+1:]
		}
		if strings.HasPrefix(name, "sshd") {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended already
			return
		}
		fields := strings.Fields(rest)
		if len(fields) < 2 {
			return
		}
		if pid, err = strconv.Atoi(fields[1]); err != nil {
			return
		}
	}
}

// EncryptKeys encrypts the platform's present and future private keys like Active Record Encryption. From now on, only
// the platform itself can read them.
func (s *Server) EncryptKeys(ctx context.Context) error {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return fmt.Errorf("making a key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return fmt.Errorf("making a cipher: %w", err)
	}
	made, err := cipher.NewGCM(block)
	if err != nil {
		return fmt.Errorf("making a cipher: %w", err)
	}
	s.mu.Lock()
	s.rakes.cipher = made
	s.mu.Unlock()
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT id, private_key FROM webhook_signing_keys`)
		if err != nil {
			return fmt.Errorf("reading keys: %w", err)
		}
		sealed := map[int64]string{}
		var id int64
		var private string
		if _, err := pgx.ForEachRow(rows, []any{&id, &private},
			func() error { sealed[id] = s.sealed(private); return nil }); err != nil {
			return fmt.Errorf("reading keys: %w", err)
		}
		for id, private := range sealed {
			if _, err := tx.Exec(ctx, `UPDATE webhook_signing_keys SET private_key = $2 WHERE id = $1`,
				id, private); err != nil {
				return fmt.Errorf("encrypting a key: %w", err)
			}
		}
		return nil
	})
}

// encrypted is a column of Active Record Encryption.
type encrypted struct {
	Payload []byte `json:"p"`
	Headers struct {
		IV  []byte `json:"iv"`
		Tag []byte `json:"at"`
	} `json:"h"`
}

// sealed is the text of a private key in the column.
func (s *Server) sealed(private string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rakes.cipher == nil {
		return private
	}
	var out encrypted
	out.Headers.IV = make([]byte, s.rakes.cipher.NonceSize())
	_, _ = rand.Read(out.Headers.IV) // never fails since Go 1.24
	sealed := s.rakes.cipher.Seal(nil, out.Headers.IV, []byte(private), nil)
	tag := len(sealed) - s.rakes.cipher.Overhead()
	out.Payload, out.Headers.Tag = sealed[:tag], sealed[tag:]
	text, err := json.Marshal(out)
	if err != nil {
		panic(err) // byte slices always marshal
	}
	return string(text)
}

// opened is the private key from the text of a column.
func (s *Server) opened(column string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var in encrypted
	if s.rakes.cipher == nil || json.Unmarshal([]byte(column), &in) != nil {
		return column
	}
	private, err := s.rakes.cipher.Open(nil, in.Headers.IV, append(in.Payload, in.Headers.Tag...), nil)
	if err != nil {
		return column
	}
	return string(private)
}
