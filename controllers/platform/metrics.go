package platform

import (
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
)

var (
	ready = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "playbook_platform_ready",
		Help: "1 if playbooks can work with the Platform, else 0.",
	}, []string{"namespace", "platform"})
	deadLetters = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "playbook_platform_dead_letters",
		Help: "Webhooks that died undelivered, for the 50 applications with the most, by the last count.",
	}, []string{"namespace", "platform", "application"})
	deadLettersTotal = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "playbook_platform_dead_letters_all",
		Help: "Webhooks that died undelivered, over all applications, by the last count.",
	}, []string{"namespace", "platform"})
)

func init() { metrics.Registry.MustRegister(ready, deadLetters, deadLettersTotal) }

func report(p *v1alpha1.Platform) {
	value := 0.0
	if meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionReady) {
		value = 1
	}
	ready.WithLabelValues(p.Namespace, p.Name).Set(value)
	labels := prometheus.Labels{"namespace": p.Namespace, "platform": p.Name}
	deadLetters.DeletePartialMatch(labels)
	letters := p.Status.DeadLetters
	if letters == nil {
		deadLettersTotal.DeletePartialMatch(labels)
		return
	}
	deadLettersTotal.WithLabelValues(p.Namespace, p.Name).Set(float64(*letters.Total))
	for _, a := range letters.Applications {
		deadLetters.WithLabelValues(p.Namespace, p.Name, a.ApplicationID).Set(float64(*a.Dead))
	}
}

func forgetMetrics(name types.NamespacedName) {
	labels := prometheus.Labels{"namespace": name.Namespace, "platform": name.Name}
	for _, gauge := range []*prometheus.GaugeVec{ready, deadLetters, deadLettersTotal} {
		gauge.DeletePartialMatch(labels)
	}
}
