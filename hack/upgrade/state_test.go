package upgrade_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/1pass-dev/playbook-operator/api/v1alpha1"
	"github.com/1pass-dev/playbook-operator/hack/logi"
)

// A state is an object as it was stored at one moment, and all that it takes to go on from there. In a journal,
// ${SITE}, ${URL}, ${HOST}, ${UID}, ${PLATFORM_UID} and ${DIR} stand for what differs each time, and all times count
// from Created.
type state struct {
	// Created is when the API server made the object, Taken what the manager's clock said at the moment.
	Created time.Time `json:"created"`
	Taken   time.Time `json:"taken"`
	// Asked is how often Render was asked to roll back before.
	Asked  int    `json:"asked"`
	Health health `json:"health"`
	// Settings are YAML of the Platform's spec, in addition to what each scene has.
	Settings string `json:"settings,omitempty"`
	// Object has kind, metadata, spec and status; Platform is its Platform's status.
	Object   map[string]any `json:"object"`
	Platform map[string]any `json:"platform,omitempty"`
	// The far sides: Render's service, the pages and notices that are out, and rows by table.
	Render  logi.RenderSaved            `json:"render"`
	Pages   []logi.Page                 `json:"pages,omitempty"`
	Notices []logi.Notice               `json:"notices,omitempty"`
	Tables  map[string][]map[string]any `json:"tables,omitempty"`
}

// health is what the probes say about the platform, and since when.
type health struct {
	// Severity is empty while all is well.
	Severity v1alpha1.Severity `json:"severity,omitempty"`
	Since    time.Time         `json:"since,omitzero"`
}

// names are what differs each time.
type names struct{ site, url, uid, platformUID, dir string }

// pairs are placeholders and their values. A longer value comes before one that it contains.
func (n names) pairs() [][2]string {
	return [][2]string{
		{"${URL}", n.url}, {"${HOST}", strings.TrimPrefix(n.url, "http://")}, {"${UID}", n.uid}, {"${PLATFORM_UID}",
			n.platformUID}, {"${DIR}", n.dir},
		{"${SITE}", n.site},
	}
}

// A journal is the states of one object in their order. Its file has the first of them, and then what changed from one
// to the next, as JSON merge patches (RFC 7386) in YAML. So that a patch can change an item of a list, lists are maps
// by "#" and a number there.
type journal []map[string]any

// plain is a state as a journal has it, with placeholders for names.
func (s *state) plain(n names) (map[string]any, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding a state: %w", err)
	}
	var pairs []string
	for _, pair := range n.pairs() {
		if pair[1] != "" {
			pairs = append(pairs, pair[1], pair[0])
		}
	}
	var content map[string]any
	if err := json.Unmarshal([]byte(strings.NewReplacer(pairs...).Replace(string(text))), &content); err != nil {
		return nil, fmt.Errorf("encoding a state: %w", err)
	}
	return numbered(content).(map[string]any), nil
}

// write puts a journal into a file.
func (j journal) write(path string) error {
	var out []byte
	former := map[string]any{}
	for _, state := range j {
		out = append(append(out, "---\n"...), compact(changes(former, state), "")...)
		former = state
	}
	return os.WriteFile(path, out, 0o644)
}

// readJournal reads a journal.
func readJournal(path string) (journal, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var j journal
	former := map[string]any{}
	for document := range strings.SplitSeq(strings.TrimPrefix(string(text), "---\n"), "\n---\n") {
		var patch map[string]any
		if err := yaml.Unmarshal([]byte(document), &patch); err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		former = merge(former, patch)
		j = append(j, former)
	}
	return j, nil
}

// read is a state of a journal, with names in their places, and all times so that the object was created at an instant.
func read(plain map[string]any, n names, created time.Time) (*state, error) {
	text, err := json.Marshal(listed(plain))
	if err != nil {
		return nil, fmt.Errorf("decoding a state: %w", err)
	}
	var pairs []string
	for _, pair := range n.pairs() {
		pairs = append(pairs, pair[0], pair[1])
	}
	head := state{}
	var content any
	if err := errors.Join(json.Unmarshal(text, &head),
		json.Unmarshal([]byte(strings.NewReplacer(pairs...).Replace(string(text))), &content)); err != nil {
		return nil, fmt.Errorf("decoding a state: %w", err)
	}
	// Whole seconds, as statuses keep them.
	if text, err = json.Marshal(shift(content, created.Sub(head.Created).Truncate(time.Second))); err != nil {
		return nil, fmt.Errorf("decoding a state: %w", err)
	}
	s := &state{}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("decoding a state: %w", err)
	}
	return s, nil
}

// numbered turns lists into maps, and leaves out what is null. listed turns them back.
func numbered(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for key, value := range v {
			if value != nil {
				out[key] = numbered(value)
			}
		}
		return out
	case []any:
		if len(v) == 0 {
			return v
		}
		out := map[string]any{}
		for i, item := range v {
			out["#"+number(i)] = numbered(item)
		}
		return out
	}
	return v
}

func number(i int) string { return fmt.Sprintf("%02d", i) }

func listed(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	out, list := map[string]any{}, []any{}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		out[key] = listed(m[key])
		list = append(list, out[key])
	}
	if _, ok := m["#00"]; ok {
		return list
	}
	return out
}

// changes is the merge patch from one state to the next.
func changes(from, to map[string]any) map[string]any {
	patch := map[string]any{}
	for key := range from {
		if _, ok := to[key]; !ok {
			patch[key] = nil
		}
	}
	for key, value := range to {
		before, isMap := from[key].(map[string]any)
		after, isStill := value.(map[string]any)
		switch {
		case reflect.DeepEqual(from[key], value):
		case isMap && isStill:
			patch[key] = changes(before, after)
		default:
			patch[key] = value
		}
	}
	return patch
}

// merge applies a merge patch, and changes neither.
func merge(v, patch map[string]any) map[string]any {
	out := map[string]any{}
	maps.Copy(out, v)
	for key, value := range patch {
		before, _ := v[key].(map[string]any)
		after, isMap := value.(map[string]any)
		switch {
		case value == nil:
			delete(out, key)
		case isMap:
			out[key] = merge(before, after)
		default:
			out[key] = value
		}
	}
	return out
}

// line is the longest text that is written in one line.
const line = 300

// compact writes YAML. Its small parts are in one line each.
func compact(v map[string]any, indent string) []byte {
	var out []byte
	for _, key := range slices.Sorted(maps.Keys(v)) {
		text, err := json.Marshal(v[key])
		if err != nil {
			panic(err) // it came from JSON
		}
		name := key
		if strings.HasPrefix(key, "#") {
			name = strconv.Quote(key)
		}
		inner, isMap := v[key].(map[string]any)
		if isMap && len(text) > line {
			out = append(append(out, indent+name+":\n"...), compact(inner, indent+" ")...)
			continue
		}
		out = append(append(append(out, indent+name+": "...), text...), '\n')
	}
	return out
}

// timePattern finds times as Kubernetes, Go and Postgres write them in JSON.
var timePattern = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?`)

const toSeconds = "2006-01-02T15:04:05"

// shift moves all times by d, also those within texts. A webhook's payload is signed, and stays as it is.
func shift(v any, d time.Duration) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if key != "payload" {
				v[key] = shift(value, d)
			}
		}
	case []any:
		for i := range v {
			v[i] = shift(v[i], d)
		}
	case string:
		// Whole seconds move, so that the fraction stays as its writer wrote it.
		return timePattern.ReplaceAllStringFunc(v, func(text string) string {
			t, err := time.Parse(toSeconds, text[:len(toSeconds)])
			if err != nil {
				return text
			}
			return t.Add(d).Format(toSeconds) + text[len(toSeconds):]
		})
	}
	return v
}
