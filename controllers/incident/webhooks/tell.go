package webhooks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/claims"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
	"github.com/1pass-dev/playbook-operator/controllers/systems/paging"
)

const (
	// toldFor is how long nobody is told the same again after a channel accepted it.
	toldFor = 24 * time.Hour
	// stillDying is how long ago the last one died of a cause that somebody is told: a day.
	stillDying = 24 * time.Hour
	// channelPatience is how long one channel is tried before the next one.
	channelPatience = time.Minute
	// channelRetry is how soon the channels are tried again.
	channelRetry = 10 * time.Second
	// sendTimeout bounds the messages of one try. It is shorter than journal.Settle.
	sendTimeout = 25 * time.Second
	// receiving is how long ago others must have received something.
	receiving = 15 * time.Minute
)

// Tell is the step that tells the on-call of a relying party that its webhooks die, where it is the one that has to
// mend it: at least once for an application and a cause, and not again within a day. It tells nobody while others
// receive nothing either: then the fault is probably the platform's.
func (w *Webhooks) Tell(ctx context.Context) (playbook.Outcome, error) {
	if w.ByHand() {
		return playbook.NotNeeded("resolved by %s", w.Incident.Spec.Resolution.By), nil
	}
	if c := meta.FindStatusCondition(w.Incident.Status.Conditions, v1alpha1.StepDiagnosed); c != nil &&
		c.Status == metav1.ConditionUnknown {
		return playbook.Wait(time.Second, v1alpha1.ReasonLooking, "why webhooks are dead is not known yet"), nil
	}
	var told, silent []string
	var waits playbook.Outcome
	for _, g := range w.theirs() {
		party := relyingParty(w.Platform, g.ApplicationID)
		if party == nil || len(party.Notify) == 0 {
			text := fmt.Sprintf("nobody can tell application %s (%s): Platform %q has no relyingParties[].notify for it",
				g.ApplicationID, g.Cause, w.Platform.Name)
			if party != nil && party.Oncall != "" {
				text += "; on call there: " + party.Oncall
			}
			silent = append(silent, text)
			continue
		}
		outcome, text, err := w.tell(ctx, g, party)
		switch {
		case err != nil:
			return playbook.Outcome{}, err
		case !outcome.Stops():
			told = append(told, text)
		case !waits.Stops():
			// One whose channels are down keeps no other from being told.
			waits = outcome
		}
	}
	if waits.Stops() {
		return waits, nil
	}
	text := strings.Join(append(told, silent...), "; ")
	switch {
	case len(told) > 0:
		return playbook.Done("%s", text), nil
	case len(silent) == 0 && w.mayStillDie():
		return playbook.Wait(interval, v1alpha1.ReasonNotTelling, "no relying party has to mend anything so far"), nil
	case len(silent) > 0:
		return playbook.NotNeeded("%s. Call them", text), nil
	}
	return playbook.NotNeeded("no relying party has to mend anything that died within the last day"), nil
}

// theirs are the findings that the relying party has to mend, and that are not old.
func (w *Webhooks) theirs() (groups []v1alpha1.DiagnosedGroup) {
	if w.Incident.Status.Diagnosis == nil {
		return nil
	}
	for _, g := range w.Incident.Status.Diagnosis.Groups {
		switch {
		case g.Newest == nil || w.Now.Sub(g.Newest.Time) > stillDying:
			continue
		case !slices.Contains([]v1alpha1.DiagnosisFinding{v1alpha1.FindingRelyingPartyFails,
			v1alpha1.FindingRelyingPartyLimits, v1alpha1.FindingRefused, v1alpha1.FindingKidServed}, g.Finding):
			continue
		case slices.ContainsFunc(groups, func(o v1alpha1.DiagnosedGroup) bool {
			return o.ApplicationID == g.ApplicationID && o.Cause == g.Cause
		}):
			continue // one message for a cause, about the group with the most entries
		}
		groups = append(groups, g)
	}
	return groups
}

func relyingParty(p *v1alpha1.Platform, application string) *v1alpha1.RelyingParty {
	i := slices.IndexFunc(p.Spec.RelyingParties,
		func(r v1alpha1.RelyingParty) bool { return r.ApplicationID == application })
	if i < 0 {
		return nil
	}
	return &p.Spec.RelyingParties[i]
}

// tell one relying party of one cause. The Outcome is what is waited for, or zero; then text says who knows.
func (w *Webhooks) tell(ctx context.Context, g v1alpha1.DiagnosedGroup, party *v1alpha1.RelyingParty) (
	outcome playbook.Outcome, text string, err error) {
	key := w.key(g.ApplicationID, g.Cause)
	channel, asked, sendErr := playbook.Answer[string](ctx, w.Aside, key)
	if !asked {
		known := claims.Told(&w.Platform.Status, g.ApplicationID, g.Cause)
		if knows(known, w.Now) {
			return playbook.Outcome{}, knownText(party, known), nil
		}
		if outcome, err = w.mayTell(ctx, g.ApplicationID); err != nil || outcome.Stops() {
			return outcome, "", err
		}
		claim, err := w.begin(ctx, g)
		if err != nil {
			return playbook.Outcome{}, "", err
		}
		if knows(claim, w.Now) {
			return playbook.Outcome{}, knownText(party, claim), nil
		}
		channel, sendErr = w.send(ctx, key, *claim, party, w.message(g, party, claim))
	}
	return w.heard(ctx, g, party, channel, sendErr)
}

// heard takes over what the channels answered.
func (w *Webhooks) heard(ctx context.Context, g v1alpha1.DiagnosedGroup, party *v1alpha1.RelyingParty, channel string,
	sendErr error) (playbook.Outcome, string, error) {
	under := (*playbook.UnderWay)(nil)
	switch {
	case errors.As(sendErr, &under):
		return under.Wait(v1alpha1.ReasonTelling, "%s is being told", party.Name), "", nil
	case sendErr != nil:
		return playbook.Wait(channelRetry, v1alpha1.ReasonTelling, "%s could not be told yet, and it is tried again: %s",
			party.Name, journal.Text(sendErr)), "", nil
	}
	p, err := w.Claims.Insist(ctx, w.PlatformKey(), accepted(g.ApplicationID, g.Cause, channel, w.Clock()))
	if err != nil {
		return playbook.Outcome{}, "", fmt.Errorf("writing down that %s was told: %w", party.Name, err)
	}
	w.Platform = p
	text := knownText(party, claims.Told(&p.Status, g.ApplicationID, g.Cause))
	w.Record(v1alpha1.ReasonTelling, "%s", text)
	return playbook.Outcome{}, text, nil
}

// accepted writes down that a channel accepted a message.
func accepted(application string, cause v1alpha1.DeadLetterCause, channel string,
	at time.Time) func(*v1alpha1.PlatformStatus) {
	return func(status *v1alpha1.PlatformStatus) {
		if t := claims.Told(status, application, cause); t != nil && t.State == v1alpha1.ToldTelling {
			t.State, t.AcceptedAt, t.Channel = v1alpha1.ToldAccepted, journal.Seconds(at), channel
		}
	}
}

// knows says that the relying party was told within the last day.
func knows(told *v1alpha1.ToldRelyingParty, now time.Time) bool {
	return told != nil && told.AcceptedAt != nil && now.Sub(told.AcceptedAt.Time) < toldFor
}

func knownText(party *v1alpha1.RelyingParty, told *v1alpha1.ToldRelyingParty) string {
	if told == nil || told.AcceptedAt == nil {
		return party.Name + " was told, and somebody else changed what the Platform knows of that"
	}
	text := fmt.Sprintf("%s was told of %s at %s by %s", party.Name, told.Cause,
		told.AcceptedAt.UTC().Format(time.RFC3339), told.Channel)
	if told.State == v1alpha1.ToldOver {
		text += ", and then that it is over. It is told again a day after that at the earliest: call them"
	}
	return text
}

// mayTell returns what is waited for; the zero Outcome where a relying party may be told.
func (w *Webhooks) mayTell(ctx context.Context, application string) (playbook.Outcome, error) {
	if outcome, err := w.gate(ctx); err != nil || outcome.Stops() {
		return outcome, err
	}
	if w.Platform.Spec.Database == nil {
		return playbook.NotNeeded("relying parties are not told: without spec.database nobody knows whether others " +
			"receive. Call them"), nil
	}
	p := w.Platform.DeepCopy()
	connections := w.Access
	receivers, err := playbook.Ask(ctx, w.Aside, string(w.Incident.UID)+"/receivers", "who receives webhooks", lookTimeout,
		func(ctx context.Context) ([]int64, error) {
			db, err := connections.Monitor(ctx, p)
			if err != nil {
				return nil, err
			}
			receivers, err := db.Receivers(ctx, receiving)
			return receivers, access.DatabaseError(err)
		})
	if err != nil {
		return playbook.Outcome{}, err
	}
	if !slices.ContainsFunc(receivers, func(id int64) bool { return strconv.FormatInt(id, 10) != application }) {
		return playbook.Wait(interval, v1alpha1.ReasonNotTelling, "application %s is not told: no other received anything "+
			"within %s, so the fault may be the platform's", application, playbook.Words(receiving)), nil
	}
	return playbook.Outcome{}, nil
}

// begin writes down that the relying party is being told, before it is. Of several Incidents each may tell it: twice is
// a nuisance, and never is an outage that lasts.
func (w *Webhooks) begin(ctx context.Context, g v1alpha1.DiagnosedGroup) (*v1alpha1.ToldRelyingParty, error) {
	p, err := w.Claims.Decide(ctx, w.PlatformKey(), func(status *v1alpha1.PlatformStatus) bool {
		known := claims.Told(status, g.ApplicationID, g.Cause)
		if knows(known, w.Now) || known != nil && known.State == v1alpha1.ToldTelling &&
			known.IncidentUID == string(w.Incident.UID) {
			return false
		}
		claims.Tell(status, v1alpha1.ToldRelyingParty{
			ApplicationID: g.ApplicationID, Cause: g.Cause, Incident: w.Incident.Name, IncidentUID: string(w.Incident.UID),
			State: v1alpha1.ToldTelling, Since: cmp.Or(g.Since, g.Newest), BegunAt: journal.Seconds(w.Now),
		})
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("writing down that application %s is told: %w", g.ApplicationID, err)
	}
	w.Platform = p
	return claims.Told(&p.Status, g.ApplicationID, g.Cause), nil
}

// send a message beside the passes, by the first channel that accepts it. It returns that channel's Secret.
func (w *Webhooks) send(ctx context.Context, key string, told v1alpha1.ToldRelyingParty, party *v1alpha1.RelyingParty,
	message paging.Message) (string, error) {
	connections, p, channels := w.Access, w.Platform.DeepCopy(), slices.Clone(party.Notify)
	// A channel that does not answer for a minute is passed over; after the last one, all are tried.
	from := int(w.Now.Sub(told.BegunAt.Time) / channelPatience)
	if from >= len(channels) {
		from = 0
	}
	platforms, platform, clock := w.Claims, w.PlatformKey(), w.Clock
	return playbook.Change(ctx, w.Aside, key, "telling "+party.Name, sendTimeout,
		func(ctx context.Context) (string, error) {
			return sendByAny(ctx, connections, p, channels[from:], message)
		},
		func(channel string, err error) {
			// The manager stops. Where this is not written, the next one tells them again.
			if err == nil {
				_, _ = platforms.Insist(context.Background(), platform,
					accepted(told.ApplicationID, told.Cause, channel, clock()))
			}
		})
}

// sendByAny tries the channels in their order. One that refuses the message, or can't be used, is passed over. One that
// may have it is tried again.
func sendByAny(ctx context.Context, connections *access.Connections, p *v1alpha1.Platform,
	channels []v1alpha1.Channel, message paging.Message) (string, error) {
	var problems []error
	for _, channel := range channels {
		opened, err := connections.Channel(ctx, p, channel)
		if err == nil {
			err = opened.Send(ctx, connections.Transport, message)
		}
		if err == nil {
			return channel.SecretRef.Name, nil
		}
		problems = append(problems, fmt.Errorf("%s: %w", channel.SecretRef.Name, err))
		refused, waiting := (*outbound.Refused)(nil), (*playbook.Waiting)(nil)
		if !errors.As(err, &refused) && !errors.As(err, &waiting) {
			break
		}
	}
	return "", errors.Join(problems...)
}

// TellOver tells those who were told, by whichever Incident, that their webhooks arrive again. It looks once more
// whether that is so: that they arrived before is no proof. It reports whether all know, or were given up a minute
// after since.
func (w *Webhooks) TellOver(ctx context.Context, since time.Time) (bool, error) {
	// Past the cache: they may have been told a moment ago.
	p, err := w.Claims.Read(ctx, w.PlatformKey())
	if err != nil {
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	}
	w.Platform = p
	if !slices.ContainsFunc(w.Platform.Status.Told,
		func(t v1alpha1.ToldRelyingParty) bool { return t.State == v1alpha1.ToldAccepted }) {
		return true, nil
	}
	now, err := w.lately(ctx)
	late, under := w.Clock().Sub(since) >= channelPatience, (*playbook.UnderWay)(nil)
	switch {
	case err != nil && (!late || errors.As(err, &under)):
		return false, nil
	case err != nil:
		w.Warn(v1alpha1.ReasonStillRings, "no relying party was told that its webhooks arrive again, since nobody knows: "+
			"%.200s. Tell them", journal.Text(err))
		return true, nil
	}
	all := true
	for _, told := range w.Platform.Status.Told {
		if told.State != v1alpha1.ToldAccepted {
			continue
		}
		if !now.each[told.ApplicationID].over(told.Cause) {
			if told.IncidentUID == string(w.Incident.UID) {
				w.untold(told)
			}
			continue
		}
		sent, err := w.tellOver(ctx, told, late)
		if err != nil {
			return false, err
		}
		all = all && sent
	}
	return all, nil
}

// Orphans warns of those who were told by this Incident and are not told that it is over, since it is deleted.
func (w *Webhooks) Orphans() {
	for _, told := range w.Platform.Status.Told {
		if told.IncidentUID == string(w.Incident.UID) && told.State != v1alpha1.ToldOver {
			w.untold(told)
		}
	}
}

// untold warns once that a relying party is not told that it is over.
func (w *Webhooks) untold(told v1alpha1.ToldRelyingParty) {
	text := fmt.Sprintf("the on-call of application %s was told of %s, and is not told that it is over",
		told.ApplicationID,
		told.Cause)
	if !slices.ContainsFunc(w.Incident.Status.Timeline,
		func(e v1alpha1.TimelineEntry) bool { return strings.HasPrefix(e.Text, text) }) {
		w.Warn(v1alpha1.ReasonStillRings, "%s, since nobody knows that it is. Tell them when it is", text)
	}
}

// tellOver tells one relying party that its webhooks arrive again, by the channel that accepted that they don't.
func (w *Webhooks) tellOver(ctx context.Context, told v1alpha1.ToldRelyingParty, late bool) (bool, error) {
	party := relyingParty(w.Platform, told.ApplicationID)
	if party != nil {
		channels := slices.DeleteFunc(slices.Clone(party.Notify),
			func(c v1alpha1.Channel) bool { return c.SecretRef.Name != told.Channel })
		key := w.key(told.ApplicationID, told.Cause) + "/over"
		_, asked, err := playbook.Answer[string](ctx, w.Aside, key)
		if !asked && len(channels) > 0 {
			connections, p, message := w.Access, w.Platform.DeepCopy(), w.over(told, party)
			_, err = playbook.Change(ctx, w.Aside, key, "telling "+party.Name, sendTimeout,
				func(ctx context.Context) (string, error) { return sendByAny(ctx, connections, p, channels, message) },
				playbook.Readable)
		}
		switch {
		case err != nil && !late:
			return false, nil
		case err != nil:
			w.Warn(v1alpha1.ReasonStillRings, "%s was not told that its webhooks arrive again: %.200s. Tell them",
				party.Name, journal.Text(err))
		}
	}
	_, err := w.Claims.Insist(ctx, w.PlatformKey(), func(status *v1alpha1.PlatformStatus) {
		if t := claims.Told(status, told.ApplicationID, told.Cause); t != nil && t.BegunAt.Equal(told.BegunAt) {
			t.State = v1alpha1.ToldOver
		}
	})
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("writing down that application %s knows that it is over: %w", told.ApplicationID, err)
	}
	return true, nil
}

func (w *Webhooks) key(application string, cause v1alpha1.DeadLetterCause) string {
	return fmt.Sprintf("%s/tell/%s/%s", w.Incident.UID, application, cause)
}

// message to a relying party. It says nothing of others, of the cluster, or of what to type.
func (w *Webhooks) message(g v1alpha1.DiagnosedGroup, party *v1alpha1.RelyingParty,
	told *v1alpha1.ToldRelyingParty) paging.Message {
	m := w.about(*told, party, paging.Trigger, told.BegunAt.Time)
	count := strconv.FormatInt(*g.Entries, 10)
	since := told.Since.UTC().Format(time.RFC3339)
	fault := theirFault[g.Cause]
	if g.StatusCode != nil {
		fault = statusCodes.ReplaceAllString(fault, fmt.Sprintf("(HTTP %d)", *g.StatusCode))
	}
	m.Summary = fmt.Sprintf("%s could not deliver webhooks to %s (application %s) since %s: %s. Dead so far: %s. They "+
		"are kept", m.Source, party.Name, g.ApplicationID, since, fault, count)
	m.Details["dead"], m.Details["since"] = count, since
	return m
}

func (w *Webhooks) over(told v1alpha1.ToldRelyingParty, party *v1alpha1.RelyingParty) paging.Message {
	m := w.about(told, party, paging.Resolve, w.Incident.Status.ResolvedAt.Time)
	m.Summary = fmt.Sprintf("%s delivers webhooks to %s (application %s) again", m.Source, party.Name, told.ApplicationID)
	return m
}

func (w *Webhooks) about(told v1alpha1.ToldRelyingParty, party *v1alpha1.RelyingParty, event paging.Event,
	at time.Time) paging.Message {
	host := "the identity platform"
	if u, err := url.Parse(w.Platform.Spec.URL); err == nil {
		host = u.Host
	}
	return paging.Message{
		Key: fmt.Sprintf("%s/webhooks/%s/%s", host, told.ApplicationID, told.Cause), Event: event,
		Severity: string(v1alpha1.Sev3), Source: host, At: at,
		Details: map[string]string{"application": told.ApplicationID, "name": party.Name, "cause": string(told.Cause)},
	}
}

// statusCodes are replaced where it is known which one was answered.
var statusCodes = regexp.MustCompile(`\(HTTP [^)]*\)`)

// theirFault is what the relying party reads, by cause.
var theirFault = map[v1alpha1.DeadLetterCause]string{
	v1alpha1.CauseServerError: "your endpoint answers HTTP 5xx, or can't be reached",
	v1alpha1.CauseTimeout:     "your endpoint does not answer in time",
	v1alpha1.CauseRateLimited: "your endpoint wants fewer requests (HTTP 408 or 429)",
	v1alpha1.CauseClientError: "your endpoint refuses them (HTTP 4xx)",
	v1alpha1.CauseSignatureRejected: "your endpoint refuses the signature (HTTP 401), whose key is in our JWKS. " +
		"Fetch JWKS anew",
}
