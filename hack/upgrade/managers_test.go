package upgrade_test

import (
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/access"
	"github.com/1pass-dev/playbook-operator/controllers/dlqreplay"
	"github.com/1pass-dev/playbook-operator/controllers/incident"
	"github.com/1pass-dev/playbook-operator/controllers/keycompromise"
	"github.com/1pass-dev/playbook-operator/controllers/signals"
)

// This file alone knows how this release's reconcilers are put together. The rest knows objects, and what the far
// sides saw.

// wiring is what a manager gets from its surroundings.
type wiring struct {
	kube      client.WithWatch
	transport http.RoundTripper
	now       func() time.Time
	health    func() health
}

// newManager is a manager that has just started: a reconciler by kind. Close closes its connections.
func newManager(w wiring) (byKind map[string]reconcile.Reconciler, closeConnections func()) {
	connections := &access.Connections{Secrets: w.kube, Transport: w.transport}
	recorder := func() *events.FakeRecorder { return events.NewFakeRecorder(1000) }
	return map[string]reconcile.Reconciler{
		"Incident": &incident.Reconciler{
			Client: w.kube, APIReader: w.kube, Recorder: recorder(), Connections: connections, Now: w.now,
			Signals: func(client.ObjectKey) signals.Signals { return signalsOf(w.health()) },
		},
		"DLQReplay": &dlqreplay.Reconciler{Client: w.kube, APIReader: w.kube, Recorder: recorder(),
			Connections: connections},
		"KeyCompromise": &keycompromise.Reconciler{Client: w.kube, APIReader: w.kube, Recorder: recorder(),
			Connections: connections},
	}, connections.Close
}

// signalsOf is what the prober says of a platform of this health.
func signalsOf(h health) signals.Signals {
	up := signals.Signal{Condition: v1alpha1.ConditionUpAnswers, State: metav1.ConditionTrue, Since: h.Since}
	if h.Severity != "" {
		up.State, up.Severity, up.Message, up.Ground = metav1.ConditionFalse, h.Severity, badUp, h.Severity == v1alpha1.Sev1
		up.BadFrom, up.EnoughFrom = h.Since, h.Since
	}
	return signals.Signals{Each: []signals.Signal{up}}
}

// badUp is a bad look at /up.
const badUp = "/up answers HTTP 502"
