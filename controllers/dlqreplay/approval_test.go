package dlqreplay_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

// typed runs a command as a person would: in a shell, with kubectl in its PATH.
func (s *scene) typed(command string) {
	s.Helper()
	kubectl, err := shared.ControlPlane.Kubectl(s.Ctx)
	if err != nil {
		s.Fatal(err)
	}
	bin := s.TempDir()
	if err := os.Symlink(kubectl, filepath.Join(bin, "kubectl")); err != nil {
		s.Fatal(err)
	}
	cmd := exec.CommandContext(s.Ctx, "bash", "-c", command)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+shared.ControlPlane.Kubeconfig(), "PATH="+bin+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		s.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// command is what a replay's message says to type, after a phrase.
func (s *scene) command(r *v1alpha1.DLQReplay, phrase string) string {
	s.Helper()
	_, command, ok := strings.Cut(message(r), phrase)
	if !ok {
		s.Fatalf("no command follows %q in: %s", phrase, message(r))
	}
	return command
}

func TestAReplayWaitsForApprovalOfExactlyItsPlan(t *testing.T) {
	s := newBareScene(t, "approval", quick)
	ids := s.seed(60, "HTTP 503: down", 7)
	rules := "  requireApproval: [{kind: DLQReplay, step: Requeued, aboveEntries: 50}, {kind: DLQReplay, step: " +
		"CanaryDelivered, aboveEntries: 59}]\n"
	s.applyManifest(strings.Replace(s.Manifest(), "  relyingParties:", rules+"  relyingParties:", 1))
	name := s.apply("r", "{}")
	r := s.AwaitReason(name, v1alpha1.ReasonWaitingForApproval)
	digest := r.Status.Plan.Digest
	for _, part := range []string{"Requeued and CanaryDelivered waits for approval of 60 entries", digest} {
		if !strings.Contains(message(r), part) {
			t.Errorf("the message lacks %q: %s", part, message(r))
		}
	}

	s.Change(name, `{"spec":{"approvals":[{"step":"Requeued","by":"me","digest":"`+digest+`"},`+
		`{"step":"CanaryDelivered","by":"me","digest":"sha256:`+strings.Repeat("0", 64)+`"}]}}`)
	r = s.Await(name, "told about the wrong digest", func(r *v1alpha1.DLQReplay) bool {
		return strings.Contains(message(r), "the approval given for CanaryDelivered is for another digest")
	})
	s.nudge(name)
	if got := s.requeues(); got != 0 {
		t.Fatalf("%d entries were requeued without approval", got)
	}

	s.typed(s.command(r, "To approve: "))
	s.progress(s.AwaitReady(name), map[string]int64{"requeued": 60, "delivered": 60})
	if given := s.Get(name).Spec.Approvals; len(given) != 2 {
		t.Errorf("the approvals are %s", stage.JSON(given))
	}

	// A plan that is not above the limit goes ahead unasked.
	s.Exec(`UPDATE webhook_outbox_entries SET delivered_at = NULL, dlq_at = clock_timestamp() WHERE id = ANY ($1)`,
		ids[:50])
	s.progress(s.AwaitReady(s.apply("small", "{}")), map[string]int64{"requeued": 50, "delivered": 50})
}

func TestTheCommandToGoOnWorksAsTyped(t *testing.T) {
	s := newScene(t, "typed", manual)
	s.seed(3, "HTTP 503: down", 7)
	name := s.apply("r", "{canary: {timeoutSeconds: 1}}")
	r := s.AwaitStalled(name, v1alpha1.ReasonCanaryTimedOut)
	s.typed(s.command(r, "To try again: "))
	s.Await(name, "asked to go on", func(r *v1alpha1.DLQReplay) bool { return r.Status.LastHandledRequestedAt != "" })
	s.dispatchUntil(name, "complete", stage.Ended)
}
