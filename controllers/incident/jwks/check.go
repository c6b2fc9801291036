// Package jwks says on which side a kid is missing that a relying party does not find.
package jwks

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/incident/journal"
	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

const (
	// asks is how often JWKS is asked, each time over a connection of its own: replicas can't be counted from outside.
	asks = 10
	// askTimeout bounds each time, and lookTimeout all of them and the database.
	askTimeout  = 5 * time.Second
	lookTimeout = 90 * time.Second
	// skew is how far the clock of the database may be off, and how long a replica may take to read its keys.
	skew = time.Minute
	// maxKids and maxNamed are v1alpha1's, and how many a message names.
	maxKids  = 64
	maxNamed = 4
)

// Check is the check of one Incident.
type Check struct {
	*journal.Journal
	Access *access.Connections
	Aside  *playbook.Aside
}

// Run asks JWKS ten times, and compares the answers with the keys that the platform signs webhooks with, and with the
// kid that the Incident names. It changes nothing.
func (c *Check) Run(ctx context.Context) (playbook.Outcome, error) {
	if c.ByHand() {
		return playbook.NotNeeded("resolved by %s", c.Incident.Spec.Resolution.By), nil
	}
	connections, p, kid := c.Access, c.Platform.DeepCopy(), ""
	var applications []string
	if affected := c.Incident.Spec.Affected; affected != nil {
		kid, applications = affected.Kid, affected.ApplicationIDs
	}
	found, err := playbook.Ask(ctx, c.Aside, string(c.Incident.UID)+"/jwks", "JWKS and the platform's keys", lookTimeout,
		func(ctx context.Context) (*seen, error) { return look(ctx, connections, p, applications, kid), nil })
	if err != nil {
		return playbook.Outcome{}, err
	}
	fault, text := found.judge(kid)
	check := &v1alpha1.IncidentKeyCheck{At: journal.Seconds(c.Now), Fault: fault, Answers: new(int32(len(found.answers)))}
	check.Kids = found.inAll()
	check.Kids = check.Kids[:min(len(check.Kids), maxKids)]
	if len(found.answers) > 0 {
		check.CacheSeconds = new(int64(found.cached().Seconds()))
	}
	c.Incident.Status.KeyCheck = check
	if fault == v1alpha1.KeyFaultPlatform {
		c.Warn(v1alpha1.StepPlatformChecked, "%s", text)
	}
	return playbook.Done("%s", text), nil
}

// seen is what a check reads.
type seen struct {
	// answers of JWKS that had keys, and the last error of those that had none.
	answers []*platformapi.JWKS
	err     error
	// active are the kids that the platform signs the webhooks of these applications with, and row is that of the
	// Incident's kid; nil where the table lacks it. keysErr is why they could not be read.
	active  []platformdb.ActiveKid
	row     *platformdb.Key
	keysErr error
}

func look(ctx context.Context, connections *access.Connections, p *v1alpha1.Platform, applications []string,
	kid string) *seen {
	s := &seen{}
	for range asks {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		answer, err := platformapi.FetchJWKS(ctx, p.Spec.URL, connections.Transport)
		cancel()
		if err != nil {
			s.err = err
			continue
		}
		s.answers = append(s.answers, answer)
	}
	if p.Spec.Database == nil {
		s.keysErr = fmt.Errorf("the Platform %q has no spec.database", p.Name)
		return s
	}
	s.keysErr = s.readKeys(ctx, connections, p, applications, kid)
	return s
}

func (s *seen) readKeys(ctx context.Context, connections *access.Connections, p *v1alpha1.Platform,
	applications []string, kid string) error {
	db, err := connections.Monitor(ctx, p)
	if err != nil {
		return err
	}
	active, err := db.ActiveKids(ctx)
	if err != nil {
		return access.DatabaseError(err)
	}
	for _, key := range active {
		if len(applications) == 0 || slices.Contains(applications, strconv.FormatInt(key.ApplicationID, 10)) {
			s.active = append(s.active, key)
		}
	}
	if kid == "" {
		return nil
	}
	rows, err := db.Keys(ctx, []string{kid})
	if err != nil {
		return access.DatabaseError(err)
	}
	if len(rows) > 0 {
		s.row = &rows[0]
	}
	return nil
}

// has is how many answers had a kid.
func (s *seen) has(kid string) (n int) {
	for _, answer := range s.answers {
		if slices.Contains(answer.Kids, kid) {
			n++
		}
	}
	return n
}

// inAll are the kids that all answers had, in order.
func (s *seen) inAll() (kids []string) {
	if len(s.answers) == 0 {
		return nil
	}
	for _, kid := range s.answers[0].Kids {
		if kid != "" && len(kid) <= 255 && s.has(kid) == len(s.answers) && !slices.Contains(kids, kid) {
			kids = append(kids, kid)
		}
	}
	slices.Sort(kids)
	return kids
}

// cached is how long a relying party may use an answer.
func (s *seen) cached() (longest time.Duration) {
	for _, answer := range s.answers {
		longest = max(longest, answer.MaxAge)
	}
	return longest
}

// agree says that all answers had the same kids.
func (s *seen) agree() bool {
	same := s.inAll()
	return !slices.ContainsFunc(s.answers, func(answer *platformapi.JWKS) bool {
		kids := slices.DeleteFunc(slices.Clone(answer.Kids), func(kid string) bool { return kid == "" })
		slices.Sort(kids)
		return !slices.Equal(slices.Compact(kids), same)
	})
}

// judge says on which side the kid is missing, and what was seen. The platform is at fault where each of ten answers
// lacks a kid that it signs with for longer than caches explain. Fewer answers, or some that have it, leave it open.
func (s *seen) judge(kid string) (v1alpha1.KeyFault, string) {
	texts := []string{s.answersText()}
	fault := v1alpha1.KeyFaultNotPlatform
	switch {
	case s.keysErr != nil:
		texts = append(texts, "which kids are active is unknown: "+playbook.Normalise(s.keysErr.Error()))
		fault = v1alpha1.KeyFaultUnknown
	case len(s.active) == 0:
		texts = append(texts, "the application has no active key")
		fault = v1alpha1.KeyFaultUnknown
	}
	if len(s.answers) < asks {
		fault = v1alpha1.KeyFaultUnknown
	}
	var lacking []string
	for _, key := range s.active {
		n := s.has(key.Kid)
		if n == len(s.answers) {
			continue
		}
		lacking = append(lacking, fmt.Sprintf("%s kid %q of application %d, active for %s",
			playbook.Count(len(s.answers)-n, "answer lacks", "answers lack"), key.Kid, key.ApplicationID,
			playbook.Words(key.Age)))
		switch {
		case n == 0 && len(s.answers) == asks && key.Age > s.cached()+skew:
			fault = v1alpha1.KeyFaultPlatform
		case fault != v1alpha1.KeyFaultPlatform:
			fault = v1alpha1.KeyFaultUnknown
		}
	}
	texts = append(texts, lacking[:min(len(lacking), maxNamed)]...)
	if len(lacking) == 0 && len(s.active) > 0 && len(s.answers) > 0 {
		texts = append(texts, "each active kid is in each answer")
	}
	if kid != "" {
		texts = append(texts, s.kidText(kid))
	}
	texts = append(texts, s.advice(fault))
	return fault, strings.Join(texts, "; ")
}

func (s *seen) answersText() string {
	switch {
	case len(s.answers) == 0:
		return "JWKS did not answer, of ten times: " + playbook.Normalise(s.err.Error())
	case len(s.answers) < asks:
		return fmt.Sprintf("JWKS answered %s, of ten; the last failure: %s",
			playbook.Count(len(s.answers), "time", "times"), playbook.Normalise(s.err.Error()))
	case !s.agree():
		return "ten answers of JWKS differ: a replica or a cache is stale"
	}
	return "ten answers of JWKS agree"
}

// kidText says what is known of the kid that the relying party does not find. Token keys have no row.
func (s *seen) kidText(kid string) string {
	served := fmt.Sprintf("kid %q is in %s", kid, playbook.Count(s.has(kid), "answer", "answers"))
	switch row := s.row; {
	case s.keysErr != nil:
		return served
	case row == nil:
		return served + ", and no webhook key has that kid: it may be of a token"
	case row.RevokedAt != nil:
		return fmt.Sprintf("%s, and it was revoked at %s", served, row.RevokedAt.UTC().Format(time.RFC3339))
	case row.GraceUntil != nil:
		return fmt.Sprintf("%s, and it is of application %d, %s, with grace until %s", served, row.ApplicationID, row.Status,
			row.GraceUntil.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("%s, and it is of application %d, %s", served, s.row.ApplicationID, s.row.Status)
}

func (s *seen) advice(fault v1alpha1.KeyFault) string {
	switch fault {
	case v1alpha1.KeyFaultPlatform:
		return "THE PLATFORM IS AT FAULT: no relying party can verify what it signs. Mend its JWKS"
	case v1alpha1.KeyFaultNotPlatform:
		return fmt.Sprintf("the platform is not at fault. A relying party may use an old answer for %s: ask it to fetch "+
			"JWKS "+
			"anew", playbook.Words(s.cached()))
	}
	return "which side is at fault can't be told by that"
}
