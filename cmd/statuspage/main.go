// The status page is for platforms without a page at Statuspage.io. It shows the public notices of one namespace's sev1
// Incidents, and nothing else. It may read Incidents, and has no other credential. It needs the API server only to
// learn of changes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "statuspage:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("statuspage", flag.ContinueOnError)
	namespace := flags.String("namespace", "", "`name` of the namespace whose Incidents' notices are shown; required")
	title := flags.String("title", "Status", "`text` above the page")
	address := flags.String("url", "./", "public `URL` of the page, for the feed's links")
	listen := flags.String("listen", ":8080", "`address` to serve on")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *namespace == "" || flags.NArg() > 0 {
		return errors.New("--namespace is required, and takes the name of one namespace")
	}
	// The credentials are the service account's in a pod, and kubectl's elsewhere.
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(),
		nil).ClientConfig()
	if err != nil {
		return fmt.Errorf("finding the API server: %w", err)
	}
	incidents, err := newIncidents(config, *namespace)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	site := Site{
		Title: *title, URL: strings.TrimSuffix(*address, "/") + "/", Latest: incidents.Notices, Now: time.Now,
	}
	server := &http.Server{
		Handler:           site.handler(),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	ctx, cancel := context.WithCancel(ctx)
	// It is not waited for: it only reads, and rests for up to a minute after the API server went away.
	go incidents.RunWithContext(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		<-ctx.Done()
		graceful, done := context.WithTimeout(context.Background(), 5*time.Second)
		defer done()
		_ = server.Shutdown(graceful) // after that, answers that are not read yet are cut off
	})
	err = server.Serve(listener)
	cancel()
	running.Wait()
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}
