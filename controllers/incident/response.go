package incident

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/claims"
	"github.com/1pass-dev/playbook-operator/controllers/incident/escalation"
	"github.com/1pass-dev/playbook-operator/controllers/incident/exposure"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/incident/jwks"
	"github.com/1pass-dev/playbook-operator/controllers/incident/notice"
	"github.com/1pass-dev/playbook-operator/controllers/incident/rollback"
	"github.com/1pass-dev/playbook-operator/controllers/incident/webhooks"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
	"github.com/1pass-dev/playbook-operator/controllers/systems/paging"
)

// response is what a pass works with. A room gets of it what it needs.
type response struct {
	r *Reconciler
	*journal.Journal
	// signals of the Platform, and own are those of the Incident's category.
	signals, own signals.Signals
	// first is the Incident of the same category that has the slot; nil where this one has it.
	first  *v1alpha1.Incident
	placed bool
	// unplaced is why it is not known who has the slot. Until then this Incident only pages.
	unplaced error
	// rose says that the severity rose in this pass.
	rose bool
	// open says that the Incident was not resolved when the pass began.
	open bool
}

func (r *Reconciler) response(v *playbook.Visit[*v1alpha1.Incident]) *response {
	return &response{r: r, open: v.Obj.Status.ResolvedAt == nil, Journal: journal.Open(journal.Journal{
		Visit: v, Client: r.Client, APIReader: r.APIReader, Recorder: r.Recorder, Clock: r.Now,
	})}
}

func (r *Reconciler) connect(ctx context.Context, v *playbook.Visit[*v1alpha1.Incident]) (*response, error) {
	s := r.response(v)
	if v.Wiped {
		s.statusLost()
	}
	// Before the first page: what people were told must be taken back when the object goes.
	err := playbook.PatchFinalizer(ctx, r.Client, v.Obj, controllerutil.AddFinalizer)
	if err != nil {
		return nil, err
	}
	if s.Platform, err = access.Find(ctx, r.Client, v.Obj.Namespace, v.Obj.Spec.PlatformRef.Name); err != nil {
		// This is the loudest thing on the row: only the Platform says whom to page.
		return nil, fmt.Errorf("nobody is paged, call somebody: %w", err)
	}
	s.signals = r.Signals(client.ObjectKeyFromObject(s.Platform))
	return s, nil
}

// statusLost says that the Incident had begun, and that nobody knows what it did. There is no ledger to read it from: a
// rollback that its Platform does not remember, or a person's decision, may be among it.
func (s *response) statusLost() {
	const text = "the status of this incident was lost. People are paged again. Nothing is rolled back without an " +
		"approval, and the public is told only by spec.notice: Publish, unless it was told before. If it is over: "
	meta.SetStatusCondition(&s.Incident.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionStatusLost, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonStatusLost,
		ObservedGeneration: s.Incident.Generation, Message: text + s.ResolveCommand(),
	})
	s.Warn(v1alpha1.ReasonStatusLost, "%s%s", text, s.ResolveCommand())
}

// resume lets a stalled incident go on. Where a person asked for it, what Render refused is tried again.
func resume(_ context.Context, s *response) error {
	if known := s.Incident.Status.Rollback; known != nil && playbook.Asked(s.Incident) {
		known.Refused = nil
	}
	return nil
}

// measure says after the steps who acts, who is overdue and how long it took.
func measure(ctx context.Context, s *response, after time.Duration) time.Duration {
	if err := s.place(ctx); apierrors.IsConflict(err) {
		after = playbook.Soonest(after, placeRetry)
	} else if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "looking for who acts")
		after = playbook.Soonest(after, slowestRetry)
	}
	if s.open && s.Incident.Status.ResolvedAt != nil {
		after = time.Millisecond // the people's lanes have run, and end now
	}
	if s.rose {
		after = time.Millisecond // so have they, and a new round begins
	}
	after = playbook.Soonest(after, s.overdue())
	s.measure()
	return after
}

func (s *response) claims() claims.Claims {
	return claims.Claims{Client: s.r.Client, APIReader: s.r.APIReader, Now: s.r.Now, Namespaces: s.r.Namespaces}
}

// place takes the slot of the Incident's category, or finds out who has it, once in a pass. Of several Incidents of a
// category one acts. People are paged before that.
func (s *response) place(ctx context.Context) error {
	if s.placed {
		return s.unplaced
	}
	s.placed = true
	// Whoever acts must be known to have begun, also where the status is lost. A page comes before that: it may come
	// twice.
	if s.unplaced = s.Mark(ctx); s.unplaced != nil {
		return s.unplaced
	}
	first, err := s.claims().Hold(ctx, s.Incident, s.signals)
	if err != nil {
		s.unplaced = fmt.Errorf("taking the place of the Platform's %s: %w", s.Incident.Spec.Category, err)
	}
	s.first = first
	return s.unplaced
}

// acts is the name of the Incident that acts in place of this one; empty where this one does.
func (s *response) acts() string {
	if s.first == nil {
		return ""
	}
	return s.first.Name
}

// tells is the name of the Incident that decides in place of this one what the public is told; empty where this one
// does. One that is less severe keeps nothing from the public that a person wants published. It may rise at any moment:
// the Platform has one notice, and whoever takes it in the Platform's status tells. That holds also where a manager
// ended just after it took it.
func (s *response) tells() string {
	if claim := s.Platform.Status.Notice; claim != nil && claim.IncidentUID == string(s.Incident.UID) {
		return ""
	}
	if s.first != nil && s.Incident.Spec.Notice == v1alpha1.NoticePublish && cmp.Or(s.first.Spec.Severity,
		s.first.Status.Severity) > s.Incident.Status.Severity {
		return ""
	}
	return s.acts()
}

func (s *response) escalation() *escalation.Escalation {
	return &escalation.Escalation{Journal: s.Journal, Access: s.r.Connections, Because: s.own.Because()}
}

func (s *response) notice() *notice.Notice {
	return &notice.Notice{
		Journal: s.Journal, Claims: s.claims(), Access: s.r.Connections, Aside: &s.r.aside,
		KeptOut: s.own.Down(), RollingBack: s.rollback().Asked(), First: s.tells(),
	}
}

func (s *response) rollback() *rollback.Rollback {
	return &rollback.Rollback{
		Journal: s.Journal, Claims: s.claims(), Access: s.r.Connections, Aside: &s.r.aside, Evidence: s.grounds(),
		First: s.acts(),
	}
}

func (s *response) webhooks() *webhooks.Webhooks {
	return &webhooks.Webhooks{
		Journal: s.Journal, Claims: s.claims(), Access: s.r.Connections, Aside: &s.r.aside, Own: s.own, First: s.acts(),
	}
}

func diagnose(ctx context.Context, s *response) (playbook.Outcome, error) {
	return s.webhooks().Diagnose(ctx)
}

// checkPlatform looks at JWKS and at the platform's keys. Where the platform is at fault, every relying party may be
// locked out: people are paged anew.
func checkPlatform(ctx context.Context, s *response) (playbook.Outcome, error) {
	check := &jwks.Check{Journal: s.Journal, Access: s.r.Connections, Aside: &s.r.aside}
	outcome, err := check.Run(ctx)
	s.rise()
	return outcome, err
}

func settleConflicts(ctx context.Context, s *response) (playbook.Outcome, error) {
	if err := s.place(ctx); err != nil {
		return playbook.Outcome{}, err
	}
	return s.webhooks().Settle(ctx)
}

func tellRelyingParty(ctx context.Context, s *response) (playbook.Outcome, error) {
	if err := s.place(ctx); err != nil {
		return playbook.Outcome{}, err
	}
	return s.webhooks().Tell(ctx)
}

func awaitRecovery(ctx context.Context, s *response) (playbook.Outcome, error) {
	return s.webhooks().Recover(ctx)
}

func escalate(ctx context.Context, s *response) (playbook.Outcome, error) {
	if wait := s.covered(ctx); wait != nil {
		return *wait, nil
	}
	return s.escalation().Run(ctx)
}

func announce(ctx context.Context, s *response) (playbook.Outcome, error) {
	if err := s.place(ctx); err != nil {
		return playbook.Outcome{}, err
	}
	return s.notice().Run(ctx)
}

func rollBack(ctx context.Context, s *response) (playbook.Outcome, error) {
	if err := s.place(ctx); err != nil {
		return playbook.Outcome{}, err
	}
	outcome, err := s.rollback().Run(ctx)
	if waiting := (*playbook.Waiting)(nil); errors.As(err, &waiting) && s.grounds().Ground {
		// A person must mend that, and the platform is down meanwhile.
		err = &playbook.Waiting{Reason: waiting.Reason, Err: fmt.Errorf("nothing is rolled back: %w", err), Urgent: true}
	}
	return outcome, err
}

func (s *response) exposure() *exposure.Exposure { return &exposure.Exposure{Journal: s.Journal} }

func endKey(ctx context.Context, s *response) (playbook.Outcome, error) {
	// Whoever acts must be known to have begun, also where the status is lost.
	if err := s.Mark(ctx); err != nil {
		return playbook.Outcome{}, err
	}
	return s.exposure().Run(ctx)
}

// mayEndKey says that what the Platform lacked for the end of the key is there now.
func (s *response) mayEndKey() bool {
	c := meta.FindStatusCondition(s.Incident.Status.Conditions, v1alpha1.StepKeyCompromised)
	return c != nil && c.Reason == v1alpha1.ReasonNotConfigured && exposure.Via(s.Platform) != ""
}

func restoreAutoDeploy(ctx context.Context, s *response) (playbook.Outcome, error) {
	return s.rollback().RestoreAutoDeploy(ctx)
}

var errNotTold = errors.New("not every channel knows yet that it is over")

// takeBack tells the people who were paged that it is over. It reports whether all were told.
func (s *response) takeBack(ctx context.Context) bool {
	return s.escalation().TakeBack(ctx, paging.Resolve, v1alpha1.PageResolved, s.Incident.Status.ResolvedAt.Time)
}
