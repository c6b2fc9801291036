package evidencematrix

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// outbox is the platform whose database all cells about webhooks read. No cell writes there: what would settle is a
// DLQReplay, and its controller does not run. Two relying parties are down, and one receives.
var outbox *world.Site

// The relying parties. acme has a webhook already, too.
var parties = map[string]int64{"acme": 42, "initech": 43, "globex": 44}

// newOutbox makes the platform of which webhooks are dead.
func newOutbox(ctx context.Context, w *world.World) (site *world.Site, err error) {
	if site, err = w.NewSite(ctx, "outbox", logi.Config{ManualDispatch: true, Workers: 1}); err != nil {
		return nil, err
	}
	for name, id := range parties {
		err = errors.Join(err, site.CreateApplication(ctx, id, name))
	}
	for _, dead := range []struct {
		party, lastError string
		attempts         int
	}{{"acme", "HTTP 503: no", 7}, {"acme", "HTTP 409: already processed", 3}, {"initech", "HTTP 503: no", 7}} {
		_, seedErr := site.SeedDead(ctx, parties[dead.party], 2, dead.lastError, dead.attempts)
		err = errors.Join(err, seedErr)
	}
	_, enqueueErr := site.Enqueue(ctx, parties["globex"], 1)
	_, dispatchErr := site.DispatchOnce(ctx)
	if err = errors.Join(err, enqueueErr, dispatchErr); err != nil {
		return nil, errors.Join(err, site.Close(ctx))
	}
	return site, nil
}

// relyingParties gives the Platform a database and whom to tell.
func (s *scene) relyingParties() error {
	secrets := map[string]map[string]string{"monitor": {"url": outbox.URLAs("playbook_monitor")}}
	for _, name := range of("acme", "initech") {
		secrets[name] = map[string]string{"url": s.url() + "/slack/services/T/B/" + name}
		s.spec.RelyingParties = append(s.spec.RelyingParties, v1alpha1.RelyingParty{
			ApplicationID: fmt.Sprint(parties[name]), Name: name,
			Notify: []v1alpha1.Channel{{Type: "Slack", SecretRef: v1alpha1.SecretReference{Name: name}}},
		})
	}
	s.spec.Database = &v1alpha1.PlatformDatabase{SecretRef: v1alpha1.SecretReference{Name: "nowhere"},
		ReadOnlySecretRef: &v1alpha1.SecretReference{Name: "monitor"}}
	return s.createSecrets(secrets)
}

// webhookWork is what was settled, and who was told. If nothing was done, it is what the Incident waits for.
func (s *scene) webhookWork(obj *v1alpha1.Incident) (string, error) {
	var list v1alpha1.DLQReplayList
	if err := kube.List(s.ctx, &list, client.InNamespace(s.name)); err != nil {
		return "", err
	}
	var did []string
	for _, replay := range list.Items {
		causes := fmt.Sprint(replay.Spec.Selector.Causes)
		did = append(did, strings.TrimSuffix("settles "+replay.Spec.ApplicationID+" "+causes, " [IdempotencyConflict]"))
	}
	if told := s.told(); told != "" {
		did = append(did, told)
	}
	c := meta.FindStatusCondition(obj.Status.Conditions, v1alpha1.StepConflictsSettled)
	switch {
	case len(did) > 0:
		return strings.Join(did, ", "), nil
	case c == nil || c.Status == metav1.ConditionFalse:
		return "-", nil
	}
	return c.Reason, nil
}

// told is what the relying parties read. Each may read of itself only.
func (s *scene) told() string {
	times := map[string]int{}
	for _, chat := range s.services.Chats() {
		to := chat.Channel[strings.LastIndex(chat.Channel, "/")+1:]
		for name, id := range parties {
			mentioned := strings.Contains(chat.Text, name) || strings.Contains(chat.Text, fmt.Sprintf("application %d", id))
			if mentioned != (name == to) {
				return to + " reads of " + name
			}
		}
		if strings.HasPrefix(chat.Text, "Resolved: ") {
			to += " that it is over"
		}
		times[to]++
	}
	switch {
	case len(times) == 0:
		return ""
	case len(times) == 2 && times["acme"] == 1 && times["initech"] == 1:
		return "tells both"
	}
	return fmt.Sprintf("tells %v", times)
}

// loseStatus wipes an Incident's status.
func (s *scene) loseStatus(name string) error {
	return s.rewrite(&v1alpha1.Incident{}, name, `{"status":null}`)
}
