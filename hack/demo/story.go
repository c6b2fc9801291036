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

// outage is how many webhooks of acme die while it is down.
const outage = 5000

// story types kubectl's commands and shows what it prints.
type story struct {
	*world.World
	site *world.Site
}

func tell(ctx context.Context, w *world.World, site *world.Site) error {
	s := &story{w, site}
	chapters := []func(context.Context) error{s.outage, s.platform, s.plan, s.tooEarly, s.replay, s.proof}
	for _, chapter := range chapters {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) outage(ctx context.Context) error {
	say("acme (application 42) is down. Its webhooks were tried again until they died; those of globex and initech arrive.")
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
	say("The platform is connected: its URL, its database by two roles of least privilege, its admin API.")
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
	say("First a plan: it counts and breaks down, and changes nothing.")
	if err := s.apply(ctx, "acme-plan", "  mode: Plan\n"); err != nil {
		return err
	}
	if err := s.kubectl(ctx, "wait", "--for=condition=Ready", "dlqreplay/acme-plan", "--timeout=60s"); err != nil {
		return err
	}
	return s.kubectl(ctx, "get", "dlqreplay", "acme-plan", "-o", "wide")
}

func (s *story) tooEarly(ctx context.Context) error {
	say("The replay is applied while acme is still down. Ten entries go first, as a canary, and acme fails them: nothing else is touched.")
	if err := s.apply(ctx, "acme-after-outage", "  ratePerSecond: 1000\n"); err != nil {
		return err
	}
	if err := s.kubectl(ctx, "wait", "--for=condition=Stalled", "dlqreplay/acme-after-outage", "--timeout=60s"); err != nil {
		return err
	}
	if err := s.kubectl(ctx, "get", "dlqreplays"); err != nil {
		return err
	}
	return s.kubectl(ctx, "get", "dlqreplay", "acme-after-outage", "-o", `jsonpath={.status.conditions[?(@.type=="Stalled")].message}{"\n"}`)
}

func (s *story) replay(ctx context.Context) error {
	say("acme is back. The replay is asked to go on: a fresh canary, and then every entry, in the old order.")
	s.site.SetFault(42, logi.Fault{})
	if err := s.kubectl(ctx, "annotate", "dlqreplay", "acme-after-outage", "playbook.1pass.dev/requestedAt="+time.Now().UTC().Format(time.RFC3339)); err != nil {
		return err
	}
	if err := s.watch(ctx, "acme-after-outage"); err != nil {
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
func (s *story) watch(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for last := ""; ; {
		line, err := s.Kubectl(ctx, "-n", world.Namespace, "get", "dlqreplay", name, "-o", "wide", "--no-headers")
		if err != nil {
			return err
		}
		if withoutAge(line) != withoutAge(last) {
			fmt.Print(line)
			last = line
		}
		if fields := strings.Fields(line); len(fields) > 2 && fields[2] == v1alpha1.ReasonSucceeded {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the replay: %w", ctx.Err())
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
		fmt.Printf("%-8s received %d webhooks, %d of them more than once; it answered %s\n", a.name, c.Received, c.Duplicates, strings.Join(answers, ", "))
	}
	acme := counts[42]
	if acme.Received != outage || acme.Duplicates != 0 {
		return fmt.Errorf("acme received %d webhooks, %d of them twice; it should have received %d, each once", acme.Received, acme.Duplicates, outage)
	}
	fmt.Printf("\nEach of the %d webhooks that died reached acme exactly once.\n", outage)
	return nil
}

func (s *story) apply(ctx context.Context, name, spec string) error {
	manifest := fmt.Sprintf(`apiVersion: playbook.1pass.dev/v1alpha1
kind: DLQReplay
metadata: {name: %s, namespace: %s}
spec:
  platformRef: {name: production}
  applicationID: "42"
%s`, name, world.Namespace, spec)
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
