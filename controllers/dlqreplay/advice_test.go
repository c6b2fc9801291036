package dlqreplay_test

import (
	"regexp"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

const whom = "On call at acme: identity team at acme, +1 555 0100"

func TestWhereTheRelyingPartyFailsItIsSaidWhomToCall(t *testing.T) {
	for name, c := range map[string]struct{ spec, reason string }{
		"canary":  {"{canary: {entries: 5}}", v1alpha1.ReasonCanaryFailed},
		"breaker": {"{canary: {entries: 0}, maxInFlight: 30}", v1alpha1.ReasonBreakerOpen},
		"delivery": {"{canary: {entries: 0}, breaker: {maxFailurePercent: 100}, deliveryTimeoutSeconds: 1}",
			v1alpha1.ReasonDeliveryTimedOut},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, "whom-"+name, manual) // tries again after an hour
			s.seed(60, "HTTP 502: Bad Gateway", 7)
			s.SetFault(acme, logi.Fault{Status: 503})
			r := s.dispatchUntil(s.apply("r", c.spec), "the end", stage.Ended)
			if reason(r) != c.reason || !strings.Contains(message(r), whom) {
				t.Errorf("%s lacks %q: %s", reason(r), whom, message(r))
			}
		})
	}
}

func TestWhereTheRelyingPartyIsSlowItsPaceIsSaid(t *testing.T) {
	s := newScene(t, "slow", manual)
	s.seed(200, "HTTP 503: down", 7)
	name := s.apply("r", "{canary: {entries: 0}, maxInFlight: 10}")
	s.Await(name, "that none is taken is said", func(r *v1alpha1.DLQReplay) bool {
		return strings.Contains(message(r), "maxInFlight is full: 10 entries are with the dispatcher, and acme took none in "+
			"the last minute")
	})
	pace := regexp.MustCompile(`maxInFlight is full: 10 entries are with the dispatcher, and ` +
		`acme takes about [0-9.]+ a second; ` +
		`the rest takes about [0-9]+ (s|min)`)
	s.dispatchUntil(name, "the pace is said", func(r *v1alpha1.DLQReplay) bool { return pace.MatchString(message(r)) })
}

func TestTheCommandStandsOnTheStepToApprove(t *testing.T) {
	s := newBareScene(t, "to-approve", quick)
	s.seed(20, "HTTP 503: down", 7)
	rules := "  requireApproval: [{kind: DLQReplay, step: Requeued}]\n"
	s.applyManifest(strings.Replace(s.Manifest(), "  relyingParties:", rules+"  relyingParties:", 1))
	name := s.apply("r", "{}")
	r := s.AwaitReason(name, v1alpha1.ReasonWaitingForApproval)
	if c := stage.Condition(r, v1alpha1.StepRequeued); c.Status != metav1.ConditionUnknown ||
		c.Reason != v1alpha1.ReasonWaitingForApproval || !strings.Contains(c.Message, "To approve: kubectl ") {
		t.Errorf("%s: %s", c.Reason, c.Message)
	}
	s.SetFault(acme, logi.Fault{DelayMilliseconds: 1000})
	s.typed(s.command(r, "To approve: "))
	r = s.AwaitReason(name, v1alpha1.ReasonCanaryInFlight)
	if c := stage.Condition(r, v1alpha1.StepRequeued); c.Reason != v1alpha1.ReasonPending {
		t.Errorf("approved, it says %s: %s", c.Reason, c.Message)
	}
	s.SetFault(acme, logi.Fault{})
	s.progress(s.AwaitReady(name), map[string]int64{"requeued": 20, "delivered": 20})
}

func TestARefusedRetryDoesNotDenyTheOnesBefore(t *testing.T) {
	s := newScene(t, "refused-second", quick)
	ids := s.seed(2, "HTTP 503: down", 7)
	s.nonces(map[int64]string{ids[0]: s.IssueNonce(ids[0]), ids[1]: s.IssueNonce(ids[0])})
	r := s.AwaitStalled(s.apply("r", s.viaAdminAPI(ids...)), v1alpha1.ReasonRefused)
	if strings.Contains(message(r), "Nothing was changed") ||
		!strings.Contains(message(r), "That entry was not changed; of the 2 planned, 1 was dealt with before") {
		t.Errorf("the message is %q", message(r))
	}
}

func TestAPlatformThatIsNotThereIsToldFromThoseThatAre(t *testing.T) {
	// Other tests have Platforms here, too, and the message names the first ten.
	s := newScene(t, "a-there-is", manual)
	typo := s.manifest("r", "{}")
	if err := unstructured.SetNestedField(typo.Object, "thereis", "spec", "platformRef", "name"); err != nil {
		t.Fatal(err)
	}
	r := s.AwaitReason(s.Create(typo), v1alpha1.ReasonPlatformNotFound)
	if !strings.Contains(message(r), "another. There are: ") || !strings.Contains(message(r), "a-there-is") {
		t.Errorf("the message is %q", message(r))
	}
}
