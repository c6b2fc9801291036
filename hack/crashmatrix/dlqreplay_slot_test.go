package crashmatrix_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/dlqreplay"
	"github.com/1pass-dev/playbook-operator/hack/crashmatrix"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// newSlot makes a platform whose webhooks are dead, and remembers them for the runs to come.
func (s *stage) newSlot(ctx context.Context, name string) (_ *slot, err error) {
	o := &slot{stage: s, name: name}
	if o.site, err = s.NewSite(ctx, name, logi.Config{ManualDispatch: true, Workers: 1}); err != nil {
		return nil, err
	}
	if o.db, err = pgx.Connect(ctx, o.site.URLAs("")); err != nil {
		return nil, err
	}
	if err := o.site.CreateApplication(ctx, application, "acme"); err != nil {
		return nil, err
	}
	for _, seed := range []struct {
		n         int
		lastError string
		attempts  int
	}{{12, "HTTP 503: Service Unavailable", 7}, {2, "HTTP 409: already processed", 3}, {1,
		"HTTP 503: Service Unavailable", 7}} {
		if _, err := o.site.SeedDead(ctx, application, seed.n, seed.lastError, seed.attempts); err != nil {
			return nil, err
		}
	}
	if _, err := o.db.Exec(ctx, `UPDATE webhook_outbox_entries SET kid = 'whk_forgotten' WHERE id = 15;
		CREATE TABLE logi_test.seed AS TABLE webhook_outbox_entries;`+refusals); err != nil {
		return nil, err
	}
	for _, object := range []client.Object{
		o.secret("database", map[string]string{"url": o.site.URLAs("playbook_operator")}),
		o.secret("admin", map[string]string{"token": o.site.AdminToken()}),
		&v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: name}, Spec: v1alpha1.PlatformSpec{
			URL:      o.site.URL(),
			Database: &v1alpha1.PlatformDatabase{SecretRef: v1alpha1.SecretReference{Name: name + "-database"}},
			AdminAPI: &v1alpha1.PlatformAdminAPI{SecretRef: v1alpha1.SecretReference{Name: name + "-admin"}},
		}},
	} {
		if err := s.admin.Create(ctx, object); err != nil {
			return nil, fmt.Errorf("applying the Platform: %w", err)
		}
	}
	return o, nil
}

// Event types of entries that the database refuses to have changed.
const (
	atOnce   = "refused at once"
	atCommit = "refused at the commit"

	refusals = `CREATE FUNCTION logi_test.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
		CREATE TRIGGER refuse BEFORE UPDATE ON webhook_outbox_entries
			FOR EACH ROW WHEN (OLD.event_type = '` + atOnce + `') EXECUTE FUNCTION logi_test.refuse();
		CREATE CONSTRAINT TRIGGER refuse_late AFTER UPDATE ON webhook_outbox_entries DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW WHEN (OLD.event_type = '` + atCommit + `') EXECUTE FUNCTION logi_test.refuse()`
)

// prepare puts the platform back to where each run begins, and applies the manifest.
func (r *run) prepare(ctx context.Context) error {
	r.site.Forget()
	r.site.SetFault(application, r.fault)
	if _, err := r.db.Exec(ctx, `DELETE FROM webhook_outbox_entries; DELETE FROM playbook.replay_entries;
		DELETE FROM playbook.operations; DELETE FROM logi_test.requeues;
		INSERT INTO webhook_outbox_entries TABLE logi_test.seed`); err != nil {
		return fmt.Errorf("putting the platform back: %w", err)
	}
	for id, how := range r.refused {
		if _, err := r.db.Exec(ctx, `UPDATE webhook_outbox_entries SET event_type = $2 WHERE id = $1`, id, how); err != nil {
			return fmt.Errorf("making an entry that is refused: %w", err)
		}
	}
	replay := &v1alpha1.DLQReplay{ObjectMeta: metav1.ObjectMeta{Namespace: r.object.Namespace, Name: r.object.Name},
		Spec: *r.spec.DeepCopy()}
	replay.Spec.PlatformRef.Name = r.slot.name
	replay.Spec.ApplicationID = strconv.Itoa(application)
	if replay.Spec.AdminAPI != nil {
		nonces := r.secret(r.object.Name, map[string]string{"1": r.site.IssueNonce(1), "2": r.site.IssueNonce(2)})
		if err := r.admin.Create(ctx, nonces); err != nil {
			return fmt.Errorf("applying the nonces: %w", err)
		}
		replay.Spec.AdminAPI.NonceSecretRef.Name = nonces.Name
	}
	if err := r.admin.Create(ctx, replay); err != nil {
		return fmt.Errorf("applying the replay: %w", err)
	}
	return nil
}

// newManager puts a manager together as cmd/manager does, with everything that leaves it going over the wire.
func (r *run) newManager(wire *crashmatrix.Wire, v variant, stale bool) (*dlqreplay.Reconciler, error) {
	c, err := r.over(wire, kubernetesWrite, v)
	if err != nil {
		return nil, err
	}
	transport := wire.Transport(r.counted(&http.Transport{DisableKeepAlives: true}), func(request *http.Request) string {
		return request.Method + " /api/v1/admin/webhook_outbox/:id/retry"
	})
	if v.http != nil {
		transport = v.http(transport)
	}
	return &dlqreplay.Reconciler{
		Client: r.cached(c, stale), APIReader: c, Recorder: &events.FakeRecorder{},
		Connections: &access.Connections{Secrets: c, Dial: wire.Dial, Transport: transport},
	}, nil
}

// counted counts the calls that reach the admin API, by entry.
func (r *run) counted(next http.RoundTripper) http.RoundTripper {
	return roundTrip(func(request *http.Request) (*http.Response, error) {
		response, err := next.RoundTrip(request)
		r.calls.Lock()
		defer r.calls.Unlock()
		r.calls.byEntry[strings.Split(request.URL.Path, "/")[5]]++
		return response, err
	})
}

func (r *run) result(ctx context.Context, obj *v1alpha1.DLQReplay) (*result, error) {
	got := &result{Requeues: map[int64]int{}, Received: r.site.ReceivedKeys(application), Entries: map[int64]string{},
		Calls: maps.Clone(r.calls.byEntry)}
	if obj != nil {
		if c := meta.FindStatusCondition(obj.Status.Conditions, v1alpha1.ConditionReady); c != nil {
			got.Reason = c.Reason
		}
		if obj.Status.Progress != nil {
			got.Progress = *obj.Status.Progress
			got.Progress.ObservedAt = nil
		}
		got.Refusals = obj.Status.Refusals
	}
	var id int64
	var n int
	var action string
	for _, q := range []struct {
		sql  string
		into []any
		each func()
	}{
		{`SELECT entry_id, count(*) FROM logi_test.requeues GROUP BY 1`, []any{&id, &n}, func() { got.Requeues[id] = n }},
		{`SELECT entry_id, action::text FROM playbook.replay_entries`, []any{&id, &action},
			func() { got.Entries[id] = action }},
		{`SELECT coalesce(outcome, 'open') FROM playbook.operations`, []any{&got.Outcome}, func() {}},
		{`SELECT count(*) FROM logi_test.requeues r JOIN playbook.operations o ON r.requeued_at > o.closed_at`,
			[]any{&got.Late}, func() {}},
	} {
		rows, err := r.db.Query(ctx, q.sql)
		if err == nil {
			_, err = pgx.ForEachRow(rows, q.into, func() error { q.each(); return nil })
		}
		if err != nil {
			return nil, fmt.Errorf("reading what the run left behind: %w", err)
		}
	}
	return got, nil
}

func ready(obj *v1alpha1.DLQReplay) bool {
	return obj != nil && meta.IsStatusConditionTrue(obj.Status.Conditions, v1alpha1.ConditionReady)
}

func stalled(obj *v1alpha1.DLQReplay) bool {
	return meta.IsStatusConditionTrue(obj.Status.Conditions, v1alpha1.ConditionStalled)
}

// exactlyOnce compares everything: SQL happens exactly once, whatever crashes.
func exactlyOnce(clean, got *result, _ crashmatrix.Plan) error {
	if got.Late > 0 {
		return fmt.Errorf("%d requeues came after the operation was closed", got.Late)
	}
	if !reflect.DeepEqual(clean, got) {
		return fmt.Errorf("differs from the clean run:\n%s\n%s", describe(clean), describe(got))
	}
	return nil
}

func describe(r *result) string {
	progress := r.Progress
	return fmt.Sprintf("reason %s, outcome %s, requeues %v, received %v, entries %v, late %d, calls %v, progress %v",
		r.Reason, r.Outcome, r.Requeues, r.Received, r.Entries, r.Late, r.Calls, counts(&progress))
}

func counts(p *v1alpha1.ReplayProgress) (all []int64) {
	for _, n := range []*int64{p.Remaining, p.Requeued, p.Settled, p.Left, p.Parked, p.Unpublished, p.Gone, p.Changed,
		p.Refused, p.Delivered, p.Failing, p.DiedAgain, p.Waiting} {
		if n != nil {
			all = append(all, *n)
		}
	}
	return all
}
