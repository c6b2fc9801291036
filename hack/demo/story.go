package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

const (
	// outage is how many webhooks of acme die while it is down.
	outage = 5000
	// leftover is how many more died when its key leaks.
	leftover = 800
)

// story types kubectl's commands and shows what it prints.
type story struct {
	*world.World
	site *world.Site
	// stolen is a copy of acme's key, as if somebody found it in a CI log.
	stolen *logi.StolenKey
}

func tell(ctx context.Context, w *world.World, site *world.Site) error {
	s := &story{World: w, site: site}
	chapters := []func(context.Context) error{s.outage, s.platform, s.plan, s.tooEarly, s.replay, s.proof, s.leak, s.end,
		s.bringRest, s.watched, s.badDeploy, s.fix}
	for _, chapter := range chapters {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) outage(ctx context.Context) error {
	say("acme (application 42) is down. Its webhooks were tried again until they died. The webhooks of globex and " +
		"initech " +
		"arrive.")
	s.site.SetFault(42, logi.Fault{Status: 503, Body: "Service Unavailable"})
	if _, err := s.site.SeedDead(ctx, 42, outage*9/10, "HTTP 503: Service Unavailable", 7); err != nil {
		return err
	}
	if _, err := s.site.SeedDead(ctx, 42, outage/10, "Net::ReadTimeout: Net::ReadTimeout", 7); err != nil {
		return err
	}
	for _, application := range []int64{41, 43} {
		if _, err := s.site.Enqueue(ctx, application, 300); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) platform(ctx context.Context) error {
	say("The Platform names the URL, the database with three roles of least privilege, and the admin API.")
	fmt.Println("$ kubectl apply -f platform.yaml")
	out, err := s.KubectlInput(ctx, s.site.Manifest(), "apply", "-f", "-")
	fmt.Print(out)
	if err != nil {
		return err
	}
	if err := s.kubectl(ctx, "wait", "--for=condition=Ready", "platform/production", "--timeout=60s"); err != nil {
		return err
	}
	return s.kubectl(ctx, "get", "platforms")
}

func (s *story) plan(ctx context.Context) error {
	say("First a plan: it counts the dead entries by cause, and changes nothing.")
	if err := s.apply(ctx, "acme-plan", "  mode: Plan\n"); err != nil {
		return err
	}
	if err := s.kubectl(ctx, "wait", "--for=condition=Ready", "dlqreplay/acme-plan", "--timeout=60s"); err != nil {
		return err
	}
	return s.kubectl(ctx, "get", "dlqreplay", "acme-plan", "-o", "wide")
}

func (s *story) tooEarly(ctx context.Context) error {
	say("The replay is applied while acme is still down. Ten entries go first, as a canary, and acme fails them: " +
		"nothing else is touched.")
	if err := s.apply(ctx, "acme-after-outage", "  ratePerSecond: 1000\n"); err != nil {
		return err
	}
	if err := s.kubectl(ctx, "wait", "--for=condition=Stalled", "dlqreplay/acme-after-outage",
		"--timeout=60s"); err != nil {
		return err
	}
	if err := s.kubectl(ctx, "get", "dlqreplays"); err != nil {
		return err
	}
	return s.kubectl(ctx, "get", "dlqreplay", "acme-after-outage", "-o",
		`jsonpath={.status.conditions[?(@.type=="Stalled")].message}{"\n"}`)
}

func (s *story) replay(ctx context.Context) error {
	say("acme is back. The replay is asked to go on: a fresh canary, and then every entry, in the old order.")
	s.site.SetFault(42, logi.Fault{})
	if err := s.kubectl(ctx, "annotate", "dlqreplay", "acme-after-outage", "playbook.1pass.dev/requestedAt="+
		time.Now().UTC().Format(time.RFC3339)); err != nil {
		return err
	}
	if err := s.watch(ctx, "dlqreplay", "acme-after-outage"); err != nil {
		return err
	}
	if err := s.kubectl(ctx, "wait", "--for=condition=Ready", "dlqreplay/acme-after-outage", "--timeout=10s"); err != nil {
		return err
	}
	if err := s.kubectl(ctx, "get", "dlqreplays"); err != nil {
		return err
	}
	return s.kubectl(ctx, "describe", "dlqreplay", "acme-after-outage")
}

// watch prints the object's line whenever it changes, until it is Ready.
func (s *story) watch(ctx context.Context, kind, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for last := ""; ; {
		line, err := s.Kubectl(ctx, "-n", world.Namespace, "get", kind, name, "-o", "wide", "--no-headers")
		if err != nil {
			return err
		}
		if withoutAge(line) != withoutAge(last) {
			fmt.Print(line)
			last = line
		}
		if slices.Contains(strings.Fields(line), v1alpha1.ReasonSucceeded) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", name, ctx.Err())
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// withoutAge drops the last column, which always changes.
func withoutAge(line string) string {
	fields := strings.Fields(line)
	return strings.Join(fields[:max(0, len(fields)-1)], " ")
}

func (s *story) proof(_ context.Context) error {
	say("What the relying parties counted, by idempotency key:")
	counts := s.site.Counts()
	for _, a := range applications {
		c := counts[a.id]
		answers := make([]string, 0, len(c.Attempts))
		for _, status := range slices.Sorted(maps.Keys(c.Attempts)) {
			answers = append(answers, fmt.Sprintf("HTTP %d ×%d", status, c.Attempts[status]))
		}
		fmt.Printf("%-8s received %d webhooks, %d of them more than once; it answered %s\n", a.name, c.Received, c.Duplicates,
			strings.Join(answers, ", "))
	}
	acme := counts[42]
	if acme.Received != outage || acme.Duplicates != 0 {
		return fmt.Errorf("acme received %d webhooks, %d of them twice; it should have received %d, each once", acme.Received,
			acme.Duplicates, outage)
	}
	fmt.Printf("\nEach of the %d webhooks that died reached acme exactly once.\n", outage)
	return nil
}

func (s *story) leak(ctx context.Context) error {
	say("Second chapter: acme's signing key was found in a CI log. With it, anybody can forge webhooks that acme accepts.")
	if _, err := s.site.SeedDead(ctx, 42, leftover, "HTTP 503: Service Unavailable", 7); err != nil {
		return err
	}
	var err error
	if s.stolen, err = s.site.StealKey(ctx, 42); err != nil {
		return err
	}
	status, err := s.forge(ctx)
	if err == nil && status != 200 {
		err = fmt.Errorf("acme answered %d to a webhook signed with its key", status)
	}
	return err
}

// forge posts a webhook that the platform never sent, and shows what acme answers.
func (s *story) forge(ctx context.Context) (int, error) {
	status, err := s.stolen.Forge(ctx, `{"type": "user.deleted", "data": {"sub": "somebody"}}`)
	if err == nil {
		fmt.Printf("a forged user.deleted, signed by %s: acme answers HTTP %d\n", s.stolen.Kid(), status)
	}
	return status, err
}

func (s *story) end(ctx context.Context) error {
	say(fmt.Sprintf("One manifest revokes the key. %d webhooks of acme are undelivered, and signed by it.", leftover))
	if err := s.applyKind(ctx, "KeyCompromise", "acme-leak",
		fmt.Sprintf("  kid: %s\n  reason: private key found in a CI log\n", s.stolen.Kid())); err != nil {
		return err
	}
	if err := s.watch(ctx, "keycompromise", "acme-leak"); err != nil {
		return err
	}
	if err := s.kubectl(ctx, "get", "keycompromises"); err != nil {
		return err
	}
	if err := s.kubectl(ctx, "describe", "keycompromise", "acme-leak"); err != nil {
		return err
	}
	say("The proof from the other side:")
	status, err := s.forge(ctx)
	if err == nil && status != 401 {
		err = fmt.Errorf("acme answered %d to a webhook signed with the key that was ended", status)
	}
	return err
}

func (s *story) bringRest(ctx context.Context) error {
	say("The undelivered webhooks are now signed by the successor, and are delivered like any others.")
	if err := s.apply(ctx, "acme-leftover", ""); err != nil {
		return err
	}
	if err := s.kubectl(ctx, "wait", "--for=condition=Ready", "dlqreplay/acme-leftover", "--timeout=60s"); err != nil {
		return err
	}
	if err := s.kubectl(ctx, "get", "dlqreplay", "acme-leftover"); err != nil {
		return err
	}
	// acme also received the forged webhook that it accepted, and the event.
	if acme := s.site.Counts()[42]; acme.Received != outage+leftover+2 || acme.Duplicates != 0 {
		return fmt.Errorf("acme received %d webhooks, %d of them twice; it should have received %d, each once", acme.Received,
			acme.Duplicates, outage+leftover+2)
	}
	return nil
}

func (s *story) watched(ctx context.Context) error {
	say("Third chapter: the platform is probed from outside, and it is known who is on call. Each pushed commit is " +
		"deployed.")
	fmt.Println("$ kubectl apply -f platform.yaml")
	out, err := s.KubectlInput(ctx, s.site.IncidentManifest(), "apply", "-f", "-")
	fmt.Print(out)
	if err != nil {
		return err
	}
	// A signal that was never good is no outage. WebhooksDelivered is unknown while no webhook is attempted.
	for _, signal := range []string{v1alpha1.ConditionUpAnswers, v1alpha1.ConditionTokensIssued,
		v1alpha1.ConditionJWKSServed} {
		if err := s.kubectl(ctx, "wait", "--for=condition="+signal, "platform/production", "--timeout=120s"); err != nil {
			return err
		}
	}
	return s.kubectl(ctx, "get", "platforms")
}

// ageOfIncident is the column of the age, in the row of an Incident that reached somebody.
const ageOfIncident = 5

func (s *story) badDeploy(ctx context.Context) error {
	say("Commit 9fceb02 is pushed and deployed. It breaks everything. Nobody does anything by hand.")
	s.site.Render().SetRollbackDelay(3 * time.Second)
	s.site.Render().BreakCommit("9fceb02", logi.Breakage{Tokens: true, JWKS: true})
	s.site.Render().Push(logi.WebService, "9fceb02")
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for last := ""; ; {
		line, err := s.Kubectl(ctx, "-n", world.Namespace, "get", "incidents", "--no-headers")
		if err != nil {
			return err
		}
		// Leave out the age. Columns that are not set yet are blank, so the row has fewer fields.
		if fields := strings.Fields(line); strings.HasPrefix(line, "production") && len(fields) > ageOfIncident {
			fields[ageOfIncident] = ""
			if row := strings.Join(fields, " "); row != last {
				fmt.Print(line)
				last = row
			}
		}
		if strings.Contains(line, v1alpha1.ReasonAwaitingFix) {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the incident to be resolved: %w", ctx.Err())
		case <-time.After(300 * time.Millisecond):
		}
	}
	fmt.Println()
	for _, page := range s.site.Services.Pages() {
		fmt.Printf("PagerDuty: %q, %s, triggered %d times, now %s\n", page.Summary, page.Severity, page.Triggers, page.State)
	}
	fmt.Printf("Render: rolled back %d times; auto-deploy is on: %t\n\n", s.site.Render().Counts().Rollbacks,
		s.site.Render().AutoDeploy(logi.WebService))
	return s.kubectl(ctx, "get", "platforms", "-o",
		`custom-columns=NAME:.metadata.name,SIGNALS:.status.signals.summary,`+
			`AUTO-DEPLOY OFF:.status.conditions[?(@.type=="AutoDeployOff")].status`)
}

func (s *story) fix(ctx context.Context) error {
	say("In the morning somebody deploys the fix, d4e5f6a. When it is live and the signals stayed good, auto-deploy " +
		"is switched on again.")
	s.site.Render().DeployCommit(logi.WebService, "d4e5f6a")
	name, err := s.Kubectl(ctx, "-n", world.Namespace, "get", "incidents", "-o", "jsonpath={.items[0].metadata.name}")
	if err != nil {
		return err
	}
	if err := s.kubectl(ctx, "wait", "--for=condition=Ready", "incident/"+name, "--timeout=120s"); err != nil {
		return err
	}
	if err := s.kubectl(ctx, "get", "incidents"); err != nil {
		return err
	}
	if err := s.kubectl(ctx, "get", "incident", name, "-o",
		`jsonpath={range .status.timeline[*]}{.at}  {.text}{"\n"}{end}`); err != nil {
		return err
	}
	if err := s.kubectl(ctx, "get", "incident", name, "-o", "jsonpath={.status.durations}"); err != nil {
		return err
	}
	fmt.Println()
	pages := s.site.Services.Pages()
	if render := s.site.Render(); render.Counts().Rollbacks != 1 || !render.AutoDeploy(logi.WebService) ||
		len(pages) != 1 || pages[0].Triggers != 1 {
		return fmt.Errorf("it should have been one rollback and one page: %+v, %+v", render.Counts(), pages)
	}
	return nil
}

func (s *story) apply(ctx context.Context, name, spec string) error {
	return s.applyKind(ctx, "DLQReplay", name, spec)
}

func (s *story) applyKind(ctx context.Context, kind, name, spec string) error {
	manifest := fmt.Sprintf(`apiVersion: playbook.1pass.dev/v1alpha1
kind: %s
metadata: {name: %s, namespace: %s}
spec:
  platformRef: {name: production}
  applicationID: "42"
%s`, kind, name, world.Namespace, spec)
	fmt.Printf("$ kubectl apply -f - <<'EOF'\n%sEOF\n", manifest)
	out, err := s.KubectlInput(ctx, manifest, "apply", "-f", "-")
	fmt.Print(out)
	return err
}

// kubectl shows a command and what it prints.
func (s *story) kubectl(ctx context.Context, args ...string) error {
	quoted := slices.Clone(args)
	for i, arg := range quoted {
		if strings.ContainsAny(arg, `{ "*`) {
			quoted[i] = "'" + arg + "'"
		}
	}
	fmt.Println("$ kubectl " + strings.Join(quoted, " "))
	out, err := s.Kubectl(ctx, append([]string{"-n", world.Namespace}, args...)...)
	fmt.Print(out)
	return err
}

func say(text string) { fmt.Printf("\n# %s\n\n", text) }
