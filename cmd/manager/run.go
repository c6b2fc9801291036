package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/zapr"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/claims"
	"github.com/1pass-dev/playbook-operator/controllers/dlqreplay"
	"github.com/1pass-dev/playbook-operator/controllers/incident"
	"github.com/1pass-dev/playbook-operator/controllers/keycompromise"
	"github.com/1pass-dev/playbook-operator/controllers/opening"
	"github.com/1pass-dev/playbook-operator/controllers/platform"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
)

// leaseName is the one that config/rbac/leader_election.yaml grants.
const leaseName = "playbook-manager"

type options struct {
	namespaces              map[string]cache.Config
	leaderElect             bool
	leaderElectionNamespace string
	metricsAddress          string
	probeAddress            string
}

func run(ctx context.Context, args []string) error {
	o := options{namespaces: map[string]cache.Config{}}
	// controller-runtime registers --kubeconfig on the same set.
	flags := flag.CommandLine
	flags.Init("manager", flag.ContinueOnError)
	flags.Func("namespaces", "comma-separated `names` of the namespaces to watch; required", func(names string) error {
		list, err := splitNames(names)
		for _, name := range list {
			o.namespaces[name] = cache.Config{}
		}
		return err
	})
	flags.BoolVar(&o.leaderElect, "leader-elect", false,
		"work only while holding the lease: of several managers, one works at a time")
	flags.StringVar(&o.leaderElectionNamespace, "leader-election-namespace", "",
		"`namespace` of the lease; the default is the pod's own")
	flags.StringVar(&o.metricsAddress, "metrics-bind-address", "0", "`address` to serve metrics on; 0 serves none")
	flags.StringVar(&o.probeAddress, "health-probe-bind-address", ":8081",
		"`address` to serve /healthz and /readyz on; 0 serves none")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	if err := parse(flags, args); err != nil {
		return err
	}
	if len(o.namespaces) == 0 {
		return errors.New("--namespaces is required: name the namespaces to watch, such as --namespaces=playbook-system")
	}
	mgr, err := newManager(o)
	if err != nil {
		return err
	}
	connections := &access.Connections{Secrets: mgr.GetAPIReader(), Transport: outbound.NewTransport()}
	defer connections.Close()
	if err := add(mgr, connections, slices.Sorted(maps.Keys(o.namespaces))); err != nil {
		return err
	}
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("running the controllers: %w", err)
	}
	return nil
}

// splitNames splits a flag's namespaces. None is empty: to a client, the empty name is the whole cluster.
func splitNames(names string) ([]string, error) {
	list := strings.Split(names, ",")
	for i := range list {
		if list[i] = strings.TrimSpace(list[i]); list[i] == "" {
			return nil, errors.New("a name is empty")
		}
	}
	return list, nil
}

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	return scheme
}

func newManager(o options) (ctrl.Manager, error) {
	logConfig := zap.NewProductionConfig()
	logConfig.EncoderConfig.EncodeTime = zapcore.RFC3339TimeEncoder
	// Errors say what was being done. A stack trace does not help the engineer on call.
	logConfig.DisableStacktrace = true
	logger, err := logConfig.Build()
	if err != nil {
		return nil, fmt.Errorf("preparing the log: %w", err)
	}
	log := zapr.NewLogger(logger)
	ctrl.SetLogger(log)
	klog.SetLogger(log)

	config, err := ctrl.GetConfig()
	if err != nil {
		return nil, fmt.Errorf("finding the API server: %w", err)
	}
	// The API server's priority and fairness limits the manager. The client's default of 5 requests a second would delay a
	// page behind status writes.
	config.QPS = -1

	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                  newScheme(),
		Cache:                   cache.Options{DefaultNamespaces: o.namespaces},
		Client:                  client.Options{FieldOwner: "playbook-manager"},
		LeaderElection:          o.leaderElect,
		LeaderElectionID:        leaseName,
		LeaderElectionNamespace: o.leaderElectionNamespace,
		// The process ends right after the manager stops.
		LeaderElectionReleaseOnCancel: true,
		Metrics:                       metricsserver.Options{BindAddress: o.metricsAddress},
		HealthProbeBindAddress:        o.probeAddress,
	})
	if err != nil {
		return nil, fmt.Errorf("preparing the manager: %w", err)
	}
	return mgr, nil
}

// add puts the parts together.
func add(mgr ctrl.Manager, connections *access.Connections, namespaces []string) error {
	prober := &signals.Prober{Cache: mgr.GetCache(), Connections: connections}
	if err := mgr.Add(prober); err != nil {
		return fmt.Errorf("adding the Prober: %w", err)
	}
	platforms := &platform.Reconciler{
		Client: mgr.GetClient(), APIReader: mgr.GetAPIReader(), Connections: connections,
		Recorder: mgr.GetEventRecorder("platform"), Prober: prober, Namespaces: namespaces,
		Opener: &opening.Opener{
			Claims:   claims.Claims{Client: mgr.GetClient(), APIReader: mgr.GetAPIReader(), Now: time.Now},
			Recorder: mgr.GetEventRecorder("platform"),
		},
	}
	if err := platforms.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("adding the Platform controller: %w", err)
	}
	incidents := &incident.Reconciler{
		Client: mgr.GetClient(), APIReader: mgr.GetAPIReader(), Connections: connections,
		Recorder: mgr.GetEventRecorder("incident"), Namespaces: namespaces,
		Signals: prober.Signals, Changes: prober.Changes(), Now: time.Now,
	}
	if err := incidents.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("adding the Incident controller: %w", err)
	}
	replays := &dlqreplay.Reconciler{
		Client: mgr.GetClient(), APIReader: mgr.GetAPIReader(), Connections: connections,
		Recorder: mgr.GetEventRecorder("dlqreplay"),
	}
	if err := replays.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("adding the DLQReplay controller: %w", err)
	}
	compromises := &keycompromise.Reconciler{
		Client: mgr.GetClient(), APIReader: mgr.GetAPIReader(), Connections: connections,
		Recorder: mgr.GetEventRecorder("keycompromise"),
	}
	if err := compromises.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("adding the KeyCompromise controller: %w", err)
	}
	for _, probe := range []func(string, healthz.Checker) error{mgr.AddHealthzCheck, mgr.AddReadyzCheck} {
		if err := probe("ping", healthz.Ping); err != nil {
			return fmt.Errorf("adding a probe: %w", err)
		}
	}
	return nil
}
