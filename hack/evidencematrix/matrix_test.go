package evidencematrix

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

const (
	otherOpen      = "another category is open"
	sameOpen       = "the same category is open"
	acknowledged   = "acknowledged"
	ackedUnseen    = "acknowledged before a rise, and both are seen at once"
	observeOnly    = "ObserveOnly"
	restarted      = "manager restarted"
	reapplied      = "Platform applied again"
	approved       = "approved"
	approvedOther  = "another pair approved"
	resolvedByHand = "resolved by hand"
	outageOpen     = "an Outage is open"
	statusLost     = "the status is lost, and ObserveOnly ends"
	// workers is how many cells run in parallel. It keeps the API server busy while cells wait for other systems.
	workers = 6
)

// A cell is one Incident, a pattern of its signals, and a twist.
type cell struct {
	category v1alpha1.IncidentCategory
	pattern  string
	opener   string
	severity v1alpha1.Severity
	twist    string
}

func (c cell) String() string {
	return fmt.Sprintf("%s, signals %s, opened by %s, severity %q, %s", c.category, c.pattern, c.opener, c.severity,
		c.twist)
}

// cells lists the product. For Incidents without a severity, it also pairs twists with the cells. An Outage has each
// twist with each pattern and each opener. Another category has each twist with each pattern, and the openers in turn.
func cells() (all []cell) {
	categories := append(of(v1alpha1.CategoryUnclassified, outage, webhook, keyExposed), reported...)
	for _, category := range categories {
		for i, pattern := range patterns {
			for j, opener := range of(person, bySignals) {
				for _, severity := range of(notGiven, sev1, sev3) {
					if category != keyExposed || severity != sev3 {
						all = append(all, cell{category, pattern, opener, severity, ""})
					}
				}
				for k, t := range twists {
					switch {
					case t.name == ackedUnseen && pattern != Rises:
					case (t.name == outageOpen || t.name == statusLost) && category != webhook:
						// An Outage that lost its status, or is not the only one, is tested in controllers/incident.
					case (t.name == approved || t.name == approvedOther) && category == webhook:
						// Nothing of it asks for an approval.
					case t.name == sameOpen && opener == bySignals:
						// In these cells the signals open no Incident. controllers/claims tests that.
					case category == outage, t.name == ackedUnseen, t.name == sameOpen, (i+j+k)%2 == 0:
						all = append(all, cell{category, pattern, opener, notGiven, t.name})
					}
				}
			}
		}
	}
	return all
}

var only = flag.String("cells", "", "play only the cells whose description matches this regular expression")

func TestEvidenceMatrix(t *testing.T) {
	began, wanted := time.Now(), regexp.MustCompile(*only)
	all := slices.DeleteFunc(cells(), func(c cell) bool { return !wanted.MatchString(c.String()) })
	var beyond atomic.Int64
	var group sync.WaitGroup
	queue := make(chan int)
	for range workers {
		group.Go(func() {
			for i := range queue {
				want, rows := all[i].want()
				got, err := all[i].play(t.Context(), fmt.Sprintf("cell-%d", i), faults{})
				if err != nil || rows != 1 || got != want {
					beyond.Add(1)
					t.Errorf("%s:\n got %q,\nwant %q by %d rows: %v", all[i], got, want, rows, err)
				}
			}
		})
	}
	for i := range all {
		queue <- i
	}
	close(queue)
	group.Wait()
	caught := catch(t)
	fmt.Printf("evidence matrix Incident: %d cells, %d beyond the table; %d/%d variants caught; %s\n",
		len(all), beyond.Load(), caught, len(variants), time.Since(began).Round(time.Second))
}

// play runs a cell. The Incident is opened, and the manager looks. Two minutes later, after the turn, the twist comes.
// The manager looks after 8 minutes, and after 31.
func (c cell) play(ctx context.Context, name string, faulty faults) (string, error) {
	s, err := newScene(ctx, name, c, faulty)
	if err != nil {
		return "", err
	}
	defer s.end()
	var first string
	if first, err = c.openFirst(s); err != nil {
		return "", err
	}
	obj, err := c.open(s)
	if err != nil {
		return "", err
	}
	if err := c.passes(s, obj, first); err != nil {
		return "", err
	}
	got, err := s.outcome(obj)
	if *only != "" {
		i, _ := s.get(obj)
		text, _ := json.MarshalIndent(i.Status, "", " ")
		fmt.Printf("%s: %s\n%s\n", c, got, text)
	}
	return got, err
}

// automation is ObserveOnly too where the status is lost: the Incident has done nothing by then that must be known.
func (c cell) automation() v1alpha1.Automation {
	if c.twist == observeOnly || c.twist == statusLost {
		return v1alpha1.AutomationObserveOnly
	}
	return v1alpha1.AutomationEnabled
}

func (c cell) passes(s *scene, obj, first string) error {
	at := func(d time.Duration) error {
		s.now = s.opened.Add(d)
		s.signals = look(c.pattern, c.opener == bySignals, s.opened, s.now)
		return s.pass(obj)
	}
	if err := at(0); err != nil {
		return err
	}
	if c.twist == acknowledged {
		// This twist comes before the turn, and the manager has seen it by then.
		if err := s.patch(&v1alpha1.Incident{}, obj, `{"spec":{"acknowledgement":{"by":"kim"}}}`); err != nil {
			return err
		}
		if err := at(turn / 2); err != nil {
			return err
		}
	}
	s.now = s.opened.Add(2 * time.Minute)
	if err := c.turns(s, obj); err != nil {
		return err
	}
	for _, d := range []time.Duration{8 * time.Minute, 31 * time.Minute} {
		if err := at(d); err != nil {
			return err
		}
		if first != "" && c.twist == otherOpen {
			if err := s.pass(first); err != nil {
				return err
			}
		}
	}
	return nil
}

// openFirst opens the other Incident, before the cell's: a person's sev3, while all signals are good.
func (c cell) openFirst(s *scene) (string, error) {
	category := c.category
	switch {
	case c.twist == otherOpen && c.category == v1alpha1.CategoryMergeInconsistency:
		category = v1alpha1.CategoryKeyMismatch
	case c.twist == otherOpen:
		category = v1alpha1.CategoryMergeInconsistency
	case c.twist == outageOpen:
		category = outage
	case c.twist != sameOpen:
		return "", nil
	}
	spec := v1alpha1.IncidentSpec{Category: category, Severity: sev3, Affected: affected(category)}
	if category == keyExposed {
		spec.Severity = v1alpha1.Sev2
	}
	first, err := s.open(&v1alpha1.Incident{ObjectMeta: metav1.ObjectMeta{Name: "first"}, Spec: spec})
	if err != nil {
		return "", err
	}
	s.signals = good(s.now.Add(-10*time.Hour), up, webhooks)
	return first, s.pass(first)
}

func affected(category v1alpha1.IncidentCategory) *v1alpha1.IncidentAffected {
	if category == keyExposed {
		return &v1alpha1.IncidentAffected{ApplicationIDs: []string{"42"}, Kid: "whk_1"}
	}
	return nil
}

// open opens the cell's Incident. If the signals opened it, its severity is patched in before the first pass.
func (c cell) open(s *scene) (string, error) {
	i := &v1alpha1.Incident{ObjectMeta: metav1.ObjectMeta{Name: "cell"}}
	i.Spec.Category, i.Spec.Affected = c.category, affected(c.category)
	if c.opener == person {
		i.Spec.Severity = c.severity
		return s.open(i)
	}
	if slices.Contains(reported, c.category) || c.category == keyExposed {
		i.Annotations = map[string]string{v1alpha1.AnnotationSeenSeverity: "sev2", v1alpha1.AnnotationSeenBy: "AlertFires"}
		i.Spec.Onset, i.Spec.Severity = new(metav1.NewTime(s.now.Add(-30*time.Second))), c.severity
		return s.open(i)
	}
	name, err := s.openBySignals(c.category, seen(c.category, c.pattern, s.now))
	if err == nil && c.severity != notGiven {
		err = s.patch(i, name, fmt.Sprintf(`{"spec":{"severity":%q}}`, c.severity))
	}
	return name, err
}

// turns makes the twist happen.
func (c cell) turns(s *scene, name string) error {
	switch c.twist {
	case ackedUnseen:
		return s.patch(&v1alpha1.Incident{}, name, `{"spec":{"acknowledgement":{"by":"kim"}}}`)
	case resolvedByHand:
		return s.patch(&v1alpha1.Incident{}, name, `{"spec":{"resolution":{"by":"dana"}}}`)
	case restarted:
		s.manager, s.signals = s.newManager(), nil
		return s.pass(name)
	case statusLost:
		return errors.Join(s.loseStatus(name), s.patch(&v1alpha1.Platform{}, "p", `{"spec":{"automation":"Enabled"}}`))
	case reapplied:
		p := &v1alpha1.Platform{ObjectMeta: metav1.ObjectMeta{Namespace: s.name, Name: "p"}}
		if err := kube.Delete(s.ctx, p); err != nil {
			return err
		}
		return s.applyPlatform()
	case approved, approvedOther:
		return s.approve(name, c.twist == approvedOther)
	}
	return nil
}

// approve approves the pair that an Incident asks for. For the other twist, or if it asks for none, it approves a pair
// that is not live.
func (s *scene) approve(name string, other bool) error {
	obj, err := s.get(name)
	if err != nil {
		return err
	}
	digest := "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	step := v1alpha1.StepRolledBack
	if obj.Status.Rollback != nil && !other {
		digest = obj.Status.Rollback.Digest
	}
	if obj.Spec.Category == keyExposed {
		step = v1alpha1.StepKeyCompromised
		if asked := askedFor(obj); asked != "" && !other {
			digest = asked
		}
	}
	return s.patch(obj, name, fmt.Sprintf(`{"spec":{"approvals":[{"step":%q,"digest":%q,"by":"dana"}]}}`, step, digest))
}

var aDigest = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// askedFor is the digest that a KeyExposure shows, for a person to approve; empty where it asks for none.
func askedFor(obj *v1alpha1.Incident) string {
	c := meta.FindStatusCondition(obj.Status.Conditions, v1alpha1.StepKeyCompromised)
	if c == nil {
		return ""
	}
	return aDigest.FindString(c.Message)
}
