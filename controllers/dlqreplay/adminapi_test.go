package dlqreplay_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

// nonces puts the step-up nonces of entries into the Secret that a replay by the admin API reads.
func (s *scene) nonces(nonces map[int64]string) {
	s.Helper()
	data := map[string]string{}
	for id, nonce := range nonces {
		data[fmt.Sprint(id)] = nonce
	}
	s.CreateSecret("nonces", data)
}

// nonce replaces one of them.
func (s *scene) nonce(id int64, nonce string) {
	s.Helper()
	s.Patch(&corev1.Secret{}, s.Name+"-nonces", fmt.Sprintf(`{"stringData":{"%d":%q}}`, id, nonce))
}

// viaAdminAPI is the spec of a replay of entries by the admin API.
func (s *scene) viaAdminAPI(ids ...int64) string {
	quoted := make([]string, len(ids))
	for i, id := range ids {
		quoted[i] = fmt.Sprintf("%q", fmt.Sprint(id))
	}
	return fmt.Sprintf("{via: AdminAPI, adminAPI: {nonceSecretRef: {name: %s-nonces}}, selector: {entryIDs: [%s]}}",
		s.Name, strings.Join(quoted, ", "))
}

func states(r *v1alpha1.DLQReplay) map[string]v1alpha1.AdminRetryState {
	states := map[string]v1alpha1.AdminRetryState{}
	for _, a := range r.Status.AdminRetries {
		states[a.EntryID] = a.State
	}
	return states
}

func TestTheAdminAPIRetriesEachEntryOnce(t *testing.T) {
	s := newScene(t, "adminapi", quick)
	ids := s.seed(5, "HTTP 503: down", 7)
	conflict := s.seed(1, "HTTP 409: already processed", 2)[0]
	s.nonces(map[int64]string{ids[0]: s.IssueNonce(ids[0]), ids[1]: s.IssueNonce(ids[1]), ids[2]: s.IssueNonce(ids[2])})
	r := s.AwaitReady(s.apply("r", s.viaAdminAPI(ids[2], ids[0], ids[1], conflict)))
	s.progress(r, map[string]int64{"requeued": 3, "delivered": 3, "settled": 1})
	for _, id := range ids[:3] {
		if states(r)[fmt.Sprint(id)] != v1alpha1.AdminRetryLanded {
			t.Errorf("entry %d: %s", id, stage.JSON(r.Status.AdminRetries))
		}
	}
	s.eachOnce(3)
	if got := s.Counts()[acme].Received; got != 3 {
		t.Errorf("the relying party received %d webhooks", got)
	}
	if got := s.count(`SELECT count(*) FROM playbook.replay_entries
		WHERE action = 'requeued' AND last_error = 'HTTP 503: down' AND attempts = 7`); got != 3 {
		t.Errorf("the ledger has the evidence of %d entries", got)
	}
}

func TestAMissingNonceIsWaitedFor(t *testing.T) {
	s := newScene(t, "nononce", quick)
	ids := s.seed(2, "HTTP 503: down", 7)
	s.nonces(map[int64]string{ids[0]: s.IssueNonce(ids[0])})
	name := s.apply("r", s.viaAdminAPI(ids...))
	r := s.AwaitReason(name, v1alpha1.ReasonSecretUnusable)
	if want := fmt.Sprintf("no nonce for entry %d", ids[1]); !strings.Contains(message(r), want) {
		t.Errorf("the message lacks %q: %s", want, message(r))
	}
	s.eachOnce(1)
	s.nonce(ids[1], s.IssueNonce(ids[1]))
	s.progress(s.AwaitReady(name), map[string]int64{"requeued": 2, "delivered": 2})
	s.eachOnce(2)
}

func TestARefusedNonceIsNotTriedAgainAndAFreshOneIs(t *testing.T) {
	s := newScene(t, "refused", quick)
	ids := s.seed(2, "HTTP 503: down", 7)
	s.nonces(map[int64]string{ids[0]: s.IssueNonce(ids[1])}) // of another entry
	name := s.apply("r", s.viaAdminAPI(ids[0]))
	r := s.AwaitStalled(name, v1alpha1.ReasonRefused)
	for _, part := range []string{"HTTP 403: nonce_invalid", "Nothing was changed"} {
		if !strings.Contains(message(r), part) {
			t.Errorf("the message lacks %q: %s", part, message(r))
		}
	}
	s.nonce(ids[0], s.IssueNonce(ids[0]))
	s.nudge(name)
	s.eachOnce(0)
	s.typed(s.command(r, "then: "))
	s.Await(name, "asked to go on", func(r *v1alpha1.DLQReplay) bool { return r.Status.LastHandledRequestedAt != "" })
	s.progress(s.AwaitReady(name), map[string]int64{"requeued": 1, "delivered": 1})

	// A nonce is good once.
	s.Exec(`UPDATE webhook_outbox_entries SET delivered_at = NULL, dlq_at = clock_timestamp() WHERE id = $1`, ids[0])
	r = s.AwaitStalled(s.apply("used", s.viaAdminAPI(ids[0])), v1alpha1.ReasonRefused)
	if !strings.Contains(message(r), "HTTP 403: nonce_used") {
		t.Errorf("the message is %q", message(r))
	}
	s.eachOnce(1)
}

// An admin API that limits did nothing, so the entry is retried later, and no person is asked for a fresh nonce.
func TestAnAdminAPIThatLimitsIsAskedAgainLater(t *testing.T) {
	s := newScene(t, "limited", quick)
	id := s.seed(1, "HTTP 503: down", 7)[0]
	s.nonces(map[int64]string{id: s.IssueNonce(id)})
	far, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int64
	through := httputil.NewSingleHostReverseProxy(far)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) <= 2 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		through.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.Patch(&v1alpha1.Platform{}, s.Name, fmt.Sprintf(`{"spec":{"url":%q}}`, server.URL))
	s.seenByManager(false)
	name := s.apply("r", s.viaAdminAPI(id))
	s.Await(name, "it waits as long as it was told", func(r *v1alpha1.DLQReplay) bool {
		return strings.Contains(message(r), "the admin API wants fewer requests")
	})
	s.progress(s.AwaitReady(name), map[string]int64{"requeued": 1, "delivered": 1})
	if n := calls.Load(); n != 3 {
		t.Errorf("the admin API was asked %d times, want 3", n)
	}
	s.eachOnce(1)
}

func TestTheRedButtonHoldsBetweenTwoCallsOfTheAdminAPI(t *testing.T) {
	s := newScene(t, "adminapi-off", quick)
	ids := s.seed(2, "HTTP 503: down", 7)
	s.nonces(map[int64]string{ids[0]: s.IssueNonce(ids[0]), ids[1]: s.IssueNonce(ids[1])})
	release := s.lock(`SELECT FROM webhook_outbox_entries WHERE id = $1 FOR UPDATE`, ids[0])
	name := s.apply("r", s.viaAdminAPI(ids...))
	stage.Eventually(t, "the admin API waits for the lock", func() bool {
		return s.count(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
			AND application_name = 'logi' AND wait_event_type = 'Lock'`) == 1
	})
	s.automation(v1alpha1.AutomationObserveOnly)
	s.seenByManager(true)
	release()
	s.AwaitReason(name, v1alpha1.ReasonAutomationOff)
	s.nudge(name)
	s.eachOnce(1)
	s.automation(v1alpha1.AutomationEnabled)
	s.progress(s.AwaitReady(name), map[string]int64{"requeued": 2, "delivered": 2})
	s.eachOnce(2)
}

// The admin API takes the call, and its nonce, and never answers.
func TestACallWhoseOutcomeCanNotBeToldIsNotRepeated(t *testing.T) {
	s := newScene(t, "unknown", quick)
	id := s.seed(1, "HTTP 503: down", 7)[0]
	s.nonces(map[int64]string{id: s.IssueNonce(id)})
	release := s.lock(`SELECT FROM webhook_outbox_entries WHERE id = $1 FOR UPDATE`, id)
	name := s.apply("r", s.viaAdminAPI(id))
	r := s.AwaitStalled(name, v1alpha1.ReasonOutcomeUnknown)
	release()
	if got := states(r)[fmt.Sprint(id)]; got != v1alpha1.AdminRetryUnknown ||
		!strings.Contains(message(r), "The call is not repeated") {
		t.Errorf("its state is %s: %s", got, message(r))
	}
	// With a fresh nonce a second call would land.
	s.nonce(id, s.IssueNonce(id))
	s.request(name, "please")
	s.Await(name, "stalled again", func(r *v1alpha1.DLQReplay) bool {
		return r.Status.LastHandledRequestedAt == "please" && stage.Ended(r) && reason(r) == v1alpha1.ReasonOutcomeUnknown
	})
	s.eachOnce(0)
}
