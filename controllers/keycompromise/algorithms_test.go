package keycompromise_test

import (
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/1pass-dev/playbook-operator/hack/stage"
)

// everyWebhookOnce checks that acme's relying party, which verifies signatures, accepted n webhooks, each once.
func (s *scene) everyWebhookOnce(n int) {
	s.Helper()
	accepted := s.ReceivedKeys(acme)
	for key, times := range accepted {
		if times != 1 {
			s.Errorf("%s was accepted %d times", key, times)
		}
	}
	if len(accepted) != n {
		s.Errorf("%d webhooks were accepted, want %d", len(accepted), n)
	}
}

// revokedOnce checks that there is one revocation, one successor, and one event.
func (s *scene) revokedOnce() {
	s.Helper()
	const sql = `SELECT concat_ws(' ',
		(SELECT string_agg(status, ',' ORDER BY id) FROM webhook_signing_keys WHERE oauth_application_id = $1),
		(SELECT count(*) FROM playbook.key_revocations),
		(SELECT count(*) FROM webhook_outbox_entries WHERE event_type = 'webhook_key.compromised'))`
	if got := stage.Query[string](s.Scene, sql, acme); got != "revoked,active 1 1" {
		s.Errorf("keys, revocations and events are %s", got)
	}
}

func TestAKeyOfEachAlgorithmIsEndedAndWhatItsSuccessorSignsIsBelieved(t *testing.T) {
	for name, algorithm := range map[string]jose.SignatureAlgorithm{"ed": jose.EdDSA, "es": jose.ES256, "rs": jose.RS256} {
		t.Run(string(algorithm), func(t *testing.T) {
			t.Parallel()
			s := newSceneIn(t, shared.World, "algorithm-"+name, idle, algorithm)
			stolen, err := s.StealKey(s.Ctx, acme)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.SeedDead(s.Ctx, acme, 20, "HTTP 503: Service Unavailable", 7); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Enqueue(s.Ctx, acme, 5); err != nil {
				t.Fatal(err)
			}
			if status, err := stolen.Forge(s.Ctx, `{"forged":1}`); err != nil || status != 200 {
				t.Fatalf("before the revocation the stolen key was answered %d, %v", status, err)
			}
			s.apply("key", stolen.Kid(), "{}")
			s.deliverAfterRevocation()
			s.Exec(`UPDATE webhook_outbox_entries SET dlq_at = NULL WHERE dlq_at IS NOT NULL`)
			if _, err := s.DispatchOnce(s.Ctx); err != nil {
				t.Fatal(err)
			}
			k := s.AwaitReady(s.Name + "-key")
			if *k.Status.ResignedEntries != 25 {
				t.Errorf("%d were signed anew", *k.Status.ResignedEntries)
			}
			if got := stage.Query[string](s.Scene, `SELECT algorithm FROM webhook_signing_keys WHERE kid = $1`,
				k.Status.SuccessorKid); got != string(algorithm) {
				t.Errorf("the successor of a key of %s is one of %s", algorithm, got)
			}
			if status, err := stolen.Forge(s.Ctx, `{"forged":2}`); err != nil || status != 401 {
				t.Errorf("after it the stolen key was answered %d, %v", status, err)
			}
			s.everyWebhookOnce(27) // one of them was forged in time
			s.revokedOnce()
		})
	}
}
