package crashmatrix_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/crashmatrix"
	"github.com/1pass-dev/playbook-operator/hack/servers"
	"github.com/1pass-dev/playbook-operator/hack/world"
)

func newStage(t *testing.T) *stage {
	t.Helper()
	ctx := context.Background()
	w, err := world.Start(ctx, t.TempDir(), servers.PostgresOptions{Fast: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	ctrl.SetLogger(logr.Discard())
	s := &stage{World: w, scheme: runtime.NewScheme()}
	utilruntime.Must(clientgoscheme.AddToScheme(s.scheme))
	utilruntime.Must(v1alpha1.AddToScheme(s.scheme))
	httpClient, err := rest.HTTPClientFor(w.ControlPlane.Config())
	if err != nil {
		t.Fatal(err)
	}
	if s.mapper, err = apiutil.NewDynamicRESTMapper(w.ControlPlane.Config(), httpClient); err != nil {
		t.Fatal(err)
	}
	if s.admin, err = client.New(w.ControlPlane.Config(), client.Options{Scheme: s.scheme, Mapper: s.mapper}); err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := w.ControlPlane.KubeconfigForServiceAccount(ctx, world.Namespace, world.ServiceAccount)
	if err != nil {
		t.Fatal(err)
	}
	if s.manager, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
		t.Fatal(err)
	}
	s.manager.QPS = -1
	return s
}

func (s *slot) secret(suffix string, data map[string]string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: world.Namespace, Name: s.name + "-" + suffix,
			Labels: map[string]string{v1alpha1.LabelPlatform: s.name}},
		StringData: data,
	}
}

func (s *slot) close(ctx context.Context) error {
	return errors.Join(s.db.Close(ctx), s.site.Close(ctx))
}

// cached is c with the reads of a manager's client, which come from a cache that lists and watches. A stale one never
// hears of a change: each object stays as it was when it was first read.
func (s *stage) cached(c client.WithWatch, stale bool) client.Client {
	var mu sync.Mutex
	known := map[string]client.Object{}
	return interceptor.NewClient(c, interceptor.Funcs{
		Get: func(ctx context.Context, _ client.WithWatch, key client.ObjectKey, obj client.Object,
			options ...client.GetOption) error {
			mu.Lock()
			defer mu.Unlock()
			id := fmt.Sprintf("%T %s", obj, key)
			if first := known[id]; first != nil && stale {
				reflect.ValueOf(obj).Elem().Set(reflect.ValueOf(first.DeepCopyObject()).Elem())
				return nil
			}
			if err := s.admin.Get(ctx, key, obj, options...); err != nil {
				return err
			}
			known[id] = obj.DeepCopyObject().(client.Object)
			return nil
		},
	})
}

// kubernetesWrite names a write to the API server; reads are no effects.
func kubernetesWrite(request *http.Request) string {
	if request.Method == http.MethodGet {
		return ""
	}
	_, path, _ := strings.Cut(request.URL.Path, "/namespaces/"+world.Namespace+"/")
	return request.Method + " " + objectName.ReplaceAllString("/"+path, "")
}

// faultsAt is what can happen at an effect. Inside a transaction, a crash after a statement is a crash before the next
// one; and another manager that comes there waits for the locks, which is as if it came after the COMMIT.
func faultsAt(effect crashmatrix.Recorded) []crashmatrix.Fault {
	if effect.Within {
		return []crashmatrix.Fault{crashmatrix.DiedBefore, crashmatrix.ReplyLost}
	}
	return []crashmatrix.Fault{crashmatrix.DiedBefore, crashmatrix.ReplyLost, crashmatrix.KilledAfter,
		crashmatrix.Overtaken}
}

// each calls do for all targets, one at a time in each slot, until it returns false.
func each[T any](slots []*slot, targets []T, do func(*slot, T) bool) {
	var next atomic.Int64
	var stop atomic.Bool
	var workers sync.WaitGroup
	for _, s := range slots {
		workers.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(targets) && !stop.Load(); i = next.Add(1) - 1 {
				if !do(s, targets[i]) {
					stop.Store(true)
				}
			}
		})
	}
	workers.Wait()
}

func rewrite(pattern, with string) func(string) string {
	compiled := regexp.MustCompile(pattern)
	return func(sql string) string { return compiled.ReplaceAllString(sql, with) }
}

// swallow drops writes to the API server, and answers with the object as it is.
func swallow(which func(path, body string) bool) func(http.RoundTripper) http.RoundTripper {
	return func(next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(request *http.Request) (*http.Response, error) {
			if request.Method != http.MethodPatch {
				return next.RoundTrip(request)
			}
			body, err := io.ReadAll(request.Body)
			if err != nil {
				return nil, err
			}
			request = request.Clone(request.Context())
			request.Body = io.NopCloser(bytes.NewReader(body))
			if which(request.URL.Path, string(body)) {
				request.Method, request.Body, request.ContentLength = http.MethodGet, nil, 0
				request.URL.Path, request.URL.RawQuery = strings.TrimSuffix(request.URL.Path, "/status"), ""
			}
			return next.RoundTrip(request)
		})
	}
}

// repeat makes a request again when it gets no answer.
func repeat(next http.RoundTripper) http.RoundTripper {
	return roundTrip(func(request *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(request.Body)
		if err != nil {
			return nil, err
		}
		for attempt := 0; ; attempt++ {
			again := request.Clone(request.Context())
			again.Body = io.NopCloser(bytes.NewReader(body))
			if response, err := next.RoundTrip(again); err == nil || attempt == 1 {
				return response, err
			}
		}
	})
}

// over is the manager's client, with each request going over the wire. write names those that are effects.
func (s *stage) over(wire *crashmatrix.Wire, write func(*http.Request) string, v variant) (client.WithWatch, error) {
	config := rest.CopyConfig(s.manager)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		next = wire.Transport(next, write)
		if v.kube != nil {
			next = v.kube(next)
		}
		return next
	})
	return client.NewWithWatch(config, client.Options{Scheme: s.scheme, Mapper: s.mapper, FieldOwner: "playbook-manager"})
}

// meanwhile lets another manager's pass go first, as far as it gets: it may wait for a lock that this one holds.
func meanwhile(passes *sync.WaitGroup, pass func()) {
	done := make(chan struct{})
	passes.Go(func() {
		defer close(done)
		pass()
	})
	select {
	case <-done:
	case <-time.After(150 * time.Millisecond):
	}
}
