package webhooks

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformapi"
	"github.com/1pass-dev/playbook-operator/controllers/systems/platformdb"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func at(minutes int) time.Time { return noon.Add(time.Duration(minutes) * time.Minute) }

func groupOf(application int64, kid, cause string, status int, entries int64, since, newest time.Time,
	ids ...int64) platformdb.Dead {
	return platformdb.Dead{ApplicationID: application, Kid: kid, Cause: cause, Status: status, Entries: entries,
		Since: since, Newest: newest, EntryIDs: ids}
}

func TestWhatIsMendedInOneWayIsOneGroup(t *testing.T) {
	t.Parallel()
	dead := []platformdb.Dead{
		groupOf(1, "old", "ServerError", 503, 3, at(5), at(9), 5, 7),
		groupOf(1, "new", "ServerError", 503, 4, at(2), at(3), 4, 11),
		groupOf(2, "b", "ServerError", 503, 1, at(2), at(3), 21),
		groupOf(2, "b", "ServerError", 0, 1, at(1), at(4), 20),
		groupOf(2, "b", "ClientError", 422, 2, at(1), at(1), 22),
		groupOf(2, "c", "ClientError", 422, 2, at(1), at(1), 23),
		groupOf(2, "b", "ClientError", 404, 1, at(1), at(1), 24),
		groupOf(2, "b", "SignatureRejected", 401, 1, at(1), at(1), 25),
		groupOf(2, "c", "SignatureRejected", 401, 1, at(1), at(1), 26),
	}
	want := []platformdb.Dead{
		groupOf(1, "", "ServerError", 503, 7, at(2), at(9), 4, 5, 7),
		groupOf(2, "", "ClientError", 422, 4, at(1), at(1), 22, 23),
		groupOf(2, "", "ServerError", 0, 2, at(1), at(4), 20, 21),
		groupOf(2, "", "ClientError", 404, 1, at(1), at(1), 24),
		groupOf(2, "b", "SignatureRejected", 401, 1, at(1), at(1), 25),
		groupOf(2, "c", "SignatureRejected", 401, 1, at(1), at(1), 26),
	}
	if got := merge(dead); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// Entry by entry from the admin API, or by groups from the database: the diagnosis is the same.
func TestMergingLosesNoEntry(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		listed := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) platformapi.DeadEntry {
			return platformapi.DeadEntry{
				ID: rapid.Int64Range(1, 1000).Draw(r, "id"), ApplicationID: rapid.Int64Range(1, 3).Draw(r, "application"),
				Kid: rapid.SampledFrom([]string{"a", "b"}).Draw(r, "kid"), DeadAt: at(rapid.IntRange(0, 60).Draw(r, "at")),
				Cause:  rapid.SampledFrom([]string{"ServerError", "ClientError", "SignatureRejected"}).Draw(r, "cause"),
				Status: rapid.SampledFrom([]int{0, 401, 422, 503}).Draw(r, "status"),
			}
		}), 0, 60).Draw(r, "entries")
		applications := rapid.SampledFrom([][]int64{nil, {1}, {2, 3}}).Draw(r, "applications")
		wanted := map[int64]int64{}
		for _, e := range listed {
			if applications == nil || e.ApplicationID == applications[0] || len(applications) == 2 && e.ApplicationID == 3 {
				wanted[e.ApplicationID]++
			}
		}
		got, last := map[int64]int64{}, int64(1<<60)
		for _, d := range merge(group(listed, applications)) {
			got[d.ApplicationID] += d.Entries
			if d.Entries > last || d.Newest.Before(d.Since) || len(d.EntryIDs) == 0 || len(d.EntryIDs) > maxIDs ||
				int64(len(d.EntryIDs)) > d.Entries {
				r.Fatalf("%+v after one of %d", d, last)
			}
			last = d.Entries
		}
		if !reflect.DeepEqual(got, wanted) {
			r.Fatalf("%v, want %v", got, wanted)
		}
	})
}

func TestTheKidSaysWhichSideIsStale(t *testing.T) {
	t.Parallel()
	served := platformdb.Key{ApplicationID: 1, Kid: "k", Served: true}
	ended := platformdb.Key{ApplicationID: 1, Kid: "k"}
	others := platformdb.Key{ApplicationID: 2, Kid: "k", Served: true}
	rows := func(key platformdb.Key) map[string]platformdb.Key { return map[string]platformdb.Key{key.Kid: key} }
	lacking, showing := map[string]bool{"x": true}, map[string]bool{"k": true}
	for _, c := range []struct {
		known keys
		want  v1alpha1.DiagnosisFinding
	}{
		{keys{showing, rows(served)}, v1alpha1.FindingKidServed},
		{keys{lacking, rows(served)}, v1alpha1.FindingKidNotServed},
		{keys{nil, rows(served)}, v1alpha1.FindingNotTold},
		{keys{showing, rows(ended)}, v1alpha1.FindingKidEndedButServed},
		{keys{lacking, rows(ended)}, v1alpha1.FindingKidEnded},
		{keys{nil, rows(ended)}, v1alpha1.FindingKidEnded},
		{keys{showing, rows(others)}, v1alpha1.FindingKidUnknown},
		{keys{showing, map[string]platformdb.Key{}}, v1alpha1.FindingKidUnknown},
		{keys{showing, nil}, v1alpha1.FindingKidServed},
		{keys{lacking, nil}, v1alpha1.FindingKidMissing},
		{keys{nil, nil}, v1alpha1.FindingNotTold},
	} {
		d := platformdb.Dead{ApplicationID: 1, Kid: "k", Cause: "SignatureRejected", Status: 401, Entries: 1}
		if got := finding(d, c.known); got != c.want {
			t.Errorf("%+v: %s, want %s", c.known, got, c.want)
		}
	}
}

// However many there are, the status is bounded and says how many it leaves out.
func TestADiagnosisIsBounded(t *testing.T) {
	t.Parallel()
	var dead []platformdb.Dead
	for i := range 100 {
		dead = append(dead, platformdb.Dead{ApplicationID: int64(i), Cause: "ClientError", Status: 404, Entries: 1,
			Kid: strings.Repeat("é", 200), EntryIDs: []int64{1}})
		dead = append(dead, platformdb.Dead{ApplicationID: int64(i), Cause: "SignatureRejected", Status: 401, Entries: 1,
			Kid: strings.Repeat("é", 200), EntryIDs: []int64{1}})
	}
	d := assemble(merge(dead), keys{}, 17)
	d.Entries, d.Counted = new(int64(300)), v1alpha1.CountAtLeast
	if len(d.Groups) != maxGroups || d.MoreGroups == nil || *d.MoreGroups != 200-maxGroups+17 || d.Groups[0].Since != nil {
		t.Errorf("%d groups and %v more, the first %+v", len(d.Groups), d.MoreGroups, d.Groups[0])
	}
	for _, g := range d.Groups {
		if len(g.Kid) > maxKid {
			t.Errorf("a kid of %d bytes", len(g.Kid))
		}
	}
	if got := Text(d); !strings.HasPrefix(got, "at least 300 webhooks are dead; application 0, 1: it refuses") ||
		!strings.HasSuffix(got, "and 213 more groups, see status.diagnosis") {
		t.Errorf("it says %q", got)
	}
}
