package upgrade_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

func TestDLQReplaysOfThePreviousReleaseAreFinished(t *testing.T) { each(t, "dlqreplay", finishReplay) }

// finishReplay lets this release go on with a DLQReplay. First the release works by itself. Then a person does what the
// replay waits for.
func finishReplay(s *scene, stored *state) {
	was := &v1alpha1.DLQReplay{}
	if err := s.get(s.ctx, was); err != nil {
		s.Fatal(err)
	}
	s.hurry = true
	s.nonces()
	requeues := s.count(`SELECT count(*) FROM logi_test.requeues`)
	waited := s.waits(s.condition(v1alpha1.ConditionReady))
	s.play()
	if ready := s.condition(v1alpha1.ConditionReady); s.waits(ready) {
		if n := s.count(`SELECT count(*) FROM logi_test.requeues`) - requeues; waited && n > 0 {
			s.Errorf("%d entries were requeued, and Ready is %s", n, ready)
		}
		s.word()
		s.play()
	}
	for range 3 { // it may stall for another reason then
		if strings.HasPrefix(s.condition(v1alpha1.ConditionStalled), "True ") {
			s.patch(`{"spec":{"breaker":{"maxFailurePercent":100}}}`)
			s.patch(fmt.Sprintf(`{"metadata":{"annotations":{%q:null}}}`, v1alpha1.AnnotationRequestedAt))
			s.request()
			s.play()
		}
	}
	ready := s.condition(v1alpha1.ConditionReady)
	twice := s.count(`SELECT count(*) FROM (SELECT FROM logi_test.requeues GROUP BY entry_id HAVING count(*) > 1) t`)
	if twice > 0 {
		s.Errorf("%d entries were requeued more than once", twice)
	}
	unrecorded := s.count(`SELECT count(*) FROM logi_test.requeues
		WHERE entry_id NOT IN (SELECT entry_id FROM playbook.replay_entries)`)
	if unrecorded > 0 && strings.HasPrefix(ready, "True ") {
		s.Errorf("%d entries were requeued without a word in the ledger", unrecorded)
	}
	for key, n := range s.ReceivedKeys(acme) {
		if n > 1 {
			s.Errorf("%s was delivered %d times", key, n)
		}
	}
	if hopeless[strings.TrimPrefix(ready, "False ")] {
		return
	}
	s.settled(was.Status.Conditions)
	if n := s.count(`SELECT count(*) FROM playbook.operations WHERE closed_at IS NULL`); n > 0 {
		s.Error("the operation is open in the end")
	}
}

// hopeless are the reasons for which nothing more is done for an object, whatever a person says.
var hopeless = map[string]bool{v1alpha1.ReasonOutcomeUnknown: true, v1alpha1.ReasonPlanTooLarge: true}

// word is what a person says: they approve the replay, let it go on, and release the Platform's red button.
func (s *scene) word() {
	s.Helper()
	p := &v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: s.Name}}
	if err := admin.Patch(s.ctx, p, client.RawPatch(types.MergePatchType,
		[]byte(`{"spec":{"automation":"Enabled"}}`))); err != nil {
		s.Fatal(err)
	}
	obj := &v1alpha1.DLQReplay{}
	if err := s.get(s.ctx, obj); err != nil {
		s.Fatal(err)
	}
	digest := ""
	if obj.Status.Plan != nil {
		digest = obj.Status.Plan.Digest
	}
	if digest != "" {
		s.patch(fmt.Sprintf(`{"spec":{"suspend":false,"approvals":[
			{"step":"Requeued","digest":%[1]q,"by":"kim"}, {"step":"CanaryDelivered","digest":%[1]q,"by":"kim"}]}}`, digest))
	} else {
		s.patch(`{"spec":{"suspend":false}}`)
	}
}

// nonces are fresh ones for all dead entries, in the Secret that a replay by the admin API reads.
func (s *scene) nonces() {
	s.Helper()
	rows, err := s.db.Query(s.ctx, `SELECT id FROM webhook_outbox_entries`)
	if err != nil {
		s.Fatal(err)
	}
	data := map[string]string{}
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			s.Fatal(err)
		}
		data[fmt.Sprint(id)] = s.IssueNonce(id)
	}
	if err := rows.Err(); err != nil {
		s.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: s.Name + "-nonces"}}
	if err := client.IgnoreNotFound(admin.Get(s.ctx, types.NamespacedName{Namespace: secret.Namespace,
		Name: secret.Name}, secret)); err != nil {
		s.Fatal(err)
	}
	if secret.UID == "" {
		s.secret("nonces", data)
		return
	}
	secret.StringData = data
	if err := admin.Update(s.ctx, secret); err != nil {
		s.Fatal(err)
	}
}
