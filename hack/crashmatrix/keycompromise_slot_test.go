package crashmatrix_test

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/keycompromise"
	"github.com/1pass-dev/playbook-operator/hack/crashmatrix"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// newKeySlot makes a platform with five dead webhooks and two that wait, and remembers it for the runs to come.
func (s *stage) newKeySlot(ctx context.Context, name string) (_ *slot, err error) {
	o := &slot{stage: s, name: name, deadline: runDeadline}
	// No answer may be kept, or each run would wait for caches.
	if o.site, err = s.NewSite(ctx, name, logi.Config{ManualDispatch: true, Workers: 1,
		JWKSMaxAge: time.Nanosecond}); err != nil {
		return nil, err
	}
	if o.db, err = pgx.Connect(ctx, o.site.URLAs("")); err != nil {
		return nil, err
	}
	if err := o.site.CreateApplication(ctx, application, "acme"); err != nil {
		return nil, err
	}
	if _, err := o.site.SeedDead(ctx, application, 5, "HTTP 503: Service Unavailable", 7); err != nil {
		return nil, err
	}
	if _, err := o.site.Enqueue(ctx, application, 2); err != nil {
		return nil, err
	}
	// The same kid in each slot, so that runs can be compared.
	if _, err := o.db.Exec(ctx, `UPDATE webhook_signing_keys SET kid = 'whk_leaked';
		UPDATE webhook_outbox_entries SET kid = 'whk_leaked';
		CREATE TABLE logi_test.seed AS TABLE webhook_outbox_entries;
		CREATE TABLE logi_test.keys AS TABLE webhook_signing_keys;
		`+heldSQL); err != nil {
		return nil, err
	}
	for _, object := range []client.Object{
		o.secret("database", map[string]string{"url": o.site.URLAs("playbook_operator")}),
		o.secret("signing", map[string]string{"url": o.site.URLAs("playbook_signer")}),
		&v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: name}, Spec: v1alpha1.PlatformSpec{
			URL: o.site.URL(),
			Database: &v1alpha1.PlatformDatabase{
				SecretRef:        v1alpha1.SecretReference{Name: name + "-database"},
				SigningSecretRef: &v1alpha1.SecretReference{Name: name + "-signing"},
			},
		}},
	} {
		if err := s.admin.Create(ctx, object); err != nil {
			return nil, fmt.Errorf("applying the Platform: %w", err)
		}
	}
	return o, nil
}

// putBack puts the platform back to where each run begins, and applies the manifest.
func (s *slot) putBack(ctx context.Context, object client.ObjectKey) error {
	s.site.Forget()
	// The relying party does not know the successor at first.
	s.site.SetFault(application, logi.Fault{Status: http.StatusUnauthorized})
	s.rakes = len(s.site.RakeRuns())
	if s.bare {
		// The objects are its memory.
		if err := s.forget(ctx); err != nil {
			return fmt.Errorf("deleting earlier runs: %w", err)
		}
	}
	if _, err := s.db.Exec(ctx, `DELETE FROM webhook_outbox_entries; DELETE FROM webhook_signing_keys;
		DELETE FROM playbook.event_requeues; DELETE FROM playbook.command_runs;
		DELETE FROM playbook.key_revocations; DELETE FROM playbook.operations;
		DELETE FROM logi_test.requeues; DELETE FROM logi_test.held;
		INSERT INTO webhook_signing_keys TABLE logi_test.keys;
		INSERT INTO webhook_outbox_entries TABLE logi_test.seed`); err != nil {
		return fmt.Errorf("putting the platform back: %w", err)
	}
	return s.admin.Create(ctx, &v1alpha1.KeyCompromise{
		ObjectMeta: metav1.ObjectMeta{Namespace: object.Namespace, Name: object.Name},
		Spec: v1alpha1.KeyCompromiseSpec{
			PlatformRef: v1alpha1.PlatformReference{Name: s.name}, ApplicationID: strconv.Itoa(application), Kid: "whk_leaked",
			Reason: "found in a log", Via: s.via,
		},
	})
}

// keyManager puts a manager together as cmd/manager does, with everything that leaves it going over the wire.
func (s *slot) keyManager(wire *crashmatrix.Wire, v variant, stale bool) (*keycompromise.Reconciler, error) {
	c, err := s.over(wire, kubernetesWrite, v)
	if err != nil {
		return nil, err
	}
	transport := wire.Transport(&http.Transport{DisableKeepAlives: true},
		func(request *http.Request) string { return request.Method + " " + request.URL.Path })
	return &keycompromise.Reconciler{
		Client: s.cached(c, stale), APIReader: c, Recorder: &events.FakeRecorder{},
		Connections: &access.Connections{Secrets: c, Dial: wire.Dial, DialSSH: wire.DialSSH, Transport: transport},
	}, nil
}

// broken says what a reader sees of the revocation that must never be: only some of what its transaction does, or
// something twice. What the platform's own rake did, the ledger learns afterwards.
func (s *slot) broken(ctx context.Context) (broken string, err error) {
	if err := s.db.QueryRow(context.WithoutCancel(ctx), `SELECT CASE
			WHEN (SELECT count(*) FROM webhook_signing_keys) > 2 THEN 'two successors'
			WHEN (SELECT count(*) FROM webhook_outbox_entries WHERE event_type = 'webhook_key.compromised') > 1 THEN 'two events'
			WHEN count(DISTINCT seen) > 1 THEN 'a part of the revocation: ' || array_agg(seen)::text ELSE '' END
		FROM (VALUES
			((SELECT status = 'revoked' FROM webhook_signing_keys WHERE kid = 'whk_leaked'), false),
			(EXISTS (SELECT FROM webhook_signing_keys WHERE kid <> 'whk_leaked'), false),
			(NOT EXISTS (SELECT FROM webhook_outbox_entries WHERE kid = 'whk_leaked' AND delivered_at IS NULL), false),
			(EXISTS (SELECT FROM webhook_outbox_entries WHERE event_type = 'webhook_key.compromised'), false),
			(EXISTS (SELECT FROM playbook.key_revocations), true)) AS promises(seen, ledger)
		WHERE NOT ledger OR $1`, s.via != v1alpha1.CompromiseViaCommand).Scan(&broken); err != nil {
		return "", fmt.Errorf("reading what a reader sees of the revocation: %w", err)
	}
	return broken, nil
}

// platformMoves is what the platform and its relying party do between two passes, once the key is revoked.
func (s *slot) platformMoves(ctx context.Context) error {
	var revoked, requeued bool
	if err := s.db.QueryRow(ctx, `SELECT EXISTS (SELECT FROM playbook.key_revocations),
		EXISTS (SELECT FROM logi_test.requeues)`).Scan(&revoked, &requeued); err != nil || !revoked {
		return err
	}
	if requeued {
		s.site.SetFault(application, logi.Fault{})
	}
	if _, err := s.site.DispatchOnce(ctx); err != nil {
		return err
	}
	// Time passes: a dead event has rested long enough by the next pass.
	_, err := s.db.Exec(ctx, `UPDATE webhook_outbox_entries SET dlq_at = dlq_at - interval '1 hour'
		WHERE event_type = 'webhook_key.compromised' AND dlq_at > clock_timestamp()::timestamp - interval '1 minute'`)
	return err
}

// left reads what a run left behind; obj is empty where the object is gone.
func (s *slot) left(ctx context.Context, obj *v1alpha1.KeyCompromise, reason string) (*leak, error) {
	got := &leak{
		Reason: reason, Keys: map[string]int{}, Undelivered: map[bool]int{}, Received: s.site.ReceivedKeys(application),
		Rakes: len(s.site.RakeRuns()) - s.rakes,
	}
	if obj.Status.ResignedEntries != nil {
		got.Resigned = *obj.Status.ResignedEntries
	}
	var status string
	var successor bool
	var n int
	for _, q := range []struct {
		sql  string
		args []any
		into []any
		each func()
	}{
		{`SELECT status, count(*) FROM webhook_signing_keys GROUP BY 1`, nil, []any{&status, &n},
			func() { got.Keys[status] = n }},
		{`SELECT kid = $1, count(*) FROM webhook_outbox_entries WHERE delivered_at IS NULL GROUP BY 1`,
			[]any{obj.Status.SuccessorKid}, []any{&successor, &n}, func() { got.Undelivered[successor] = n }},
		{`SELECT count(*) FROM webhook_outbox_entries WHERE event_type = 'webhook_key.compromised'`, nil,
			[]any{&got.Events}, func() {}},
		{`SELECT count(*) FROM playbook.event_requeues`, nil, []any{&got.Requeues}, func() {}},
		{`SELECT count(*) FROM logi_test.requeues`, nil, []any{&got.Revivals}, func() {}},
		{`SELECT coalesce(outcome, 'open') FROM playbook.operations`, nil, []any{&got.Outcome}, func() {}},
		{`SELECT count(*) FILTER (WHERE at < opened_at), count(*) FILTER (WHERE at > closed_at)
			FROM playbook.operations, (SELECT revoked_at AT TIME ZONE 'UTC' FROM playbook.key_revocations
				UNION ALL SELECT requeued_at FROM logi_test.requeues) effects(at)`,
			nil, []any{&got.Before, &got.After}, func() {}},
	} {
		rows, err := s.db.Query(ctx, q.sql, q.args...)
		if err == nil {
			_, err = pgx.ForEachRow(rows, q.into, func() error { q.each(); return nil })
		}
		if err != nil {
			return nil, fmt.Errorf("reading what the run left behind: %w", err)
		}
	}
	var replays v1alpha1.DLQReplayList
	if err := s.admin.List(ctx, &replays, client.InNamespace(world.Namespace)); err != nil {
		return nil, fmt.Errorf("reading what the run left behind: %w", err)
	}
	for i := range replays.Items {
		if metav1.IsControlledBy(&replays.Items[i], obj) {
			got.Replays++
		}
	}
	return got, nil
}
