package world_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

// endKey reports that the application's key leaked. The Incident ends it. The relying party accepts the event, and has
// refused webhooks before.
func (s *trial) endKey(ctx context.Context) error {
	key, err := s.site.StealKey(ctx, s.application)
	if err != nil {
		return err
	}
	leak := &v1alpha1.Incident{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "leak"},
		Spec: v1alpha1.IncidentSpec{
			PlatformRef: v1alpha1.PlatformReference{Name: s.site.Name}, Category: v1alpha1.CategoryKeyExposure,
			Affected: &v1alpha1.IncidentAffected{ApplicationIDs: []string{fmt.Sprint(s.application)}, Kid: key.Kid()},
		},
	}
	if err := kube.Create(ctx, leak); err != nil {
		return err
	}
	read := func() bool { return kube.Get(ctx, client.ObjectKeyFromObject(leak), leak) == nil }
	if s.without.verb == "create" && s.without.resource == "keycompromises" {
		// Whoever looks at the Incident reads what to do. On its row, that nobody was paged comes first.
		s.unsaid = s.await(ctx, "the Incident to say that the key is not ended", func() bool {
			if !read() {
				return false
			}
			c := meta.FindStatusCondition(leak.Status.Conditions, v1alpha1.StepKeyCompromised)
			return c != nil && strings.Contains(c.Message, "the key is not ended, since the manager may not create "+
				"KeyCompromises. Apply config/rbac again, or a KeyCompromise of application "+fmt.Sprint(s.application))
		})
		return errors.New("the manager may not create KeyCompromises")
	}
	if err := s.await(ctx, "the Incident to make a KeyCompromise", func() bool {
		return read() && leak.Status.KeyCompromise != nil && leak.Status.KeyCompromise.UID != ""
	}); err != nil {
		return err
	}
	compromise := &v1alpha1.KeyCompromise{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace,
		Name: leak.Status.KeyCompromise.Name}}
	await := func(what string, holds func() bool) error {
		return s.await(ctx, what, func() bool {
			return kube.Get(ctx, client.ObjectKeyFromObject(compromise), compromise) == nil && holds()
		})
	}
	if err := await("the key to be revoked", func() bool { return compromise.Status.SuccessorKid != "" }); err != nil {
		return err
	}
	if err := s.await(ctx, "the Incident to see that", func() bool {
		return read() && meta.IsStatusConditionTrue(leak.Status.Conditions, v1alpha1.StepKeyCompromised)
	}); err != nil {
		return err
	}
	owner, err := pgx.Connect(ctx, s.site.URLAs(""))
	if err != nil {
		return err
	}
	defer owner.Close(ctx)
	if _, err := owner.Exec(ctx, `UPDATE webhook_outbox_entries SET attempts = 1,
			delivered_at = CASE WHEN event_type = 'webhook_key.compromised' THEN clock_timestamp() END,
			dlq_at = CASE WHEN event_type <> 'webhook_key.compromised' THEN clock_timestamp() END,
			last_error = CASE WHEN event_type <> 'webhook_key.compromised' THEN 'HTTP 401: unknown kid' END
		WHERE oauth_application_id = $1`, s.application); err != nil {
		return err
	}
	return await("the refused webhooks to get a replay", func() bool { return compromise.Status.ReplayRef != nil })
}

func (s *trial) remove(ctx context.Context) error {
	if err := kube.Delete(ctx, s.replay); err != nil {
		return err
	}
	return s.await(ctx, "the replay to be gone", func() bool {
		return apierrors.IsNotFound(kube.Get(ctx, client.ObjectKeyFromObject(s.replay), s.replay))
	})
}

// fall lets the platform fail after its probes have seen it work. An Incident opens, responds, and is deleted. The
// trials share a site, so a proxy in front of it fails instead.
func (s *trial) fall(ctx context.Context) error {
	behind, err := url.Parse(s.site.URL())
	if err != nil {
		return err
	}
	var down atomic.Bool
	proxy := httputil.NewSingleHostReverseProxy(behind)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	defer front.Close()
	platform := &v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: s.site.Name}}
	patch := client.RawPatch("application/merge-patch+json", fmt.Appendf(nil,
		`{"spec": {"url": %q, "autoOpen": ["Outage"], "probes": {"intervalSeconds": 1, "failures": 1}}}`, front.URL))
	if err := kube.Patch(ctx, platform, patch); err != nil {
		return err
	}
	if err := s.await(ctx, "the platform to be seen well", func() bool {
		err := kube.Get(ctx, client.ObjectKeyFromObject(platform), platform)
		return err == nil && meta.IsStatusConditionTrue(platform.Status.Conditions, v1alpha1.ConditionUpAnswers)
	}); err != nil {
		return err
	}
	down.Store(true)
	var list v1alpha1.IncidentList
	if err := s.await(ctx, "an Incident that is responded to", func() bool {
		if kube.List(ctx, &list, client.InNamespace(s.namespace)) != nil {
			return false
		}
		list.Items = slices.DeleteFunc(list.Items, func(i v1alpha1.Incident) bool {
			return i.Spec.Category != v1alpha1.CategoryOutage
		})
		if len(list.Items) != 1 {
			return false
		}
		c := meta.FindStatusCondition(list.Items[0].Status.Conditions, v1alpha1.StepRolledBack)
		return c != nil && slices.Contains([]string{v1alpha1.ReasonNoSuspect, v1alpha1.ReasonRollbackWithheld}, c.Reason)
	}); err != nil {
		return err
	}
	incident, uid := &list.Items[0], list.Items[0].UID
	// Of events that differ in no more than their text, the recorder makes a series.
	if err := s.await(ctx, "an event that counts two", func() bool {
		var events eventsv1.EventList
		return kube.List(ctx, &events, client.InNamespace(s.namespace)) == nil &&
			slices.ContainsFunc(events.Items, func(e eventsv1.Event) bool {
				return e.Regarding.UID == uid && e.Series != nil && e.Series.Count > 1
			})
	}); err != nil {
		return err
	}
	if err := kube.Delete(ctx, incident); err != nil {
		return err
	}
	return s.await(ctx, "the Incident to go", func() bool {
		// While the platform is down, another Incident opens in its place.
		return apierrors.IsNotFound(kube.Get(ctx, client.ObjectKeyFromObject(incident), incident)) || incident.UID != uid
	})
}
