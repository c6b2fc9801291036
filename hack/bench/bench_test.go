// Package bench measures how fast replays are, and what they cost other users of the database. The README says what
// each metric means.
package bench

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
)

const (
	// rounds is how often each ratio is measured; the metric is the median.
	rounds = 5

	application = 1
	outbox      = 1_000_000
	dead        = 100_000
)

var (
	dir      string
	postgres = sync.OnceValues(startPostgres)
	password = rand.Text()
	template *database
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if uid := os.Getenv(revokeEnv); uid != "" {
		return revokeAlone(uid)
	}
	ctrllog.SetLogger(logr.Discard())
	var err error
	if dir, err = os.MkdirTemp("", "playbook-bench-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	return m.Run()
}

// startPostgres starts a server that nothing else uses while it is measured. It is as safe as in production, and writes
// to recycled log files like a server that has run for long.
func startPostgres() (*servers.Postgres, error) {
	return servers.StartPostgres(context.Background(), filepath.Join(dir, "postgres"), servers.PostgresOptions{
		Settings: map[string]string{"autovacuum": "off", "checkpoint_timeout": "1h", "max_wal_size": "16GB",
			"min_wal_size": "4GB"},
	})
}

// database has an outbox and a ledger.
type database struct {
	name  string
	owner *pgx.Conn
	// line to it; nil where it is on the same machine.
	line *line
}

// url is a role's, by way of the line.
func (d *database) url(b *testing.B, role string) string {
	b.Helper()
	server, err := postgres()
	check(b, err)
	direct := server.URL(d.name)
	if role != "" {
		direct = server.URLFor(role, password, d.name)
	}
	if d.line == nil {
		return direct
	}
	return d.line.over(b, direct)
}

// leave moves the database so far away that a round trip takes that long.
func (d *database) leave(b *testing.B, roundTrip time.Duration) {
	b.Helper()
	if roundTrip == 0 {
		return
	}
	u, err := url.Parse(d.url(b, ""))
	check(b, err)
	d.disconnect(b)
	d.line = lineTo(b, u.Host, roundTrip)
	d.connect(b)
}

// newDatabase creates a database with an empty outbox.
func newDatabase(b *testing.B, name string) *database {
	b.Helper()
	server, err := postgres()
	check(b, err)
	check(b, server.CreateDatabase(b.Context(), name, ""))
	check(b, logi.Migrate(b.Context(), server.URL(name)))
	_, err = platformdb.Migrate(b.Context(), server.URL(name))
	check(b, err)
	d := &database{name: name}
	d.connect(b)
	d.exec(b, fmt.Sprintf("ALTER ROLE playbook_operator PASSWORD '%s'", password))
	return d
}

// copyOutbox creates a database with a million rows in its outbox, a tenth of them dead. Each copy is the same, block
// by block.
func copyOutbox(b *testing.B) *database {
	b.Helper()
	if template == nil {
		template = newDatabase(b, "template_outbox")
		template.seed(b, application, outbox-dead, dead)
		template.settle(b)
		template.disconnect(b)
	}
	server, err := postgres()
	check(b, err)
	admin, err := pgx.Connect(b.Context(), server.URL("postgres"))
	check(b, err)
	defer admin.Close(b.Context())
	// CREATE DATABASE's default strategy would log each block.
	_, err = admin.Exec(b.Context(), "CREATE DATABASE outbox TEMPLATE template_outbox STRATEGY file_copy")
	check(b, err)
	d := &database{name: "outbox"}
	d.connect(b)
	return d
}

func (d *database) connect(b *testing.B) {
	var err error
	d.owner, err = pgx.Connect(b.Context(), d.url(b, ""))
	check(b, err)
}

func (d *database) disconnect(b *testing.B) {
	check(b, d.owner.Close(b.Context()))
}

func (d *database) drop(b *testing.B) {
	d.disconnect(b)
	server, err := postgres()
	check(b, err)
	check(b, server.DropDatabase(b.Context(), d.name))
}

// seed adds rows of one application to the outbox.
func (d *database) seed(b *testing.B, application int64, delivered, dead int) {
	check(b, logi.SeedFiller(b.Context(), d.owner, application, delivered, dead))
}

// settle cleans up and writes out what earlier statements left, so the next statement does not have to.
func (d *database) settle(b *testing.B) {
	d.exec(b, "VACUUM ANALYZE")
	d.checkpoint(b)
}

// checkpoint makes the server and the kernel write all pending data, so that earlier writes are not measured.
func (d *database) checkpoint(b *testing.B) {
	d.exec(b, "CHECKPOINT")
	syscall.Sync()
}

func (d *database) exec(b *testing.B, sql string, args ...any) {
	b.Helper()
	_, err := d.owner.Exec(b.Context(), sql, args...)
	check(b, err)
}

// replay is an operation on all dead entries of an application, like that of a DLQReplay with the defaults.
type replay struct {
	*platformdb.DB
	uid       string
	selection platformdb.Selection
	planned   *platformdb.Operation
}

// plan opens an operation and plans it.
func (d *database) plan(b *testing.B, application int64) *replay {
	b.Helper()
	db, err := platformdb.Open(d.url(b, "playbook_operator"), nil)
	check(b, err)
	r := &replay{DB: db, uid: uuid.NewString(),
		selection: platformdb.Selection{ApplicationID: application, Conflicts: "Settle", MaxReplays: 3}}
	_, err = db.OpenOperation(b.Context(), platformdb.Identity{
		UID: r.uid, Kind: "DLQReplay", Namespace: "bench", Name: "bench", SpecDigest: r.uid, ApplicationID: application,
	})
	check(b, err)
	r.planned, err = db.Plan(b.Context(), r.uid, r.selection, 10_000_000)
	check(b, err)
	return r
}

// run requeues until nothing remains, and calls each after each batch.
func (r *replay) run(b *testing.B, each func(*platformdb.Batch)) {
	for remaining := r.planned.Remaining; remaining > 0; {
		batch, err := r.Requeue(b.Context(), r.uid, r.selection, platformdb.Pace{})
		check(b, err)
		if batch.Looked == 0 {
			check(b, errors.New("a batch without a pace looked at nothing"))
		}
		remaining = batch.Remaining
		each(batch)
	}
}

func check(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func median[T cmp.Ordered](values []T) T { return quantile(values, 0.5) }

// quantile is the smallest value such that at least the fraction q of the values is not above it.
func quantile[T cmp.Ordered](values []T, q float64) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[max(0, int(float64(len(sorted))*q+0.9999999)-1)]
}
