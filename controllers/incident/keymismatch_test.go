package incident_test

import (
	"strings"
	"testing"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

// oldKey gives acme a key in grace, and makes the active ones an hour old.
const oldKey = `INSERT INTO webhook_signing_keys (oauth_application_id, kid, algorithm, public_key, private_key, status,
		activated_at, grace_until, created_at, updated_at)
	SELECT oauth_application_id, 'whk_old', algorithm, public_key, private_key, 'grace', activated_at,
		localtimestamp + interval '1 hour', created_at, updated_at
	FROM webhook_signing_keys WHERE oauth_application_id = 42;
	UPDATE webhook_signing_keys SET activated_at = activated_at - interval '1 hour'`

// checked waits for the check, and returns its message.
func (s *scene) checked(name string, fault v1alpha1.KeyFault) string {
	s.Helper()
	s.until(name, "PlatformChecked True Succeeded")
	if check := s.get(name).Status.KeyCheck; check == nil || check.Fault != fault {
		s.Errorf("status.keyCheck is %+v, want %s: %s", check, fault, s.message(name, "PlatformChecked"))
	}
	return s.message(name, "PlatformChecked")
}

func TestAPlatformThatServesItsKeysIsNotAtFault(t *testing.T) {
	s := webhookScene(t, "mismatch-good")
	s.execute(oldKey)
	name := s.open("inc", `{category: KeyMismatch, affected: {applicationIDs: ["42"], kid: whk_old}}`)
	s.says(s.checked(name, v1alpha1.KeyFaultNotPlatform), "ten answers of JWKS agree", "each active kid is in each answer",
		`kid "whk_old" is in 10 answers, and it is of application 42, grace, with grace until`,
		"ask it to fetch JWKS anew")
	s.expect(name, "Resolved Unknown AwaitingResolution")
	if got := s.get(name).Status.Severity; got != v1alpha1.Sev3 {
		t.Errorf("it is %s", got)
	}
	other := s.open("token", `{category: KeyMismatch, affected: {kid: token_1}}`)
	s.says(s.checked(other, v1alpha1.KeyFaultNotPlatform), `kid "token_1" is in 0 answers`, "it may be of a token")
}

// Nobody can verify what it signs: that is a sev1, which pages, and rolls nothing back.
func TestAPlatformWhoseJWKSLacksItsActiveKeyIsAtFault(t *testing.T) {
	s := webhookScene(t, "mismatch-bad")
	s.execute(oldKey)
	s.Server.SetJWKSFault(logi.JWKSLacksActive)
	name := s.open("inc", `{category: KeyMismatch, affected: {applicationIDs: ["42"]}}`)
	s.says(s.checked(name, v1alpha1.KeyFaultPlatform), "10 answers lack kid", "THE PLATFORM IS AT FAULT")
	s.until(name, "Escalated Unknown Paging")
	if got := s.get(name); got.Status.Severity != v1alpha1.Sev1 || got.Status.PagedAt == nil {
		t.Errorf("it is %s, paged at %v", got.Status.Severity, got.Status.PagedAt)
	}
	s.says(s.message(name, "Classified"), "the platform signs with a kid that its JWKS lacks")
	s.rollbacks(0)
	// A person's severity is final.
	decided := s.open("decided", `{category: KeyMismatch, severity: sev3, affected: {applicationIDs: ["42"]}}`)
	s.checked(decided, v1alpha1.KeyFaultPlatform)
	if got := s.get(decided).Status.Severity; got != v1alpha1.Sev3 {
		t.Errorf("a person's sev3 became %s", got)
	}
}

// A key that was just made may not be in each cache yet, and what can't be read says nothing.
func TestWhatCanNotBeToldIsNobodysFault(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*scene)
		says  string
	}{
		"young": {func(s *scene) {
			s.execute(strings.Split(oldKey, ";")[0])
			s.Server.SetJWKSFault(logi.JWKSLacksActive)
		}, "10 answers lack kid"},
		"silent":      {func(s *scene) { s.Server.SetJWKSFault(logi.JWKSError) }, "JWKS did not answer, of ten times"},
		"no-database": {func(s *scene) { s.spec(`{"database":null}`) }, "has no spec.database"},
		"no-key": {func(s *scene) {
			s.execute(`UPDATE webhook_signing_keys SET status = 'grace' WHERE oauth_application_id = 42`)
		}, "has no active key"},
	} {
		t.Run(name, func(t *testing.T) {
			s := webhookScene(t, "mismatch-"+name)
			c.spoil(s)
			inc := s.open("inc", `{category: KeyMismatch, affected: {applicationIDs: ["42"]}}`)
			s.says(s.checked(inc, v1alpha1.KeyFaultUnknown), c.says, "can't be told")
			if got := s.get(inc).Status.Severity; got != v1alpha1.Sev3 {
				t.Errorf("it is %s", got)
			}
		})
	}
}
