package dlqreplay_test

import (
	"context"
	"net/url"
	"strings"
	"testing"

	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/stage"
)

func TestAReplayThroughAPooler(t *testing.T) {
	s := newBareScene(t, "pooled", quick)
	pooler, err := servers.StartPgBouncer(s.Ctx, shared.Postgres, servers.PgBouncerOptions{Mode: "transaction",
		Backends: 2, Users: map[string]string{"playbook_operator": shared.OperatorPassword}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pooler.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := s.Apply(s.Ctx); err != nil {
		t.Fatal(err)
	}
	s.databaseURL(s.altered(func(u *url.URL) { u.Host = pooler.Address() }))
	direct, err := url.Parse(s.URLAs("playbook_operator"))
	if err != nil {
		t.Fatal(err)
	}
	stage.Eventually(t, "the manager goes by way of the pooler", func() bool {
		return strings.Contains(pooler.Log(), "db="+strings.TrimPrefix(direct.Path, "/")+" user=playbook_operator")
	})
	s.seed(2500, "HTTP 503: down", 7)
	r := s.AwaitReady(s.apply("r", "{maxInFlight: 2000}"))
	s.progress(r, map[string]int64{"requeued": 2500, "delivered": 2500})
	s.eachOnce(2500)
}
