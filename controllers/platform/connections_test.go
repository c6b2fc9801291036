package platform_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

// A lock makes the look hang after the database has answered the ping.
func TestADatabaseThatHangsIsUnreachableAndWrittenOnce(t *testing.T) {
	t.Parallel()
	site := newDatabase(t)
	p := platformOf(unwatched, "hangs")
	create(t, secret(unwatched, p.Name, site.URLAs("playbook_operator")), p)
	r := reconciler(t)
	expect(t, look(t, r, p), whenReady...)
	conn, err := pgx.Connect(t.Context(), site.URLAs(""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), `BEGIN; LOCK TABLE playbook.schema_migrations`); err != nil {
		t.Fatal(err)
	}
	first := look(t, r, p)
	expect(t, first, "DatabaseReachable=False/DatabaseUnreachable", "LedgerReady=Unknown/DatabaseUnreachable",
		"Reconciling=True/DatabaseUnreachable", "Ready=False/DatabaseUnreachable")
	if again := look(t, r, p); again.ResourceVersion != first.ResourceVersion {
		t.Errorf("written though nothing changed:\n%sand then\n%s", describe(first), describe(again))
	}
	if _, err := conn.Exec(t.Context(), `ROLLBACK`); err != nil {
		t.Fatal(err)
	}
	expect(t, look(t, r, p), whenReady...)
}

// usersOf returns a function that lists the roles as which the operator is connected to a site's database, sorted.
func usersOf(t *testing.T, site *world.Site) func() string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), site.URLAs(""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // a broken one fails the test elsewhere
	return func() (names string) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), `SELECT coalesce(string_agg(DISTINCT usename, ' ' ORDER BY usename), '')
			FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'playbook-operator'`).Scan(&names); err != nil {
			t.Fatal(err)
		}
		return names
	}
}

func TestAChangedSecretReplacesTheConnections(t *testing.T) {
	t.Parallel()
	site := newDatabase(t)
	execute(t, site.URLAs(""), `DROP ROLE IF EXISTS second_operator;
		CREATE ROLE second_operator LOGIN PASSWORD 'pa55word' IN ROLE playbook_operator`)
	p := platformOf(unwatched, "rotated")
	create(t, secret(unwatched, p.Name, site.URLAs("playbook_operator")), p)
	r := reconciler(t)
	expect(t, look(t, r, p), whenReady...)
	users := usersOf(t, site)
	if got := users(); got != "playbook_operator" {
		t.Fatalf("connected as %q", got)
	}
	changed := secret(unwatched, p.Name, strings.NewReplacer("playbook_operator", "second_operator", w.OperatorPassword,
		"pa55word").Replace(site.URLAs("playbook_operator")))
	if err := kube.Update(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new credentials are used and the old ones no more", func() bool {
		look(t, r, p)
		return users() == "second_operator"
	}, users)
	expect(t, look(t, r, p), whenReady...)

	// The Secret is labelled for another Platform, so it is not used any more, although a connection is open.
	changed.ResourceVersion, changed.Labels[v1alpha1.LabelPlatform] = "", "another"
	if err := kube.Update(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	var got *v1alpha1.Platform
	eventually(t, "the Secret is not used", func() bool {
		got = look(t, r, p)
		return strings.Contains(describe(got), "Ready=False/SecretUnusable")
	}, func() string { return describe(got) })
}

func TestASecretThatIsNoLongerNamedLeavesNoConnection(t *testing.T) {
	t.Parallel()
	site := newDatabase(t)
	execute(t, site.URLAs(""), `DROP ROLE IF EXISTS next_operator, next_monitor;
		CREATE ROLE next_operator LOGIN PASSWORD 'pa55word' IN ROLE playbook_operator;
		CREATE ROLE next_monitor LOGIN PASSWORD 'pa55word' IN ROLE playbook_monitor`)
	p := platformOf(unwatched, "renamed")
	p.Spec.Database.ReadOnlySecretRef = &v1alpha1.SecretReference{Name: "renamed-read-only"}
	p.Spec.Database.SigningSecretRef = &v1alpha1.SecretReference{Name: "renamed-signing"}
	create(t, p)
	for name, role := range map[string]string{"renamed": "playbook_operator", "renamed-read-only": "playbook_monitor",
		"renamed-signing": "playbook_signer"} {
		s := secret(unwatched, name, site.URLAs(role))
		s.Labels[v1alpha1.LabelPlatform] = p.Name
		create(t, s)
	}
	for role, name := range map[string]string{"next_operator": "renamed-next", "next_monitor": "renamed-next-read-only"} {
		s := secret(unwatched, name, strings.NewReplacer("playbook_operator", role, w.OperatorPassword,
			"pa55word").Replace(site.URLAs("playbook_operator")))
		s.Labels[v1alpha1.LabelPlatform] = p.Name
		create(t, s)
	}
	r := reconciler(t)
	expect(t, look(t, r, p), whenReady...)
	signing, err := r.Connections.Signing(t.Context(), p)
	if err == nil {
		err = signing.Ping(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	users := usersOf(t, site)
	if got := users(); got != "playbook_monitor playbook_operator playbook_signer" {
		t.Fatalf("connected as %q", got)
	}
	renamed := read(t, p)
	renamed.Spec.Database.SecretRef.Name = "renamed-next"
	renamed.Spec.Database.ReadOnlySecretRef.Name = "renamed-next-read-only"
	if err := kube.Update(t.Context(), renamed); err != nil {
		t.Fatal(err)
	}
	expect(t, look(t, r, p), whenReady...)
	eventually(t, "the Secrets that are named are used, and no other", func() bool {
		return users() == "next_monitor "+
			"next_operator playbook_signer"
	}, users)
	if err := signing.Ping(t.Context()); err != nil {
		t.Errorf("the pool that is still named was closed: %v", err)
	}
}

func TestADeletedPlatformLeavesNoConnectionAndNoMetric(t *testing.T) {
	t.Parallel()
	site := newDatabase(t)
	p := platformOf(unwatched, "deleted")
	create(t, secret(unwatched, p.Name, site.URLAs("playbook_operator")), p)
	r := reconciler(t)
	expect(t, look(t, r, p), whenReady...)
	if err := kube.Delete(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if result, err := r.Reconcile(t.Context(),
		ctrl.Request{NamespacedName: client.ObjectKeyFromObject(p)}); err != nil || result.RequeueAfter != 0 {
		t.Fatalf("%v, %v", result, err)
	}
	if n, _ := gauges(t, "playbook_platform_ready", p.Name); n != 0 {
		t.Errorf("%d series", n)
	}
	conn, err := pgx.Connect(t.Context(), site.URLAs(""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	eventually(t, "no connection is left", func() bool {
		var n int
		if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'playbook-operator'`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == 0
	}, func() string { return "connected" })
}
