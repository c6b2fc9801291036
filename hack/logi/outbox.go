package logi

import (
	"context"
	"fmt"

	"github.com/go-jose/go-jose/v4"
	"github.com/jackc/pgx/v5"
)

// CreateApplication registers a relying party with an endpoint of this server, and with an EdDSA signing key.
func (s *Server) CreateApplication(ctx context.Context, id int64, name string) error {
	return s.CreateApplicationWithKey(ctx, id, name, jose.EdDSA)
}

// CreateApplicationWithKey is CreateApplication with a signing key for EdDSA, ES256 or RS256.
func (s *Server) CreateApplicationWithKey(ctx context.Context, id int64, name string,
	algorithm jose.SignatureAlgorithm) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx,
			`INSERT INTO oauth_applications (id, name, uid, secret, webhook_url) VALUES ($1, $2, $4, 'unused', $3)`,
			id, name, fmt.Sprintf("%s/rp/%d/webhooks", s.url, id), fmt.Sprintf("%s-%d", name, id)); err != nil {
			return fmt.Errorf("creating application %d: %w", id, err)
		}
		return issueKey(ctx, tx, id, algorithm)
	})
}

// Enqueue puts n signed webhooks into the outbox, as the platform does when something happens, and returns their ids.
func (s *Server) Enqueue(ctx context.Context, application int64, n int) ([]int64, error) {
	return s.insert(ctx, application, n, "clock_timestamp() + n * interval '1 microsecond'", "")
}

// SeedDead puts n signed webhooks into the outbox that died over the last hour. All have the same last_error and
// attempts. It returns their ids in the order in which they were enqueued.
func (s *Server) SeedDead(ctx context.Context, application int64, n int, lastError string, attempts int) ([]int64,
	error) {
	// They were enqueued over an hour that ended two hours ago, and died an hour after that.
	ids, err := s.insert(ctx, application, n,
		fmt.Sprintf("clock_timestamp() - interval '3 hours' + n * interval '1 hour' / %d", max(n, 1)),
		"clock_timestamp() - interval '1 hour'")
	if err != nil {
		return nil, err
	}
	if _, err := s.pool.Exec(ctx, `UPDATE webhook_outbox_entries
		SET dlq_at = enqueued_at + interval '1 hour', last_error = $2, attempts = $3
		WHERE id = ANY ($1)`, ids, lastError, attempts); err != nil {
		return nil, fmt.Errorf("killing entries: %w", err)
	}
	return ids, nil
}

// insert adds n entries whose enqueued_at is an SQL expression over n. dead, if not empty, keeps the dispatcher away
// from them.
func (s *Server) insert(ctx context.Context, application int64, n int, enqueuedAt, dead string) ([]int64, error) {
	signer, err := s.signer(ctx, application)
	if err != nil {
		return nil, err
	}
	if dead == "" {
		dead = "NULL"
	}
	ids := make([]int64, 0, n)
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		// The body is the payload as Postgres writes it, so that text is signed.
		rows, err := tx.Query(ctx, `WITH ids AS (
				SELECT n, nextval('webhook_outbox_entries_id_seq') AS id FROM generate_series(1, $1::int) n
			)
			SELECT id, n, jsonb_build_object('id', 'evt_' || id, 'type', 'user.updated',
				'data', jsonb_build_object('sub', md5(id::text), 'n', n))::text
			FROM ids ORDER BY n`, n)
		if err != nil {
			return fmt.Errorf("making payloads: %w", err)
		}
		var bodies, signatures []string
		var id, nth int64
		var body string
		if _, err := pgx.ForEachRow(rows, []any{&id, &nth, &body}, func() error {
			signature, err := signer.sign([]byte(body))
			ids, bodies, signatures = append(ids, id), append(bodies, body), append(signatures, signature)
			return err
		}); err != nil {
			return fmt.Errorf("signing payloads: %w", err)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO webhook_outbox_entries (id, oauth_application_id, event_type, payload,
				idempotency_key, kid, signature, enqueued_at, dlq_at)
			SELECT id, $4, 'user.updated', body::jsonb, 'key_' || id, $5, signature, `+enqueuedAt+`, `+dead+`
			FROM unnest($1::bigint[], $2::text[], $3::text[]) WITH ORDINALITY AS e(id, body, signature, n)`,
			ids, bodies, signatures, application, signer.kid); err != nil {
			return fmt.Errorf("inserting entries: %w", err)
		}
		return nil
	})
	return ids, err
}

// SeedFiller creates an application and fills an outbox for measurements, by SQL alone. It adds delivered and dead
// entries. Their payloads and signatures have the usual length, and nobody verifies them. The dead entries are spread
// evenly, like those of one relying party that is down.
func SeedFiller(ctx context.Context, conn *pgx.Conn, application int64, delivered, dead int) error {
	for _, statement := range []struct {
		sql  string
		args []any
	}{
		{`INSERT INTO oauth_applications (id, name, uid, secret)
			VALUES ($1, 'filler', 'filler' || $1::bigint, 'unused') ON CONFLICT DO NOTHING`, []any{application}},
		{`INSERT INTO webhook_signing_keys (oauth_application_id, kid, algorithm, public_key, private_key, activated_at)
			VALUES ($1, 'whk_filler_' || $1::bigint, 'EdDSA', '', '', clock_timestamp())
			ON CONFLICT DO NOTHING`, []any{application}},
		{fillerSQL, []any{application, delivered + dead, dead}},
		{`ANALYZE webhook_outbox_entries`, nil},
	} {
		if _, err := conn.Exec(ctx, statement.sql, statement.args...); err != nil {
			return fmt.Errorf("filling the outbox: %w", err)
		}
	}
	return nil
}

const fillerSQL = `INSERT INTO webhook_outbox_entries
		(oauth_application_id, event_type, payload, idempotency_key, kid, signature, attempts,
			enqueued_at, delivered_at, dlq_at, last_error)
	SELECT $1, 'user.updated', jsonb_build_object('id', 'evt_' || n, 'type', 'user.updated', 'data',
			jsonb_build_object('sub', md5(n::text), 'note', repeat(md5(n::text), 17))),
		'filler_' || $1::bigint || '_' || n, 'whk_filler_' || $1::bigint,
		repeat(md5(n::text), 4) || repeat('s', 22), CASE WHEN dead THEN 7 ELSE 1 END,
		clock_timestamp() - interval '1 day' + n * interval '1 millisecond',
		CASE WHEN NOT dead THEN clock_timestamp() - interval '1 hour' END,
		CASE WHEN dead THEN clock_timestamp() - interval '1 hour' END,
		CASE WHEN dead THEN 'HTTP 503: Service Unavailable' END
	FROM (SELECT n, n * $3::bigint / $2::bigint > (n - 1) * $3::bigint / $2::bigint AS dead
		FROM generate_series(1, $2::bigint) n) entries`
