package incident_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

const (
	acme  = int64(42)
	wayne = int64(43)
	// rpText is what a relying party wrote. It stays in the platform's database.
	rpText = "s3cret-of-the-relying-party"
)

// webhookScene is a platform with two relying parties, whose Platform names the read-only role.
func webhookScene(t *testing.T, name string) *scene {
	t.Helper()
	s := newScene(t, name).withDatabase()
	for id, name := range map[int64]string{acme: "acme", wayne: "wayne"} {
		if err := s.CreateApplication(s.ctx, id, name); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// dead seeds entries that died of a text, and returns the ids that a diagnosis names.
func (s *scene) dead(application int64, n int, lastError string, attempts int) []string {
	s.Helper()
	ids, err := s.SeedDead(s.ctx, application, n, lastError+" "+rpText, attempts)
	if err != nil {
		s.Fatal(err)
	}
	if n == 1 {
		return []string{fmt.Sprint(ids[0])}
	}
	return []string{fmt.Sprint(ids[0]), fmt.Sprint(ids[n-1])}
}

// diagnosed waits for the diagnosis, and returns it with its message. Nothing of an Incident repeats what a relying
// party wrote, nor a secret.
func (s *scene) diagnosed(name string) (*v1alpha1.IncidentDiagnosis, string) {
	s.Helper()
	s.until(name, "Diagnosed True Succeeded")
	obj := s.get(name)
	all, err := json.Marshal(obj)
	if err != nil {
		s.Fatal(err)
	}
	for _, secret := range []string{rpText, s.AdminToken(), "evt_"} {
		if strings.Contains(string(all), secret) {
			s.Errorf("the object repeats %q: %s", secret, all)
		}
	}
	if obj.Status.Diagnosis == nil {
		s.Fatal("there is no status.diagnosis")
	}
	return obj.Status.Diagnosis, s.message(name, "Diagnosed")
}

// groupsOf a diagnosis, each as "application cause finding status entries ids".
func groupsOf(d *v1alpha1.IncidentDiagnosis) (texts []string) {
	for _, g := range d.Groups {
		status := int32(0)
		if g.StatusCode != nil {
			status = *g.StatusCode
		}
		texts = append(texts, fmt.Sprintf("%s %s %s %d %d %s", g.ApplicationID, g.Cause, g.Finding, status, *g.Entries,
			strings.Join(g.EntryIDs, ",")))
	}
	return texts
}

func (s *scene) says(message string, parts ...string) {
	s.Helper()
	for _, part := range parts {
		if !strings.Contains(message, part) {
			s.Errorf("it does not say %q: %s", part, message)
		}
	}
}

func TestEachCauseIsDiagnosedWithWhoseFaultItIs(t *testing.T) {
	s := webhookScene(t, "diagnosis")
	down := s.dead(acme, 5, "HTTP 503:", 7)
	slow := s.dead(acme, 4, "Net::ReadTimeout:", 7)
	seen := s.dead(wayne, 3, "HTTP 409:", 2)
	invalid := s.dead(wayne, 2, "HTTP 422:", 1)
	limited := s.dead(wayne, 1, "HTTP 429:", 7)
	name := s.open("inc", "{category: WebhookDelivery}")
	d, message := s.diagnosed(name)
	want := []string{
		"42 ServerError RelyingPartyFails 503 5 " + strings.Join(down, ","),
		"42 Timeout RelyingPartyFails 0 4 " + strings.Join(slow, ","),
		"43 IdempotencyConflict AlreadyReceived 409 3 " + strings.Join(seen, ","),
		"43 ClientError Refused 422 2 " + strings.Join(invalid, ","),
		"43 RateLimited RelyingPartyLimits 429 1 " + strings.Join(limited, ","),
	}
	if got := groupsOf(d); !slices.Equal(got, want) || *d.Entries != 15 || d.Counted != v1alpha1.CountExact ||
		d.Source != v1alpha1.DiagnosedByDatabase || d.MoreGroups != nil {
		t.Errorf("%d, %s by %s: %q, want %q", *d.Entries, d.Counted, d.Source, got, want)
	}
	since := d.Groups[0].Since
	if ago := time.Since(since.Time); ago < time.Hour || ago > 3*time.Hour || d.Groups[0].Newest.Before(since) {
		t.Errorf("since %v, newest %v", since, d.Groups[0].Newest)
	}
	s.says(message, "15 webhooks are dead; application 42, 5 since "+since.UTC().Format(time.RFC3339)+
		": it answers HTTP 503, which it has to mend (see "+strings.Join(down, ", ")+")", "it does not answer in time",
		"it has them already", "it refuses them (HTTP 422), and would again", "and 1 more group, see status.diagnosis")
	s.expect(name, "Triaged True Succeeded", "Resolved Unknown AwaitingResolution")
	s.expectPages()
	if got := s.message(name, "Triaged"); strings.Contains(got, "suspicious") {
		t.Errorf("a deploy of ten hours ago is suspicious: %s", got)
	}

	// Only the applications that the Incident is about.
	one := s.open("one", `{category: WebhookDelivery, affected: {applicationIDs: ["43"]}}`)
	if d, _ := s.diagnosed(one); !slices.Equal(groupsOf(d), want[2:]) || *d.Entries != 6 {
		t.Errorf("one application: %q", groupsOf(d))
	}
	if got := s.Server.Counts(); len(got) != 0 {
		t.Errorf("a relying party was sent something: %v", got)
	}
}

// What fails is no dead letter yet: the dispatcher tries it again for hours.
func TestWhileNothingIsDeadThatIsSaid(t *testing.T) {
	s := webhookScene(t, "diagnosis-empty")
	s.Server.SetFault(acme, logi.Fault{Status: http.StatusServiceUnavailable, Body: rpText})
	if _, err := s.Enqueue(s.ctx, acme, 2); err != nil {
		t.Fatal(err)
	}
	if _, err := s.DispatchOnce(s.ctx); err != nil {
		t.Fatal(err)
	}
	d, message := s.diagnosed(s.open("inc", "{category: WebhookDelivery}"))
	if *d.Entries != 0 || d.Groups != nil || d.Counted != v1alpha1.CountExact {
		t.Errorf("%+v", d)
	}
	s.says(message, "no webhook is dead")
}

// What the real dispatcher writes, and the real endpoints answered.
func TestWhatTheDispatcherWroteIsDiagnosed(t *testing.T) {
	s := webhookScene(t, "diagnosis-real")
	s.Server.SetFault(acme, logi.Fault{Status: http.StatusNotFound, Body: rpText})
	s.Server.SetFault(wayne, logi.Fault{Status: http.StatusUnauthorized, Body: "unknown kid " + rpText})
	for application, n := range map[int64]int{acme: 2, wayne: 1} {
		if _, err := s.Enqueue(s.ctx, application, n); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.DispatchOnce(s.ctx); err != nil {
		t.Fatal(err)
	}
	d, message := s.diagnosed(s.open("inc", "{category: WebhookDelivery}"))
	if got := groupsOf(d); len(got) != 2 || !strings.HasPrefix(got[0], "42 ClientError Refused 404 2 ") ||
		!strings.HasPrefix(got[1], "43 SignatureRejected KidServed 401 1 ") {
		t.Errorf("%q", got)
	}
	s.says(message, "its cache of JWKS is stale, or its check is wrong")
}

// Of a refused signature JWKS and the key's row say which side is stale.
func TestARefusedSignatureIsDiagnosedByTheKid(t *testing.T) {
	for name, c := range map[string]struct {
		do      func(*scene)
		finding v1alpha1.DiagnosisFinding
		says    string
	}{
		"served": {func(*scene) {}, v1alpha1.FindingKidServed, "its cache of JWKS is stale"},
		"in-grace": {func(s *scene) {
			s.execute(`UPDATE webhook_signing_keys SET status = 'grace',
				grace_until = clock_timestamp() AT TIME ZONE 'UTC' + interval '1 hour'`)
		}, v1alpha1.FindingKidServed, "its cache of JWKS is stale"},
		"not-served": {func(s *scene) {
			s.another()
			s.execute(`UPDATE webhook_signing_keys SET status = 'grace' WHERE oauth_application_id = 44`)
			s.Server.SetJWKSFault(logi.JWKSLacksActive)
		}, v1alpha1.FindingKidNotServed, "which is good, and JWKS lacks it: the platform has to mend that"},
		"grace-over": {func(s *scene) {
			s.another()
			s.execute(`UPDATE webhook_signing_keys SET status = 'grace',
				grace_until = clock_timestamp() AT TIME ZONE 'UTC' - interval '1 hour' WHERE oauth_application_id = 42`)
		}, v1alpha1.FindingKidEnded, "they must be signed anew"},
		"revoked": {func(s *scene) {
			s.another()
			s.execute(`UPDATE webhook_signing_keys SET status = 'revoked' WHERE oauth_application_id = 42`)
		}, v1alpha1.FindingKidEnded, "they must be signed anew"},
		"served-though-revoked": {func(s *scene) {
			if err := s.Server.StaleReplica(s.ctx, 0); err != nil {
				s.Fatal(err)
			}
			s.execute(`UPDATE webhook_signing_keys SET status = 'revoked' WHERE oauth_application_id = 42`)
		}, v1alpha1.FindingKidEndedButServed, "JWKS still has it"},
		"unknown": {func(s *scene) {
			s.another()
			s.execute(`DELETE FROM webhook_signing_keys WHERE oauth_application_id = 42`)
		},
			v1alpha1.FindingKidUnknown, "the platform has no such key"},
		"no-jwks": {func(s *scene) { s.Server.SetJWKSFault(logi.JWKSError) }, v1alpha1.FindingNotTold,
			"JWKS could not be read"},
	} {
		t.Run(name, func(t *testing.T) {
			s := webhookScene(t, "kid-"+name)
			s.dead(acme, 3, "HTTP 401: unknown kid", 1)
			kid := s.kid(acme)
			c.do(s)
			d, message := s.diagnosed(s.open("inc", "{category: WebhookDelivery}"))
			if len(d.Groups) != 1 || d.Groups[0].Finding != c.finding || d.Groups[0].Kid != kid || *d.Groups[0].Entries != 3 {
				t.Errorf("%+v, want %s of %s", d.Groups, c.finding, kid)
			}
			s.says(message, c.says, kid)
		})
	}
}

// another key, so that JWKS is not empty without the one that it is about.
func (s *scene) another() {
	s.Helper()
	if err := s.CreateApplication(s.ctx, 44, "other"); err != nil {
		s.Fatal(err)
	}
}

// kid of an application's key.
func (s *scene) kid(application int64) (kid string) {
	s.Helper()
	conn, err := pgx.Connect(s.ctx, s.URLAs(""))
	if err != nil {
		s.Fatal(err)
	}
	defer conn.Close(s.ctx)
	if err := conn.QueryRow(s.ctx, `SELECT kid FROM webhook_signing_keys WHERE oauth_application_id = $1`,
		application).Scan(&kid); err != nil {
		s.Fatal(err)
	}
	return kid
}
