package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

const (
	// filler is the kid that the outbox of the benchmark is signed by.
	filler = "whk_filler_1"

	// bareUpdateSQL writes to the same rows as a revocation, with signatures of the same length. It reads and signs
	// nothing.
	bareUpdateSQL = `UPDATE webhook_outbox_entries
		SET kid = 'whk_1_abcdefghij', signature = repeat('s', $2), updated_at = clock_timestamp()
		WHERE oauth_application_id = $1 AND dlq_at IS NOT NULL AND delivered_at IS NULL`
	signatureLength = 150
)

// BenchmarkRevoke compares a revocation that signs 100,000 undelivered entries anew with the larger of its two parts:
// one bare UPDATE of the same rows with signatures of the same length, and the signing alone on all cores.
func BenchmarkRevoke(b *testing.B) {
	for _, algorithm := range []string{"EdDSA", "ES256"} {
		var ofLimit, took []float64
		for round := range rounds {
			seconds := map[string]float64{}
			sides := []string{"revoke", "update"}
			for i := range sides {
				side := sides[(round+i)%len(sides)]
				d := copyOutbox(b)
				sign := d.giveKey(b, algorithm)
				d.checkpoint(b)
				// Both begin with the rows in memory.
				rows, err := d.owner.Query(b.Context(), `SELECT payload::text FROM webhook_outbox_entries
					WHERE oauth_application_id = $1 AND dlq_at IS NOT NULL AND delivered_at IS NULL`, application)
				check(b, err)
				bodies, err := pgx.CollectRows(rows, pgx.RowTo[string])
				check(b, err)
				if side == "revoke" {
					began := time.Now()
					r := d.revoke(b, 1_000_000)
					seconds["revoke"] = time.Since(began).Seconds()
					if r.Resigned != dead {
						b.Fatalf("%d entries were signed anew", r.Resigned)
					}
				} else {
					began := time.Now()
					d.exec(b, bareUpdateSQL, application, signatureLength)
					seconds["update"] = time.Since(began).Seconds()
					began = time.Now()
					for _, body := range bodies {
						sign([]byte(body))
					}
					seconds["sign"] = time.Since(began).Seconds() / float64(runtime.GOMAXPROCS(0))
				}
				d.drop(b)
			}
			ofLimit = append(ofLimit, seconds["revoke"]/max(seconds["update"], seconds["sign"]))
			took = append(took, seconds["revoke"]*1000)
			b.Logf("%s, round %d: revocation %.2f s, UPDATE %.2f s, signing on all cores %.2f s", algorithm, round,
				seconds["revoke"], seconds["update"], seconds["sign"])
		}
		b.ReportMetric(median(ofLimit), "of-limit-"+algorithm)
		b.ReportMetric(median(took), "ms-"+algorithm)
	}
	b.ReportMetric(0, "ns/op")
}

// BenchmarkRevokeLarge measures a revocation with more undelivered entries than it signs anew. All rounds use the same
// outbox.
func BenchmarkRevokeLarge(b *testing.B) {
	d := newDatabase(b, "undelivered")
	defer d.drop(b)
	d.seed(b, application, 0, outbox)
	d.settle(b)
	var took []float64
	for range rounds {
		d.giveKey(b, "EdDSA")
		began := time.Now()
		r := d.revoke(b, 100_000)
		took = append(took, milliseconds(time.Since(began)))
		if !r.Deferred {
			b.Fatal("it was not deferred")
		}
		// The next round revokes the same key again.
		d.exec(b, "DELETE FROM playbook.key_revocations")
		d.exec(b, "DELETE FROM webhook_outbox_entries WHERE id = $1", r.EventEntryID)
		d.exec(b, "DELETE FROM webhook_signing_keys WHERE kid = $1", r.SuccessorKid)
		d.exec(b, "UPDATE webhook_signing_keys SET status = 'active', revoked_at = NULL WHERE kid = $1", filler)
	}
	b.ReportMetric(median(took), "revoke-ms")
	b.ReportMetric(0, "ns/op")
}

// giveKey replaces the filler's key, and returns a function that signs with a key of the same kind.
func (d *database) giveKey(b *testing.B, algorithm string) (sign func([]byte)) {
	b.Helper()
	var key any
	switch algorithm {
	case "EdDSA":
		_, private, err := ed25519.GenerateKey(rand.Reader)
		check(b, err)
		key, sign = private, func(body []byte) { ed25519.Sign(private, body) }
	case "ES256":
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		check(b, err)
		key, sign = private, func(body []byte) {
			digest := sha256.Sum256(body)
			_, err := ecdsa.SignASN1(rand.Reader, private, digest[:])
			check(b, err)
		}
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	check(b, err)
	d.exec(b, `UPDATE webhook_signing_keys SET algorithm = $2, private_key = $3 WHERE kid = $1`, filler, algorithm,
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	return sign
}

// revoke revokes the filler's key.
func (d *database) revoke(b *testing.B, limit int64) *platformdb.Revocation {
	b.Helper()
	url, uid := d.compromise(b)
	db, err := platformdb.Open(url, nil)
	check(b, err)
	defer db.Close()
	r, err := db.Revoke(b.Context(), uid, filler, "benchmark", limit)
	check(b, err)
	return r
}

// compromise opens an operation, and returns the URL of the role that a KeyCompromise uses.
func (d *database) compromise(b *testing.B) (url, uid string) {
	b.Helper()
	server, err := postgres()
	check(b, err)
	d.exec(b, fmt.Sprintf("ALTER ROLE playbook_signer PASSWORD '%s'", password))
	operator, err := platformdb.Open(server.URLFor("playbook_operator", password, d.name), nil)
	check(b, err)
	defer operator.Close()
	id := platformdb.Identity{UID: uuid.NewString(), Kind: "KeyCompromise", Namespace: "bench", Name: "bench",
		SpecDigest: "bench", ApplicationID: application}
	_, err = operator.OpenOperation(b.Context(), id)
	check(b, err)
	return server.URLFor("playbook_signer", password, d.name), id.UID
}

// revokeEnv names an operation to a process of this binary that revokes the filler's key for it.
const revokeEnv = "BENCH_REVOKE"

// revokeApart revokes the filler's key in a process of its own, like the manager. In the same process, goroutines that
// sign would delay those of the dispatcher in Go's scheduler.
func revokeApart(ctx context.Context, url, uid string) (*platformdb.Revocation, error) {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), revokeEnv+"="+uid, "DATABASE_URL="+url)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("revoking in a process of its own: %w: %s", err, &stderr)
	}
	r := &platformdb.Revocation{}
	return r, json.Unmarshal(out, r)
}

// revokeAlone is what that process does.
func revokeAlone(uid string) int {
	db, err := platformdb.Open(os.Getenv("DATABASE_URL"), nil)
	if err == nil {
		defer db.Close()
		var r *platformdb.Revocation
		if r, err = db.Revoke(context.Background(), uid, filler, "benchmark", 1_000_000); err == nil {
			err = json.NewEncoder(os.Stdout).Encode(r)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// BenchmarkRevokeClaim measures what a revocation that signs 100,000 dead entries anew costs two others: the
// dispatcher, and those who enqueue for the same application. It also measures what one bare UPDATE of the same rows
// costs the dispatcher.
func BenchmarkRevokeClaim(b *testing.B) {
	const other = 2
	var xClaim, xClaimUpdate, xEnqueue []float64
	for round := range rounds {
		// A key is revoked only once, so the order can't alternate.
		measure := func(change func(d *database) (run func(context.Context) error)) (idleClaims, claims, idleEnqueues,
			enqueues float64) {
			d := copyOutbox(b)
			defer d.drop(b)
			d.giveKey(b, "EdDSA")
			d.seed(b, other, 1000, 0)
			run := change(d)
			p99 := func(length time.Duration, run func(context.Context) error) (float64, float64) {
				d.checkpoint(b)
				claims, enqueues := d.traffic(b, length, run, application, other)
				return quantile(claims, 0.99), quantile(enqueues, 0.99)
			}
			idleClaims, idleEnqueues = p99(phase, func(context.Context) error { return nil })
			claims, enqueues = p99(0, run)
			return idleClaims, claims, idleEnqueues, enqueues
		}
		var r *platformdb.Revocation
		idle, claims, idleEnqueues, enqueues := measure(func(d *database) func(context.Context) error {
			url, uid := d.compromise(b)
			return func(context.Context) (err error) {
				r, err = revokeApart(b.Context(), url, uid)
				return err
			}
		})
		idleToo, claimsUpdate, _, _ := measure(func(d *database) func(context.Context) error {
			return func(context.Context) error {
				_, err := d.owner.Exec(b.Context(), bareUpdateSQL, application, signatureLength)
				return err
			}
		})
		xClaim = append(xClaim, claims/idle)
		xClaimUpdate = append(xClaimUpdate, claimsUpdate/idleToo)
		xEnqueue = append(xEnqueue, enqueues/idleEnqueues)
		b.Logf("round %d: p99 in ms: claim %.2f idle, %.2f during the revocation, %.2f during an UPDATE; insertion of %d "+
			"webhooks %.2f idle, %.2f; %d signed anew, %d claimed",
			round, idle, claims, claimsUpdate, freshPerTick, idleEnqueues, enqueues, r.Resigned, r.Claimed)
	}
	b.ReportMetric(median(xClaim), "claim-p99-x-idle")
	b.ReportMetric(median(xClaimUpdate), "claim-p99-x-idle-update")
	b.ReportMetric(median(xEnqueue), "enqueue-p99-x-idle")
	b.ReportMetric(0, "ns/op")
}
