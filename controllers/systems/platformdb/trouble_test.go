package platformdb_test

import (
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

func TestADatabaseThatTakesNoWritesIsNamed(t *testing.T) {
	k := newKeyring(t)
	u, err := url.Parse(k.url)
	if err != nil {
		t.Fatal(err)
	}
	readOnly := func(doing string, err error) {
		t.Helper()
		if !errors.Is(err, platformdb.ErrReadOnly) || !platformdb.Answered(err) || !strings.Contains(err.Error(), u.Host) ||
			strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v; want that %s is read-only", doing, err, u.Host)
		}
	}
	replay := k.open("replay")
	k.exec(`ALTER ROLE playbook_operator SET default_transaction_read_only = on`)
	other := openAs(t, k.postgres, "playbook_operator") // a session that begins now
	_, err = other.Check(t.Context())
	readOnly("checking", err)
	readOnly("closing", other.CloseOperation(t.Context(), replay, platformdb.OutcomeDeleted))
	k.exec(`ALTER ROLE playbook_operator RESET default_transaction_read_only`)
	// At once: a session that began before is not used any more.
	if _, err := other.Check(t.Context()); err != nil {
		t.Errorf("once it takes writes: %v", err)
	}

	if err := k.postgres.RestartAsReplica(t.Context()); err != nil {
		t.Fatal(err)
	}
	for err = platformdb.ErrUnreachable; errors.Is(err, platformdb.ErrUnreachable); { // sessions that the restart ended
		_, err = k.operator.Check(t.Context())
	}
	readOnly("checking a replica", err)
	_, err = k.operator.OpenOperation(t.Context(), identity(uuid.NewString()))
	readOnly("opening on a replica", err)
}
