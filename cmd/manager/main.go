// The manager runs the playbooks: it reconciles Platforms, Incidents, DLQReplays and KeyCompromises. Its subcommands
// are for tasks that need an owner's credentials or a person's decision. They run once, from a terminal.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const usage = `Usage:
  manager [flags]           run the controllers
  manager migrate           create or update the ledger, the roles and their grants in a platform's database
  manager undo-settlement   undo a replay's settlements: the entries become dead letters again
  manager purge             clear relying parties' error texts from the ledger
  manager cleanup           let objects go after an uninstall: take off the finalizer, and say what each left undone

cleanup connects to the API server as kubectl does. The other subcommands connect to the platform's database, by
--database-url or by the environment variable DATABASE_URL. The URL is not stored.
manager <subcommand> -h lists its flags.

Flags of manager:
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := dispatch(ctx, os.Args[1:]); errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "manager:", err)
		os.Exit(1)
	}
}

func dispatch(ctx context.Context, args []string) error {
	if len(args) == 0 || args[0] != "" && args[0][0] == '-' {
		return run(ctx, args)
	}
	switch args[0] {
	case "migrate":
		return migrate(ctx, args[1:])
	case "undo-settlement":
		return undoSettlement(ctx, args[1:])
	case "purge":
		return purge(ctx, args[1:])
	case "cleanup":
		return cleanup(ctx, args[1:])
	}
	return fmt.Errorf("there is no subcommand %q: it is migrate, undo-settlement, purge or cleanup", args[0])
}
