package crashmatrix_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/dlqreplay"
	"github.com/1pass-dev/playbook-operator/controllers/incident"
	"github.com/1pass-dev/playbook-operator/hack/crashmatrix"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// receives is the application that receives all the time; the other one is down.
const receives = 43

// newDeliverySlot makes a platform with two relying parties. One has a channel, and two dead webhooks: it has the first
// already, and failed at the second.
func (s *stage) newDeliverySlot(ctx context.Context, name string) (_ *slot, err error) {
	o := &slot{stage: s, name: name}
	if o.site, err = s.NewSite(ctx, name, logi.Config{ManualDispatch: true, Workers: 1}); err != nil {
		return nil, err
	}
	if o.db, err = pgx.Connect(ctx, o.site.URLAs("")); err != nil {
		return nil, err
	}
	for id, name := range map[int64]string{application: "acme", receives: "initech"} {
		if err := o.site.CreateApplication(ctx, id, name); err != nil {
			return nil, err
		}
	}
	for lastError, attempts := range map[string]int{"HTTP 409: already processed": 3, "HTTP 503: no": 7} {
		if _, err := o.site.SeedDead(ctx, application, 1, lastError, attempts); err != nil {
			return nil, err
		}
	}
	if _, err := o.db.Exec(ctx, `CREATE TABLE logi_test.seed AS TABLE webhook_outbox_entries`); err != nil {
		return nil, err
	}
	ref := func(suffix string) v1alpha1.SecretReference {
		return v1alpha1.SecretReference{Name: name + "-" + suffix}
	}
	for _, object := range []client.Object{
		o.secret("database", map[string]string{"url": o.site.URLAs("playbook_operator")}),
		o.secret("monitor", map[string]string{"url": o.site.URLAs("playbook_monitor")}),
		o.secret("slack", map[string]string{"url": o.site.URL() + "/slack/services/T/B/S"}),
		&v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: name}, Spec: v1alpha1.PlatformSpec{
			URL: o.site.URL(), Probes: &v1alpha1.PlatformProbes{},
			Database: &v1alpha1.PlatformDatabase{SecretRef: ref("database"), ReadOnlySecretRef: new(ref("monitor"))},
			RelyingParties: []v1alpha1.RelyingParty{{ApplicationID: strconv.Itoa(application), Name: "acme",
				Notify: []v1alpha1.Channel{{Type: "Slack", SecretRef: ref("slack")}}}},
		}},
	} {
		if err := s.admin.Create(ctx, object); err != nil {
			return nil, fmt.Errorf("applying the Platform: %w", err)
		}
	}
	return o, nil
}

// open puts the platform back to where each run begins, and opens the Incident as a person does.
func (d *deaf) open(ctx context.Context) error {
	d.site.Forget()
	d.site.Services.Forget()
	if _, err := d.db.Exec(ctx, `DELETE FROM webhook_outbox_entries; DELETE FROM playbook.replay_entries;
		DELETE FROM playbook.operations; DELETE FROM logi_test.requeues;
		INSERT INTO webhook_outbox_entries TABLE logi_test.seed`); err != nil {
		return fmt.Errorf("putting the platform back: %w", err)
	}
	if err := d.deliver(ctx, receives); err != nil {
		return err
	}
	obj := &v1alpha1.Incident{
		ObjectMeta: metav1.ObjectMeta{Namespace: d.object.Namespace, Name: d.object.Name},
		Spec: v1alpha1.IncidentSpec{PlatformRef: v1alpha1.PlatformReference{Name: d.slot.name},
			Category: v1alpha1.CategoryWebhookDelivery},
	}
	if err := d.admin.Create(ctx, obj); err != nil {
		return fmt.Errorf("opening the incident: %w", err)
	}
	d.wait(obj.CreationTimestamp.Time)
	return nil
}

// deliver a fresh webhook to an application.
func (d *deaf) deliver(ctx context.Context, application int64) error {
	if _, err := d.site.Enqueue(ctx, application, 1); err != nil {
		return err
	}
	_, err := d.site.DispatchOnce(ctx)
	return err
}

// process is a manager: what ends, ends both.
type process struct {
	wire     *crashmatrix.Wire
	incident *incident.Reconciler
	replay   *dlqreplay.Reconciler
}

// start a manager as cmd/manager does, with everything that leaves it going over the wire.
func (d *deaf) start(wire *crashmatrix.Wire, v variant) (*process, error) {
	c, err := d.over(wire, d.write, v)
	if err != nil {
		return nil, err
	}
	transport := wire.Transport(&http.Transport{DisableKeepAlives: true}, told)
	connections := &access.Connections{Secrets: c, Transport: transport, Dial: wire.Dial}
	// What the DLQReplay does in the database is played by its own matrix.
	own := &access.Connections{Secrets: c, Transport: transport}
	d.mu.Lock()
	d.connections = append(d.connections, connections, own)
	d.mu.Unlock()
	cached, recorder := d.cached(c, false), &events.FakeRecorder{}
	return &process{wire,
		&incident.Reconciler{Client: cached, APIReader: c, Recorder: recorder, Connections: connections,
			Signals: d.signals, Now: d.now},
		&dlqreplay.Reconciler{Client: cached, APIReader: c, Recorder: recorder, Connections: own},
	}, nil
}

// childName is what follows the Incident's name in that of its DLQReplay.
var childName = regexp.MustCompile(`-42-[0-9a-z]+`)

// toldState is what a write says of a relying party that is told.
var toldState = regexp.MustCompile(`"state":"(Telling|Accepted|Over)"`)

// write names a write to the API server; reads are no effects. One to the Platform is named after what it says, since
// it depends on that what may follow from it.
func (d *deaf) write(request *http.Request) string {
	what := childName.ReplaceAllString(d.emergency.write(request), "")
	if what != "PATCH /platforms/status" {
		return what
	}
	text, err := io.ReadAll(request.Body)
	if err != nil {
		panic(err) // it is in memory
	}
	request.Body = io.NopCloser(bytes.NewReader(text))
	if said := toldState.FindStringSubmatch(string(text)); said != nil {
		what += " " + said[1]
	}
	return what
}

// replays of the slot's Platform.
func (d *deaf) replays(ctx context.Context) ([]v1alpha1.DLQReplay, error) {
	var list v1alpha1.DLQReplayList
	if err := d.admin.List(ctx, &list, client.InNamespace(world.Namespace)); err != nil {
		return nil, fmt.Errorf("reading what was made: %w", err)
	}
	return slices.DeleteFunc(list.Items, func(r v1alpha1.DLQReplay) bool {
		return r.Spec.PlatformRef.Name != d.slot.name
	}), nil
}

// look reads what the run has left behind so far.
func (d *deaf) look(ctx context.Context, obj *v1alpha1.Incident) error {
	made, err := d.replays(ctx)
	if err != nil {
		return err
	}
	d.got.Made = len(made)
	d.got.Told, d.got.Over = 0, 0
	for _, chat := range d.site.Services.Chats() {
		if strings.HasPrefix(chat.Text, "Resolved: ") {
			d.got.Over++
		} else {
			d.got.Told++
		}
		d.got.Foreign = d.got.Foreign || strings.Contains(chat.Text, "initech") ||
			strings.Contains(chat.Text, "application 43")
	}
	p := &v1alpha1.Platform{}
	if err := d.admin.Get(ctx, client.ObjectKey{Namespace: world.Namespace, Name: d.slot.name}, p); err != nil {
		return fmt.Errorf("reading the Platform: %w", err)
	}
	d.got.Known = ""
	for _, t := range p.Status.Told {
		d.got.Known += t.ApplicationID + " " + string(t.Cause) + " " + string(t.State)
	}
	// From the pass on after which the acceptance is known, nobody is told again.
	if d.known > 0 && d.got.Told > d.known {
		d.got.Again = true
	}
	if strings.HasSuffix(d.got.Known, string(v1alpha1.ToldAccepted)) && d.known == 0 {
		d.known = d.got.Told
	}
	d.got.Conditions = map[string]string{}
	for _, c := range obj.Status.Conditions {
		d.got.Conditions[c.Type] = string(c.Status) + " " + c.Reason
	}
	return d.ledger(ctx)
}

// ledger reads what the DLQReplay did.
func (d *deaf) ledger(ctx context.Context) error {
	return d.db.QueryRow(ctx, `SELECT (SELECT count(*) FROM playbook.operations),
			(SELECT count(*) FROM playbook.replay_entries WHERE action = 'settled'),
			(SELECT count(*) FROM playbook.replay_entries WHERE action <> 'settled'),
			(SELECT count(*) FROM logi_test.requeues),
			(SELECT count(*) FROM webhook_outbox_entries WHERE dlq_at IS NOT NULL AND delivered_at IS NULL)`).Scan(
		&d.got.Operations, &d.got.Settled, &d.got.Else, &d.got.Requeued, &d.got.Dead)
}

// forgetReplays removes what the run made, and what the Platform remembers of it.
func (d *deaf) forgetReplays(ctx context.Context) error {
	made, err := d.replays(ctx)
	for i := range made {
		err = errors.Join(err,
			client.IgnoreNotFound(d.admin.Delete(ctx, &made[i])),
			client.IgnoreNotFound(d.admin.Patch(ctx, &made[i], client.RawPatch(types.MergePatchType,
				[]byte(`{"metadata":{"finalizers":null}}`)))))
	}
	p := &v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: d.slot.name}}
	return errors.Join(err, d.forget(ctx), d.admin.Status().Patch(ctx, p, client.RawPatch(types.MergePatchType,
		[]byte(`{"status":{"told":null,"replays":null}}`))))
}
