package keycompromise_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/stage"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// forgetDatabase takes the database out of the Platform, and waits until the manager has seen that.
func (s *scene) forgetDatabase() {
	s.Helper()
	s.Patch(&v1alpha1.Platform{}, s.Name, `{"spec":{"database":null}}`)
	stage.Eventually(s.T, "the manager knows of no database", func() bool {
		p := &v1alpha1.Platform{}
		if err := shared.Kube.Get(s.Ctx, client.ObjectKey{Namespace: world.Namespace, Name: s.Name}, p); err != nil {
			s.Fatal(err)
		}
		c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
		return c != nil && c.Status == metav1.ConditionTrue && c.ObservedGeneration == p.Generation
	})
}

// newBareShell makes a shell whose Platform has no database.
func newBareShell(t *testing.T, name string, config logi.Config) *shell {
	t.Helper()
	s := newShell(t, name, config)
	s.forgetDatabase()
	return s
}

// byHand runs the rake as a person does who logs in.
func (s *shell) byHand(kid string) {
	s.Helper()
	if printed, ok := s.Rake(s.Ctx, s.dir, []string{"exec", "rails", "webhooks:compromise[42," + kid + "]",
		"RAILS_ENV=production"}, 0); !ok {
		s.Fatal(printed)
	}
}

// nothingRecorded checks that the ledger, which the Platform does not name, was left alone.
func (s *scene) nothingRecorded() {
	s.Helper()
	if n := stage.Query[int64](s.Scene, `SELECT count(*) FROM playbook.operations`); n != 0 {
		s.Errorf("the ledger has %d operations", n)
	}
}

func TestWithoutADatabaseJWKSTellsWhatTheRakeDid(t *testing.T) {
	s := newBareShell(t, "bare", logi.Config{JWKSMaxAge: 2 * time.Second})
	kid := s.kid()
	k := s.AwaitReady(s.apply("key", kid, viaCommand))
	want := map[string]metav1.ConditionStatus{
		v1alpha1.StepRevoked: metav1.ConditionTrue, v1alpha1.StepReSigned: metav1.ConditionFalse,
		v1alpha1.StepPublished:            metav1.ConditionTrue,
		v1alpha1.StepRelyingPartyNotified: metav1.ConditionFalse, v1alpha1.StepVerified: metav1.ConditionFalse,
		v1alpha1.StepCachesExpired: metav1.ConditionTrue,
	}
	for _, step := range stepNames {
		c := stage.Condition(k, step)
		if c.Status != want[step] {
			t.Errorf("%s is %s, %s: %s", step, c.Status, c.Reason, c.Message)
		}
		// What nobody looked at is not said to have happened.
		if c.Status == metav1.ConditionFalse && (c.Reason != v1alpha1.ReasonNotNeeded ||
			!strings.Contains(c.Message, "nobody looked") || !strings.Contains(c.Message, "spec.database")) {
			t.Errorf("%s is %s, %s: %s", step, c.Status, c.Reason, c.Message)
		}
	}
	if message := stage.Condition(k, v1alpha1.StepRelyingPartyNotified).Message; !strings.Contains(message, "acme") ||
		!strings.Contains(message, "+1 555 0100") {
		t.Error(message)
	}
	st := k.Status
	if st.SuccessorKid != s.kid() || st.ResignedEntries != nil || st.ClaimedEntries != nil || st.EventEntryID != "" ||
		st.TimeToRevokeSeconds == nil ||
		st.Command == nil || *st.Command.ExitStatus != 0 || !slices.Contains(st.JWKS.KidsBefore, kid) {
		t.Errorf("%s", stage.JSON(st))
	}
	// When it happened only the database knows: what the object says must not be earlier, nor the exposure end too soon.
	revoked := stage.Query[time.Time](s.Scene, `SELECT revoked_at FROM webhook_signing_keys WHERE kid = $1`, kid)
	if st.RevokedAt.Time.Before(revoked) || st.ExposedUntil.Time.Before(st.RevokedAt.Add(2*time.Second)) ||
		time.Now().Before(st.ExposedUntil.Time) {
		t.Errorf("revoked at %s, and the object says %s, exposed until %s", revoked, st.RevokedAt, st.ExposedUntil)
	}
	s.runs(1)
	s.nothingRecorded()
	s.Delete(k.Name)
}

func TestWithoutADatabaseAJobAtRenderIsRecognisedAndRunOnce(t *testing.T) {
	s := newJobs(t, "bare-job")
	s.forgetDatabase()
	s.SetRakeFault(logi.RakeFault{Fail: true})
	s.Render().SetFaults(logi.RenderFault{Method: http.MethodPost, Path: "/jobs", AfterEffect: true, Refuse: true,
		Times: 1})
	name := s.apply("key", s.kid(), viaCommand)
	k := s.AwaitStalled(name, v1alpha1.ReasonCommandFailed)
	if message := stage.Condition(k, v1alpha1.StepRevoked).Message; !strings.Contains(message, "JWKS still has") ||
		!strings.Contains(message, "Render's logs") || k.Status.Command.JobID == "" {
		t.Errorf("%s", stage.JSON(k.Status))
	}
	s.SetRakeFault(logi.RakeFault{})
	s.request(name, "again")
	k = s.AwaitReady(name)
	if k.Status.SuccessorKid != s.kid() {
		t.Errorf("%s", stage.JSON(k.Status))
	}
	s.runs(2)
	s.nothingRecorded()
}

func TestWithoutADatabaseARakeWhoseReplyWasLostIsNotRunAgain(t *testing.T) {
	newBareShell(t, "bare-lost", logi.Config{JWKSMaxAge: time.Second}).loseReply()
}

func TestWithoutADatabaseARakeThatFailedIsRunAgainOnRequestOnly(t *testing.T) {
	s := newBareShell(t, "bare-fails", logi.Config{JWKSMaxAge: time.Second})
	kid := s.kid()
	s.SetRakeFault(logi.RakeFault{Fail: true, Print: "secret-words\n"})
	name := s.apply("key", kid, viaCommand)
	k := s.AwaitStalled(name, v1alpha1.ReasonCommandFailed)
	if message := stage.Condition(k, v1alpha1.StepRevoked).Message; !strings.Contains(message, "exit status 1 ") ||
		!strings.Contains(message, "JWKS still has "+kid) ||
		!strings.Contains(message, "was not kept") || strings.Contains(stage.JSON(k), "secret-words") {
		t.Error(message)
	}
	if k.Status.RevokedAt != nil || k.Status.ExposedUntil != nil {
		t.Errorf("%s", stage.JSON(k.Status))
	}
	s.runs(1)
	s.SetRakeFault(logi.RakeFault{})
	s.request(name, "again")
	s.AwaitReady(name)
	s.runs(2)
}

// As after a manager that wrote its intent and was killed: nobody knows whether it sent the command.
func TestWithoutADatabaseAnIntentThatIsFoundIsOnlyObserved(t *testing.T) {
	s := newBareShell(t, "bare-intent", logi.Config{JWKSMaxAge: time.Second})
	kid := s.kid()
	s.Patch(&v1alpha1.Platform{}, s.Name, `{"spec":{"commands":{"timeoutSeconds":1}}}`)
	name, _ := s.intended(kid)
	k := s.Get(name)
	if !slices.Contains(k.Status.JWKS.KidsBefore, kid) {
		t.Fatalf("%s", stage.JSON(k.Status))
	}
	s.Patch(&v1alpha1.KeyCompromise{}, name, `{"spec":{"publishTimeoutSeconds":1}}`)
	s.request(name, "go")
	k = s.AwaitStalled(name, v1alpha1.ReasonOutcomeUnknown)
	if message := stage.Condition(k, v1alpha1.StepRevoked).Message; !strings.Contains(message, "JWKS still has") ||
		!strings.Contains(message, "not run again") {
		t.Error(message)
	}
	s.runs(0)
	// Nor is it by another object.
	other := s.apply("other", kid, viaCommand)
	k = s.AwaitReason(other, v1alpha1.ReasonWaitingForTwin)
	if message := stage.Condition(k, v1alpha1.StepRevoked).Message; !strings.Contains(message, name) ||
		!strings.Contains(message, v1alpha1.ReasonOutcomeUnknown) {
		t.Error(message)
	}
	// A ledger that comes later knows nothing of it.
	if err := s.Apply(s.Ctx); err != nil {
		t.Fatal(err)
	}
	stage.Eventually(t, "the manager knows of the database", func() bool {
		p := &v1alpha1.Platform{}
		if err := shared.Kube.Get(s.Ctx, client.ObjectKey{Namespace: world.Namespace, Name: s.Name}, p); err != nil {
			t.Fatal(err)
		}
		return meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionDatabaseReachable)
	})
	generation := s.patched(other, `{"spec":{"publishTimeoutSeconds":601}}`)
	k = s.Await(other, "another look",
		func(k *v1alpha1.KeyCompromise) bool { return k.Status.ObservedGeneration == generation })
	if c := stage.Condition(k, v1alpha1.ConditionReady); c.Reason != v1alpha1.ReasonWaitingForTwin {
		t.Errorf("%s: %s", c.Reason, c.Message)
	}
	s.runs(0)
	s.Patch(&v1alpha1.KeyCompromise{}, name, `{"spec":{"publishTimeoutSeconds":600}}`)
	s.byHand(kid)
	s.request(name, "by hand")
	k = s.AwaitReady(name)
	if k.Status.SuccessorKid != s.kid() {
		t.Errorf("%s", stage.JSON(k.Status))
	}
	k = s.AwaitReady(other)
	if c := stage.Condition(k, v1alpha1.ConditionReady); c.Reason != v1alpha1.ReasonAlreadyDone ||
		!strings.Contains(c.Message, name) {
		t.Errorf("%s: %s", c.Reason, c.Message)
	}
	s.runs(1)
	s.nothingRecorded()
}

func TestWithoutADatabaseJWKSThatIsStaleForEverStalls(t *testing.T) {
	s := newBareShell(t, "bare-stale", logi.Config{JWKSMaxAge: time.Second})
	kid := s.kid()
	if err := s.StaleReplica(s.Ctx, 0); err != nil {
		t.Fatal(err)
	}
	name := s.apply("key", kid, viaCommand+"\npublishTimeoutSeconds: 3")
	k := s.AwaitStalled(name, v1alpha1.ReasonOutcomeUnknown)
	if message := stage.Condition(k, v1alpha1.StepRevoked).Message; !strings.Contains(message, "exit status 0 ") ||
		!strings.Contains(message, "JWKS still has "+kid) || !strings.Contains(message, v1alpha1.AnnotationRequestedAt) {
		t.Error(message)
	}
	if k.Status.RevokedAt != nil || k.Status.ExposedUntil != nil {
		t.Errorf("%s", stage.JSON(k.Status))
	}
	s.request(name, "again")
	s.AwaitStalled(name, v1alpha1.ReasonOutcomeUnknown)
	s.MendReplica(0)
	s.Patch(&v1alpha1.KeyCompromise{}, name, `{"spec":{"publishTimeoutSeconds":600}}`)
	s.request(name, "mended")
	k = s.AwaitReady(name)
	if st := k.Status; st.SuccessorKid != s.kid() || st.RevokedAt.Before(st.JWKS.OldKidSeenAt) ||
		st.ExposedUntil.Before(st.JWKS.OldKidKeptUntil) {
		t.Errorf("%s", stage.JSON(st))
	}
	s.runs(1)
}

func TestWithoutADatabaseTheRakeOfOneKeyIsRunByOneObject(t *testing.T) {
	s := newBareShell(t, "bare-twins", logi.Config{JWKSMaxAge: time.Second})
	kid := s.kid()
	s.SetRakeFault(logi.RakeFault{Hang: time.Second})
	var names []string
	for i := range 6 {
		names = append(names, s.apply(fmt.Sprint("key-", i), kid, viaCommand))
	}
	var done []string
	for _, name := range names {
		if k := s.AwaitReady(name); stage.Condition(k, v1alpha1.ConditionReady).Reason == v1alpha1.ReasonSucceeded {
			done = append(done, name)
		}
	}
	if len(done) != 1 {
		t.Errorf("%v stage.Ended the key", done)
	}
	s.runs(1)
	// The objects are the memory. Without them JWKS still says that there is nothing to end.
	for _, name := range names {
		s.Delete(name)
	}
	k := s.AwaitStalled(s.apply("late", kid, viaCommand), v1alpha1.ReasonUnknownKid)
	if message := stage.Condition(k, v1alpha1.StepRevoked).Message; !strings.Contains(message, "was not run") ||
		!strings.Contains(message, s.kid()) {
		t.Error(message)
	}
	s.runs(1)
}

func TestWithoutADatabaseTwoKeysAreEndedOneAfterTheOther(t *testing.T) {
	s := newBareShell(t, "bare-two", logi.Config{JWKSMaxAge: time.Second})
	if err := s.CreateApplication(s.Ctx, acme+1, "initech"); err != nil {
		t.Fatal(err)
	}
	active := func(application int) string {
		return stage.Query[string](s.Scene,
			`SELECT kid FROM webhook_signing_keys WHERE oauth_application_id = $1 AND status = 'active'`, application)
	}
	s.SetRakeFault(logi.RakeFault{Hang: time.Second})
	first, second := s.apply("first", active(acme), viaCommand), s.apply("second", active(acme+1),
		viaCommand+"\napplicationID: '43'")
	for name, application := range map[string]int{first: acme, second: acme + 1} {
		if k := s.AwaitReady(name); k.Status.SuccessorKid != active(application) {
			t.Errorf("%s says that %s follows, and %s does", name, k.Status.SuccessorKid, active(application))
		}
	}
	s.runs(2)
}

func TestWithoutADatabaseASuccessorThatCantBeToldIsNotNamed(t *testing.T) {
	s := newBareShell(t, "bare-several", logi.Config{JWKSMaxAge: time.Second})
	s.SetRakeFault(logi.RakeFault{Hang: 3 * time.Second})
	name := s.apply("key", s.kid(), viaCommand)
	stage.Eventually(t, "the rake runs", func() bool { return len(s.RakeRuns()) == 1 })
	if err := s.CreateApplication(s.Ctx, acme+1, "initech"); err != nil {
		t.Fatal(err)
	}
	k := s.AwaitReady(name)
	if message := stage.Condition(k, v1alpha1.StepPublished).Message; k.Status.SuccessorKid != "" ||
		!strings.Contains(message, "one of several new kids") {
		t.Errorf("%s", stage.JSON(k.Status))
	}
}

func TestWithoutADatabaseAKeyThatIsEndedByHandMeanwhileIsAdopted(t *testing.T) {
	s := newBareShell(t, "bare-by-hand", logi.Config{JWKSMaxAge: time.Second})
	kid := s.kid()
	// JWKS that can't be looked at keeps the rake from being run, and so does a host that is down.
	s.SetJWKSFault(logi.JWKSHTML)
	name := s.apply("key", kid, viaCommand)
	s.Await(name, "it says that JWKS is no JSON", func(k *v1alpha1.KeyCompromise) bool {
		return strings.Contains(stage.Condition(k, v1alpha1.StepRevoked).Message, "no JSON")
	})
	s.runs(0)
	if err := s.sshd.Stop(s.Ctx); err != nil {
		t.Fatal(err)
	}
	s.SetJWKSFault("")
	s.Await(name, "the host is down", func(k *v1alpha1.KeyCompromise) bool {
		return strings.Contains(stage.Condition(k, v1alpha1.StepRevoked).Message, "connection refused")
	})
	s.byHand(kid)
	k := s.AwaitReady(name)
	if k.Status.Command != nil || k.Status.SuccessorKid != s.kid() {
		t.Errorf("%s", stage.JSON(k.Status))
	}
	s.runs(1)
}

func TestWithoutADatabaseNobodyIsWaitedForButWhoThePlatformNames(t *testing.T) {
	s := newShell(t, "bare-button", logi.Config{JWKSMaxAge: time.Second})
	s.Patch(&v1alpha1.Platform{}, s.Name,
		`{"spec":{"automation":"ObserveOnly","requireApproval":[{"kind":"KeyCompromise","step":"Revoked"}]}}`)
	s.forgetDatabase()
	name := s.apply("key", s.kid(), viaCommand)
	s.AwaitReason(name, v1alpha1.ReasonAutomationOff)
	s.Patch(&v1alpha1.Platform{}, s.Name, `{"spec":{"automation":"Enabled"}}`)
	k := s.AwaitReason(name, v1alpha1.ReasonWaitingForApproval)
	s.runs(0)
	message := stage.Condition(k, v1alpha1.StepRevoked).Message
	s.Patch(&v1alpha1.KeyCompromise{}, name, message[strings.Index(message, "{"):strings.LastIndex(message, "}")+1])
	s.AwaitReady(name)
	s.runs(1)
}

func TestWithoutADatabaseMoreKidsThanAnObjectRemembersStall(t *testing.T) {
	s := newShell(t, "bare-many", idle)
	var set struct {
		Keys []map[string]string `json:"keys"`
	}
	for i := range 1001 {
		set.Keys = append(set.Keys, map[string]string{"kid": fmt.Sprint("whk-", i)})
	}
	s.jwks(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, stage.JSON(set)) })
	s.forgetDatabase()
	k := s.AwaitStalled(s.apply("key", "whk-7", viaCommand), v1alpha1.ReasonSpecInvalid)
	if message := stage.Condition(k, v1alpha1.StepRevoked).Message; !strings.Contains(message, "1001 keys") ||
		!strings.Contains(message, "spec.database") {
		t.Error(message)
	}
	// Nor are all of them named.
	k = s.AwaitStalled(s.apply("unknown", "whk_nobody", viaCommand), v1alpha1.ReasonUnknownKid)
	if message := stage.Condition(k, v1alpha1.StepRevoked).Message; !strings.Contains(message, "and 991 others") {
		t.Error(message)
	}
	s.runs(0)
}

// The API counts characters, and so must what it is to hold.
func TestWithoutADatabaseAKidOfManyBytesIsEnded(t *testing.T) {
	s := newBareShell(t, "bare-bytes", logi.Config{JWKSMaxAge: time.Second})
	kid := strings.Repeat("é", 255)
	s.Exec(`UPDATE webhook_signing_keys SET kid = $1`, kid)
	s.AwaitReady(s.apply("key", kid, viaCommand))
	s.runs(1)
}

func TestWhatNeedsADatabaseSaysSo(t *testing.T) {
	s := newScene(t, "bare-database", idle)
	s.forgetDatabase()
	name := s.apply("key", s.kid(), "{}")
	k := s.AwaitReason(name, v1alpha1.ReasonNoDatabase)
	if message := stage.Condition(k, v1alpha1.ConditionReady).Message; !strings.Contains(message, "spec.database") ||
		!strings.Contains(message, "playbook_operator") || !strings.Contains(message, viaCommand) {
		t.Error(message)
	}
	s.Delete(name)
}
