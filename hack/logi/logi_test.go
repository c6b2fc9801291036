package logi_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/servers"
)

const (
	deadline = time.Minute
	template = "template_logi"
	acme     = 42
)

var (
	postgres  *servers.Postgres
	databases atomic.Int64
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "logi-test-")
	if err == nil {
		defer os.RemoveAll(dir)
		postgres, err = servers.StartPostgres(ctx, filepath.Join(dir, "postgres"), servers.PostgresOptions{Fast: true})
	}
	if err == nil {
		defer func() { _ = postgres.Stop(ctx) }() // its folder goes with it
		err = postgres.CreateDatabase(ctx, template, "")
	}
	if err == nil {
		err = logi.Migrate(ctx, postgres.URL(template))
	}
	if err == nil {
		err = logi.InstallAudit(ctx, postgres.URL(template))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// platform is a stand-in platform with acme's endpoint, on a database of its own.
type platform struct {
	*logi.Server
	t  *testing.T
	db *pgx.Conn
}

// start starts a platform that delivers when it is told to, unless config says otherwise.
func start(t *testing.T, config logi.Config) *platform {
	t.Helper()
	ctx := t.Context()
	name := "logi_" + strconv.FormatInt(databases.Add(1), 10)
	if err := postgres.CreateDatabase(ctx, name, template); err != nil {
		t.Fatal(err)
	}
	config.DatabaseURL = postgres.URL(name)
	server, err := logi.Start(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	p := &platform{Server: server, t: t, db: connect(t, config.DatabaseURL)}
	if err := p.CreateApplication(ctx, acme, "acme"); err != nil {
		t.Fatal(err)
	}
	return p
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // a broken one fails the test elsewhere
	return conn
}

// manual delivers only when told to, and retries as often as there are backoffs.
func manual(backoff ...time.Duration) logi.Config {
	return logi.Config{ManualDispatch: true, Backoff: backoff, DeliveryTimeout: deadline}
}

func (p *platform) enqueue(n int) []int64 {
	p.t.Helper()
	ids, err := p.Enqueue(p.t.Context(), acme, n)
	if err != nil {
		p.t.Fatal(err)
	}
	return ids
}

func (p *platform) seedDead(n int, lastError string, attempts int) []int64 {
	p.t.Helper()
	ids, err := p.SeedDead(p.t.Context(), acme, n, lastError, attempts)
	if err != nil {
		p.t.Fatal(err)
	}
	return ids
}

func (p *platform) dispatch() int {
	p.t.Helper()
	n, err := p.DispatchOnce(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

func (p *platform) exec(sql string, args ...any) {
	p.t.Helper()
	if _, err := p.db.Exec(p.t.Context(), sql, args...); err != nil {
		p.t.Fatal(err)
	}
}

// makeDue ends every backoff.
func (p *platform) makeDue() { p.exec(`UPDATE webhook_outbox_entries SET next_retry_at = NULL`) }

type entry struct {
	Attempts                         int
	Delivered, Dead, Waiting         bool // Waiting for its next retry
	EnqueuedAt                       time.Time
	NextRetryAt, DeliveredAt, DeadAt *time.Time
	LastError                        string
	IdempotencyKey, Kid              string
	backoffSeconds                   float64
}

func (p *platform) entry(id int64) entry {
	p.t.Helper()
	var e entry
	err := p.db.QueryRow(p.t.Context(), `SELECT attempts, enqueued_at, next_retry_at, delivered_at, dlq_at,
			coalesce(last_error, ''), idempotency_key, kid, coalesce(extract(epoch FROM next_retry_at - updated_at), 0)
		FROM webhook_outbox_entries WHERE id = $1`, id).
		Scan(&e.Attempts, &e.EnqueuedAt, &e.NextRetryAt, &e.DeliveredAt, &e.DeadAt, &e.LastError, &e.IdempotencyKey, &e.Kid,
			&e.backoffSeconds)
	if err != nil {
		p.t.Fatal(err)
	}
	e.Delivered, e.Dead, e.Waiting = e.DeliveredAt != nil, e.DeadAt != nil, e.NextRetryAt != nil
	return e
}

// answered counts how often acme's endpoint gave each status.
func (p *platform) answered() map[int]int {
	if attempts := p.Counts()[acme].Attempts; attempts != nil {
		return attempts
	}
	return map[int]int{}
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", deadline, what)
		}
	}
}

func TestAnEntryThatIsAnswered2xxIsDelivered(t *testing.T) {
	t.Parallel()
	for _, status := range []int{0, 201, 204} { // 0: the endpoint as it is, which verifies and answers 200
		p := start(t, manual())
		p.SetFault(acme, logi.Fault{Status: status})
		id := p.enqueue(1)[0]
		if n := p.dispatch(); n != 1 {
			t.Errorf("%d attempts, want 1", n)
		}
		if e := p.entry(id); !e.Delivered || e.Dead || e.Waiting || e.Attempts != 1 || e.LastError != "" {
			t.Errorf("answered %d: %+v", status, e)
		}
		if n := p.dispatch(); n != 0 {
			t.Errorf("a delivered entry was attempted again")
		}
	}
}

func TestAnEntryIsRetriedWithBackoffAndThenDies(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]logi.Fault{
		"500": {Status: 500, Body: "oops"}, "503": {Status: 503}, "408": {Status: 408}, "429": {Status: 429},
		"no answer": {Refuse: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, manual(time.Hour, 2*time.Hour))
			p.SetFault(acme, fault)
			id := p.enqueue(1)[0]
			for attempt, hours := range []float64{1, 2} {
				if n := p.dispatch(); n != 1 {
					t.Fatalf("attempt %d: %d attempts, want 1", attempt+1, n)
				}
				e := p.entry(id)
				if !e.Waiting || e.Dead || e.Delivered || e.Attempts != attempt+1 || e.LastError == "" {
					t.Errorf("after attempt %d: %+v", attempt+1, e)
				}
				// The two clock readings of one statement are microseconds apart.
				if off := e.backoffSeconds - hours*3600; off < -1 || off > 1 {
					t.Errorf("attempt %d is followed after %v s, want %v hours", attempt+1, e.backoffSeconds, hours)
				}
				if n := p.dispatch(); n != 0 {
					t.Errorf("it was attempted before its backoff ended")
				}
				p.makeDue()
			}
			p.dispatch()
			if e := p.entry(id); !e.Dead || e.Delivered || e.Waiting || e.Attempts != 3 {
				t.Errorf("after the last attempt: %+v", e)
			}
			if want := map[int]int{fault.Status: 3}; !reflect.DeepEqual(p.answered(), want) {
				t.Errorf("the relying party saw %v, want %v: one call for each attempt", p.answered(), want)
			}
		})
	}
}

func TestWhatBecomesDueWhileTheDispatcherIsToldToDeliverWaits(t *testing.T) {
	t.Parallel()
	p := start(t, manual(time.Nanosecond)) // due again at once
	p.SetFault(acme, logi.Fault{Status: 503})
	p.enqueue(2)
	if n := p.dispatch(); n != 2 {
		t.Errorf("%d attempts at two entries that were due, want one each", n)
	}
}

func TestAnAttemptIsOneCallAlsoOverAConnectionThatWasUsedBefore(t *testing.T) {
	t.Parallel()
	p := start(t, manual(time.Hour))
	p.enqueue(1)
	p.dispatch()
	p.SetFault(acme, logi.Fault{Refuse: true})
	p.enqueue(1)
	p.dispatch()
	if want := map[int]int{200: 1, 0: 1}; !reflect.DeepEqual(p.answered(), want) {
		t.Errorf("the relying party saw %v, want %v", p.answered(), want)
	}
}

func TestAnyOther4xxKillsAtOnce(t *testing.T) {
	t.Parallel()
	p := start(t, manual(time.Hour))
	for _, status := range []int{400, 401, 404, 409, 410, 422} {
		p.SetFault(acme, logi.Fault{Status: status, Body: "no\n"})
		id := p.enqueue(1)[0]
		p.dispatch()
		if e := p.entry(id); !e.Dead || e.Waiting || e.Attempts != 1 || e.LastError != fmt.Sprintf("HTTP %d: no", status) {
			t.Errorf("answered %d: %+v", status, e)
		}
	}
}

func TestLastErrorNamesWhatHappenedAsRubyDoes(t *testing.T) {
	t.Parallel()
	config := manual(time.Hour)
	config.DeliveryTimeout = 200 * time.Millisecond
	for name, c := range map[string]struct {
		fault logi.Fault
		url   string
		want  string
	}{
		"closed":  {fault: logi.Fault{Refuse: true}, want: "EOFError: "},
		"slow":    {fault: logi.Fault{DelayMilliseconds: 60_000}, want: "Net::ReadTimeout: "},
		"refused": {url: "http://127.0.0.1:1/", want: "Errno::ECONNREFUSED: "},
		"no host": {url: "http://nowhere.invalid/", want: "SocketError: "},
		"no URL":  {url: "::", want: "URI::InvalidURIError: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, config)
			p.SetFault(acme, c.fault)
			if c.url != "" {
				p.exec(`UPDATE oauth_applications SET webhook_url = $1`, c.url)
			}
			id := p.enqueue(1)[0]
			p.dispatch()
			if e := p.entry(id); !strings.HasPrefix(e.LastError, c.want) || !e.Waiting {
				t.Errorf("%+v, want %q and a retry", e, c.want)
			}
		})
	}
}

func TestA409SettlesARetryWhereTheRuleIsMendedButNeverAFirstAttempt(t *testing.T) {
	t.Parallel()
	for _, mended := range []bool{false, true} {
		config := manual(time.Hour)
		config.Settle409 = mended
		p := start(t, config)
		p.SetFault(acme, logi.Fault{Status: 409})
		first := p.enqueue(1)[0]
		p.dispatch()
		if e := p.entry(first); !e.Dead || e.Delivered {
			t.Errorf("mended %v: a 409 to a first attempt: %+v", mended, e)
		}
		p.SetFault(acme, logi.Fault{Status: 503})
		second := p.enqueue(1)[0]
		p.dispatch()
		p.SetFault(acme, logi.Fault{Status: 409})
		p.makeDue()
		p.dispatch()
		if e := p.entry(second); e.Delivered != mended || e.Dead == mended || e.Attempts != 2 {
			t.Errorf("mended %v: a 409 to a retry: %+v", mended, e)
		}
	}
}

func TestTheRowLockIsHeldDuringTheCallAndNobodyElseDelivers(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	arrived, release := make(chan struct{}), make(chan struct{})
	var calls atomic.Int64
	endpoint := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if calls.Add(1) == 1 {
			close(arrived)
			<-release
		}
	}))
	defer endpoint.Close()
	p.exec(`UPDATE oauth_applications SET webhook_url = $1`, endpoint.URL)
	id := p.enqueue(1)[0]
	var dispatching sync.WaitGroup
	dispatching.Go(func() { _, _ = p.DispatchOnce(t.Context()) }) // judged by the row
	<-arrived

	var found int64
	if err := p.db.QueryRow(t.Context(),
		`SELECT id FROM webhook_outbox_entries FOR UPDATE SKIP LOCKED`).Scan(&found); err != pgx.ErrNoRows {
		t.Errorf("another session locked entry %d (%v) while it was being delivered", found, err)
	}
	if n := p.dispatch(); n != 0 {
		t.Errorf("another worker attempted an entry that is being delivered")
	}
	close(release)
	dispatching.Wait()
	if e := p.entry(id); !e.Delivered || e.Attempts != 1 {
		t.Errorf("%+v", e)
	}
	if err := p.db.QueryRow(t.Context(),
		`SELECT id FROM webhook_outbox_entries FOR UPDATE SKIP LOCKED`).Scan(&found); err != nil || found != id {
		t.Errorf("after the delivery the lock is still held: %v", err)
	}
}

func TestWorkersDeliverEachEntryOnce(t *testing.T) {
	t.Parallel()
	p := start(t, logi.Config{Workers: 4, DeliveryTimeout: deadline})
	ids := p.enqueue(200)
	eventually(t, "all were received", func() bool { return p.Counts()[acme].Received == len(ids) })
	want := logi.ApplicationCounts{Attempts: map[int]int{200: len(ids)}, Received: len(ids)}
	if got := p.Counts()[acme]; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	for key, n := range p.ReceivedKeys(acme) {
		if n != 1 {
			t.Errorf("%s was accepted %d times", key, n)
		}
	}
}

func TestSeededEntriesAreDeadAsToldAndInOrder(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	ids := p.seedDead(10, "HTTP 503: Service Unavailable", 7)
	var last time.Time
	for _, id := range ids {
		e := p.entry(id)
		if !e.Dead || e.Delivered || e.Waiting || e.Attempts != 7 || e.LastError != "HTTP 503: Service Unavailable" {
			t.Errorf("%+v", e)
		}
		if !e.EnqueuedAt.After(last) || !e.DeadAt.After(e.EnqueuedAt) {
			t.Errorf("entry %d was enqueued at %v after %v and died at %v", id, e.EnqueuedAt, last, e.DeadAt)
		}
		last = e.EnqueuedAt
	}
	if n := p.dispatch(); n != 0 {
		t.Errorf("%d dead entries were attempted", n)
	}
}

func TestFaultsHitAsManyAttemptsAsTold(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	p.SetFault(acme, logi.Fault{Status: 400, EveryKth: 3})
	p.enqueue(9)
	p.dispatch()
	if want := map[int]int{200: 6, 400: 3}; !reflect.DeepEqual(p.answered(), want) {
		t.Errorf("every third: %v, want %v", p.answered(), want)
	}
	p.SetFault(acme, logi.Fault{Status: 410, Percent: 100})
	p.enqueue(2)
	p.dispatch()
	if got := p.answered()[410]; got != 2 {
		t.Errorf("all: %d of 2", got)
	}
}

func TestEveryKthIsExactAlsoWithManyWorkers(t *testing.T) {
	t.Parallel()
	p := start(t, logi.Config{Workers: 4, DeliveryTimeout: deadline})
	p.SetFault(acme, logi.Fault{Status: 400, EveryKth: 2, DelayMilliseconds: 5})
	p.enqueue(100)
	eventually(t, "all were attempted", func() bool { return p.answered()[200]+p.answered()[400] == 100 })
	if want := map[int]int{200: 50, 400: 50}; !reflect.DeepEqual(p.answered(), want) {
		t.Errorf("%v, want %v", p.answered(), want)
	}
}

func TestARelyingPartyThatSawAKeyAnswers409WhereItIsTold(t *testing.T) {
	t.Parallel()
	for _, conflict := range []bool{false, true} {
		p := start(t, manual())
		p.SetFault(acme, logi.Fault{ConflictOnSeen: conflict})
		id := p.enqueue(1)[0]
		p.dispatch()
		p.exec(`UPDATE webhook_outbox_entries SET delivered_at = NULL`)
		p.dispatch()
		want := logi.ApplicationCounts{Attempts: map[int]int{200: 2}, Received: 1, Duplicates: 1}
		if conflict {
			want = logi.ApplicationCounts{Attempts: map[int]int{200: 1, 409: 1}, Received: 1}
		}
		if got := p.Counts()[acme]; !reflect.DeepEqual(got, want) {
			t.Errorf("conflict %v: %+v, want %+v", conflict, got, want)
		}
		if e := p.entry(id); e.Dead != conflict {
			t.Errorf("conflict %v: %+v", conflict, e)
		}
	}
}

func TestEachRevivalIsCounted(t *testing.T) {
	t.Parallel()
	p := start(t, manual())
	ids := p.seedDead(3, "HTTP 503: ", 7)
	p.exec(`UPDATE webhook_outbox_entries SET dlq_at = NULL WHERE id = ANY ($1)`, ids[:2])
	p.exec(`UPDATE webhook_outbox_entries SET attempts = attempts + 1`)
	p.exec(`UPDATE webhook_outbox_entries SET dlq_at = clock_timestamp() WHERE id = $1`, ids[0])
	p.exec(`UPDATE webhook_outbox_entries SET dlq_at = NULL WHERE id = $1`, ids[0])
	p.exec(`UPDATE webhook_outbox_entries SET dlq_at = NULL, delivered_at = clock_timestamp() WHERE id = $1`, ids[2])
	rows, err := p.db.Query(t.Context(), `SELECT entry_id FROM logi_test.requeues ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if want := []int64{ids[0], ids[0], ids[1]}; !slices.Equal(got, want) {
		t.Errorf("revived %v, want %v", got, want)
	}
}

type refusal struct {
	Error struct{ Code, Message string }
}

type listing struct {
	Entries []struct {
		ID        int64  `json:"id"`
		LastError string `json:"last_error"`
		Attempts  int    `json:"attempts"`
	}
	Meta struct{ Page, Total int }
}
