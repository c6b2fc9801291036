package world

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/1pass-dev/playbook-operator/hack/logi"
)

// Site is a stand-in platform with a database of its own, and the Platform object for it. A World can have many.
type Site struct {
	*logi.Server
	// Name of the Platform.
	Name     string
	world    *World
	database string
}

// NewSite starts a platform. The database is a copy of one with the platform's tables, the audit trigger, the ledger
// and its roles.
func (w *World) NewSite(ctx context.Context, name string, config logi.Config) (*Site, error) {
	s := &Site{Name: name, world: w, database: "logi_" + strings.ReplaceAll(name, "-", "_")}
	if err := w.Postgres.CreateDatabase(ctx, s.database, template); err != nil {
		return nil, err
	}
	config.DatabaseURL = s.URLAs("")
	var err error
	if s.Server, err = logi.Start(ctx, config); err != nil {
		return nil, errors.Join(err, w.Postgres.DropDatabase(ctx, s.database))
	}
	return s, nil
}

// Close stops the platform and drops its database.
func (s *Site) Close(ctx context.Context) error {
	return errors.Join(s.Server.Close(), s.world.Postgres.DropDatabase(ctx, s.database))
}

// URLAs is the database's URL for the role playbook_operator, playbook_monitor or playbook_signer. If role is empty, it
// is the superuser's.
func (s *Site) URLAs(role string) string {
	switch role {
	case "":
		return s.world.Postgres.URL(s.database)
	case "playbook_operator":
		return s.world.Postgres.URLFor(role, s.world.OperatorPassword, s.database)
	case "playbook_monitor":
		return s.world.Postgres.URLFor(role, s.world.MonitorPassword, s.database)
	case "playbook_signer":
		return s.world.Postgres.URLFor(role, s.world.SignerPassword, s.database)
	}
	panic("no such role: " + role)
}

// Apply applies the Platform and its Secrets.
func (s *Site) Apply(ctx context.Context) error {
	_, err := s.world.KubectlInput(ctx, s.Manifest(), "apply", "-f", "-")
	return err
}

// Manifest is the Platform and its Secrets.
func (s *Site) Manifest() string {
	return s.secret("database", "url", s.URLAs("playbook_operator")) +
		s.secret("database-read-only", "url", s.URLAs("playbook_monitor")) +
		s.secret("database-signing", "url", s.URLAs("playbook_signer")) +
		s.secret("admin-api", "token", s.AdminToken()) +
		fmt.Sprintf(`---
apiVersion: playbook.1pass.dev/v1alpha1
kind: Platform
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  url: %[3]s
  database:
    secretRef: {name: %[1]s-database}
    readOnlySecretRef: {name: %[1]s-database-read-only}
    signingSecretRef: {name: %[1]s-database-signing}
  adminAPI:
    secretRef: {name: %[1]s-admin-api}
  relyingParties:
  - {applicationID: "41", name: globex}
  - {applicationID: "42", name: acme, oncall: "identity team at acme, +1 555 0100"}
  - {applicationID: "43", name: initech}
`, s.Name, Namespace, s.URL())
}

// RoutingKey is the PagerDuty routing key in the Platform of IncidentManifest.
const RoutingKey = "R0utingKeyOfTheOncallEngineer000"

// IncidentManifest is the manifest of a Platform for outages. It is probed each second. Outages open Incidents, page by
// PagerDuty, and are rolled back at Render. What takes minutes in production takes seconds here.
func (s *Site) IncidentManifest() string {
	return s.secret("render", "apiKey", s.Render().Key()) +
		s.secret("slack", "url", s.URL()+"/slack/services/T0000/B0000/oncall") +
		fmt.Sprintf(`---
apiVersion: v1
kind: Secret
metadata:
  name: %[1]s-pagerduty
  namespace: %[2]s
  labels: {playbook.1pass.dev/platform: %[1]s}
stringData: {routingKey: %[3]s, url: %[4]s/pagerduty/v2/enqueue}
`, s.Name, Namespace, RoutingKey, s.URL()) + s.Manifest() + fmt.Sprintf(`  render:
    secretRef: {name: %[1]s-render}
    url: %[2]s%[3]s
    services: [{name: web, serviceID: %[4]s}]
  rollback: {service: web}
  probes: {intervalSeconds: 1, windowSeconds: 10, clearSeconds: 10}
  autoOpen: [Outage]
  oncall:
    tiers:
    - name: oncall-engineer
      notify: [{type: PagerDuty, secretRef: {name: %[1]s-pagerduty}}, {type: Slack, secretRef: {name: %[1]s-slack}}]
    - {name: project-owner, notify: [{type: Slack, secretRef: {name: %[1]s-slack}}]}
`, s.Name, s.URL(), logi.RenderPath, logi.WebService)
}

func (s *Site) secret(name, key, value string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Secret
metadata:
  name: %[1]s-%[2]s
  namespace: %[3]s
  labels: {playbook.1pass.dev/platform: %[1]s}
stringData: {%[4]s: %[5]q}
`, s.Name, name, Namespace, key, value)
}
