package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/1pass-dev/playbook-operator/controllers/playbook"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

// databaseURL adds the flag that all subcommands have.
func databaseURL(flags *flag.FlagSet, role string) *string {
	return flags.String("database-url", "", "`URL` to connect by as "+role+
		"; the default is the environment variable DATABASE_URL, which ps does not show")
}

func resolve(url string) (string, error) {
	if url == "" {
		url = os.Getenv("DATABASE_URL")
	}
	if url == "" {
		return "", errors.New("no database: set DATABASE_URL, or --database-url")
	}
	return url, nil
}

func migrate(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("manager migrate", flag.ContinueOnError)
	url := databaseURL(flags,
		"the owner of the platform's tables. The owner may create a schema in the database and, unless an administrator "+
			"created them, roles")
	if err := parse(flags, args); err != nil {
		return err
	}
	owner, err := resolve(*url)
	if err != nil {
		return err
	}
	applied, err := platformdb.Migrate(ctx, owner)
	if err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	if len(applied) == 0 {
		fmt.Printf("the ledger is up to date at version %d; roles and grants were applied again\n",
			platformdb.LatestVersion())
		return nil
	}
	fmt.Printf("applied %s, and roles and grants\n", strings.Join(applied, ", "))
	return nil
}

func undoSettlement(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("manager undo-settlement", flag.ContinueOnError)
	url := databaseURL(flags, "playbook_operator")
	uid := flags.String("uid", "", "metadata.uid of the DLQReplay that settled them; required")
	entries := flags.String("entries", "", "comma-separated `ids` of entries; the default is all that it settled")
	if err := parse(flags, args); err != nil {
		return err
	}
	if *uid == "" {
		return errors.New("--uid is required: kubectl get dlqreplay NAME -o jsonpath='{.metadata.uid}'")
	}
	var ids []int64
	if *entries != "" {
		for _, text := range strings.Split(*entries, ",") {
			id, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
			if err != nil {
				return fmt.Errorf("--entries: %q is no id", text)
			}
			ids = append(ids, id)
		}
	}
	return withDatabase(*url, func(db *platformdb.DB) error {
		undone, err := db.UndoSettlement(ctx, *uid, ids)
		if err != nil {
			return err
		}
		fmt.Println(playbook.Count(undone, "entry is a dead letter again", "entries are dead letters again"))
		return nil
	})
}

func purge(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("manager purge", flag.ContinueOnError)
	url := databaseURL(flags, "playbook_operator")
	olderThan := flags.Duration("older-than", 90*24*time.Hour,
		"clear error texts of operations that were closed longer ago")
	if err := parse(flags, args); err != nil {
		return err
	}
	if *olderThan < 0 {
		return errors.New("--older-than must not be negative")
	}
	return withDatabase(*url, func(db *platformdb.DB) error {
		cleared, err := db.Purge(ctx, time.Now().Add(-*olderThan))
		if err != nil {
			return err
		}
		fmt.Printf("cleared %s; what was done to which entry and key stays\n",
			playbook.Count(cleared, "error text", "error texts"))
		return nil
	})
}

func parse(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		// The arguments are not repeated: one may be a URL with a password.
		return fmt.Errorf("%s takes flags only, and no other arguments: it was given %d", flags.Name(), flags.NArg())
	}
	return nil
}

func withDatabase(url string, do func(*platformdb.DB) error) error {
	url, err := resolve(url)
	if err != nil {
		return err
	}
	db, err := platformdb.Open(url, nil)
	if err != nil {
		return err
	}
	defer db.Close()
	return do(db)
}
