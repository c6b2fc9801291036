package keycompromise_test

import (
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

// newJobs makes a scene whose platform runs commands as jobs at Render, in a real shell.
func newJobs(t *testing.T, name string) *shell {
	t.Helper()
	s := &shell{scene: newScene(t, name, logi.Config{JWKSMaxAge: time.Second}), dir: t.TempDir()}
	bundle, err := s.InstallBundle(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	s.Render().HandleJobs(func(_, startCommand string) error { return exec.Command("/bin/sh", "-c", startCommand).Run() })
	secret := s.CreateSecret("render", map[string]string{"apiKey": s.Render().Key()})
	s.Patch(&v1alpha1.Platform{}, name, fmt.Sprintf(`{"spec":{"database":{"signingSecretRef":null},
		"render":{"secretRef":{"name":%q},"url":"%s%s","services":[{"name":"web","serviceID":%q}]},
		"commands":{"type":"RenderJob","service":"web","directory":%q,"bundle":%q}}}`,
		secret, s.URL(), logi.RenderPath, logi.WebService, s.dir, bundle))
	return s
}

func TestAJobAtRenderEndsTheKey(t *testing.T) {
	s := newJobs(t, "job")
	k := s.AwaitReady(s.apply("key", s.kid(), viaCommand))
	if k.Status.Command.JobID == "" || k.Status.SuccessorKid != s.kid() {
		t.Errorf("%s", stage.JSON(k.Status))
	}
	s.runs(1)
	if jobs := s.Render().Counts().Jobs; jobs != 1 {
		t.Errorf("%d jobs", jobs)
	}
}

func TestAJobWhoseAnswerWasLostIsRecognised(t *testing.T) {
	s := newJobs(t, "job-lost")
	s.SetRakeFault(logi.RakeFault{Hang: 3 * time.Second})
	s.Render().SetFaults(logi.RenderFault{Method: http.MethodPost, Path: "/jobs", AfterEffect: true, Refuse: true,
		Times: 1})
	name := s.apply("key", s.kid(), viaCommand)
	s.Await(name, "the job is recognised", func(k *v1alpha1.KeyCompromise) bool {
		return k.Status.Command != nil &&
			k.Status.Command.JobID != ""
	})
	s.AwaitReady(name)
	s.runs(1)
}

func TestAJobThatFailedStallsAndIsRunAgainOnRequest(t *testing.T) {
	s := newJobs(t, "job-fails")
	s.SetRakeFault(logi.RakeFault{Fail: true})
	name := s.apply("key", s.kid(), viaCommand)
	k := s.AwaitStalled(name, v1alpha1.ReasonCommandFailed)
	if message := stage.Condition(k, v1alpha1.StepRevoked).Message; !strings.Contains(message, "Failed") ||
		!strings.Contains(message, "Render's logs") {
		t.Error(message)
	}
	s.SetRakeFault(logi.RakeFault{})
	s.request(name, "again")
	s.AwaitReady(name)
	s.runs(2)
}

func TestAJobThatRenderRefusesCertainlyWasNotStarted(t *testing.T) {
	s := newJobs(t, "job-refused")
	s.Patch(&corev1.Secret{}, s.Name+"-render", `{"stringData":{"apiKey":"rnd_planted-wrong-key"}}`)
	name := s.apply("key", s.kid(), viaCommand)
	k := s.AwaitStalled(name, v1alpha1.ReasonRefused)
	if message := stage.Condition(k, v1alpha1.StepRevoked).Message; !strings.Contains(message, "HTTP 401") ||
		strings.Contains(message, "planted") || k.Status.Command != nil {
		t.Errorf("%s", stage.JSON(k.Status))
	}
	s.Patch(&corev1.Secret{}, s.Name+"-render",
		stage.JSON(map[string]any{"stringData": map[string]string{"apiKey": s.Render().Key()}}))
	// One too many is not one too few: it goes on by itself.
	s.Render().SetFaults(logi.RenderFault{Method: http.MethodPost, Path: "/jobs", Status: http.StatusTooManyRequests,
		Header: map[string]string{"Retry-After": "1"}, Times: 2})
	s.request(name, "mended")
	s.AwaitReady(name)
	s.runs(1)
}

func TestAJobThatMayHaveBeenStartedIsNotStartedAgain(t *testing.T) {
	s := newJobs(t, "job-unknown")
	s.Patch(&v1alpha1.Platform{}, s.Name, `{"spec":{"commands":{"timeoutSeconds":1}}}`)
	s.Render().SetFaults(logi.RenderFault{Method: http.MethodPost, Path: "/jobs", Status: http.StatusBadGateway, Times: 1})
	name := s.apply("key", s.kid(), viaCommand)
	s.AwaitStalled(name, v1alpha1.ReasonOutcomeUnknown)
	s.request(name, "again")
	s.AwaitStalled(name, v1alpha1.ReasonOutcomeUnknown)
	s.runs(0)
}

func TestAJobOfAnObjectThatWasDeletedIsWaitedFor(t *testing.T) {
	s := newJobs(t, "job-deleted")
	kid := s.kid()
	s.SetRakeFault(logi.RakeFault{Hang: 6 * time.Second})
	first := s.apply("first", kid, viaCommand)
	s.Await(first, "its job runs", func(k *v1alpha1.KeyCompromise) bool {
		return k.Status.Command != nil &&
			k.Status.Command.JobID != ""
	})
	if err := shared.Kube.Delete(s.Ctx, s.Get(first)); err != nil {
		t.Fatal(err)
	}
	s.AwaitReady(s.apply("second", kid, viaCommand))
	s.runs(1)
}
