// Command replay is one contestant of BenchmarkRequeueBase: it replays the dead entries of an application as the tree
// does that it was built in. So it uses nothing that an earlier commit lacks.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run makes the ledger and plans, waits for a line, and prints how many nanoseconds the batches took. Its connection
// stays until another line comes.
func run(ctx context.Context) error {
	if _, err := platformdb.Migrate(ctx, os.Getenv("OWNER_URL")); err != nil {
		return err
	}
	db, err := platformdb.Open(os.Getenv("OPERATOR_URL"), nil)
	if err != nil {
		return err
	}
	defer db.Close()
	application, err := strconv.ParseInt(os.Getenv("APPLICATION"), 10, 64)
	if err != nil {
		return err
	}
	uid := uuid.NewString()
	if _, err := db.OpenOperation(ctx, platformdb.Identity{UID: uid, Kind: "DLQReplay", Namespace: "bench", Name: "bench",
		SpecDigest: uid, ApplicationID: application}); err != nil {
		return err
	}
	selection := platformdb.Selection{ApplicationID: application, Conflicts: "Settle", MaxReplays: 3}
	op, err := db.Plan(ctx, uid, selection, 10_000_000)
	if err != nil {
		return err
	}
	said := bufio.NewReader(os.Stdin)
	fmt.Println("planned")
	if _, err := said.ReadString('\n'); err != nil {
		return err
	}
	began := time.Now()
	for remaining := op.Remaining; remaining > 0; {
		batch, err := db.Requeue(ctx, uid, selection, platformdb.Pace{})
		if err != nil {
			return err
		}
		if batch.Looked == 0 {
			return errors.New("a batch without a pace looked at nothing")
		}
		remaining = batch.Remaining
	}
	fmt.Println(time.Since(began).Nanoseconds())
	_, err = said.ReadString('\n')
	return err
}
