package main

import (
	"encoding/xml"
	"net/url"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// atomFeed has what RFC 4287 asks for, as a reader parses it.
type atomFeed struct {
	XMLName xml.Name    `xml:"http://www.w3.org/2005/Atom feed"`
	Lang    string      `xml:"http://www.w3.org/XML/1998/namespace lang,attr"`
	ID      []string    `xml:"http://www.w3.org/2005/Atom id"`
	Title   []string    `xml:"http://www.w3.org/2005/Atom title"`
	Updated []time.Time `xml:"http://www.w3.org/2005/Atom updated"`
	Author  []struct {
		Name []string `xml:"http://www.w3.org/2005/Atom name"`
	} `xml:"http://www.w3.org/2005/Atom author"`
	Links   []atomLink  `xml:"http://www.w3.org/2005/Atom link"`
	Entries []atomEntry `xml:"http://www.w3.org/2005/Atom entry"`
}

type atomEntry struct {
	ID        []string    `xml:"http://www.w3.org/2005/Atom id"`
	Title     []string    `xml:"http://www.w3.org/2005/Atom title"`
	Updated   []time.Time `xml:"http://www.w3.org/2005/Atom updated"`
	Published []time.Time `xml:"http://www.w3.org/2005/Atom published"`
	Links     []atomLink  `xml:"http://www.w3.org/2005/Atom link"`
	Content   []struct {
		Type string `xml:"type,attr"`
		Text string `xml:",chardata"`
	} `xml:"http://www.w3.org/2005/Atom content"`
}

type atomLink struct {
	Rel  string `xml:"rel,attr"`
	Type string `xml:"type,attr"`
	Href string `xml:"href,attr"`
}

// readFeed reads a feed, and checks what the RFC asks of each.
func readFeed(t *testing.T, body string) atomFeed {
	t.Helper()
	var f atomFeed
	if err := xml.Unmarshal([]byte(body), &f); err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
	if len(f.ID) != 1 || len(f.Title) != 1 || len(f.Updated) != 1 || f.Updated[0].IsZero() || len(f.Author) != 1 ||
		len(f.Author[0].Name) != 1 || f.Author[0].Name[0] == "" || f.Lang != "en" {
		t.Errorf("the feed lacks a part, or has one twice: %s", body)
	}
	ids := map[string]bool{}
	for _, id := range f.ID {
		ids[id] = true
	}
	for _, e := range f.Entries {
		if len(e.ID) != 1 || len(e.Title) != 1 || len(e.Updated) != 1 || len(e.Published) != 1 || len(e.Links) != 1 ||
			len(e.Content) != 1 || e.Content[0].Type != "html" || e.Published[0].After(e.Updated[0]) {
			t.Errorf("an entry lacks a part, or has one twice: %+v", e)
		}
		if e.Updated[0].After(f.Updated[0]) {
			t.Errorf("the feed is older than its entry %s", e.ID)
		}
		if ids[e.ID[0]] {
			t.Errorf("the id %s is there twice", e.ID)
		}
		ids[e.ID[0]] = true
	}
	for id := range ids {
		if iri, err := url.Parse(id); err != nil || !iri.IsAbs() {
			t.Errorf("%q is no absolute IRI", id)
		}
	}
	return f
}

func TestTheFeedHasAnEntryForEachNotice(t *testing.T) {
	t.Parallel()
	over := notice("sign-in was down", "Resolved", 26*time.Hour, 25*time.Hour)
	over.Updates = append([]Update{{At: ago(24 * time.Hour), State: "Resolved", Text: "<b>over & out</b>\x00"}},
		over.Updates...)
	notices := []Notice{notice("sign-in is down", "Identified", time.Hour), over,
		notice("long ago", "Resolved", 9*24*time.Hour, 8*24*time.Hour)}
	response, body := get(t, "/feed.atom", notices, time.Time{}, true)
	if got := response.Header.Get("Content-Type"); got != "application/atom+xml; charset=utf-8" {
		t.Errorf("%s", got)
	}
	f := readFeed(t, body)
	if len(f.Entries) != 2 || f.Title[0] != "1pass.dev <status>" || !f.Updated[0].Equal(now.Add(-time.Hour)) {
		t.Fatalf("%+v", f)
	}
	if f.Links[0] != (atomLink{"self", "application/atom+xml", "https://status.example.com/feed.atom"}) ||
		f.Links[1] != (atomLink{"alternate", "text/html", "https://status.example.com/"}) {
		t.Errorf("%+v", f.Links)
	}
	e := f.Entries[1]
	if e.ID[0] != "urn:uuid:uid-sign-in was down" || e.Title[0] != "sign-in was down" ||
		!e.Updated[0].Equal(now.Add(-24*time.Hour)) || !e.Published[0].Equal(now.Add(-26*time.Hour)) ||
		e.Links[0].Rel != "alternate" || e.Links[0].Href != "https://status.example.com/#uid-sign-in was down" {
		t.Errorf("%+v", e)
	}
	// A notice's text is text, also for a reader that shows HTML. The newest update stands first.
	if got := e.Content[0].Text; !strings.HasPrefix(got,
		"<p><strong>Resolved</strong>, 24 November 2026, 03:00 UTC<br>&lt;b&gt;over &amp; out&lt;/b&gt;") ||
		!strings.Contains(got, "<p><strong>Investigating</strong>, 24 November 2026, 01:00 UTC<br>") {
		t.Errorf("%q", got)
	}
}

// A reader takes an entry whose id changed for a new one, and one whose time did not change for an old one.
func TestAnUpdateChangesAnEntrysTimeAndNotItsID(t *testing.T) {
	t.Parallel()
	n := notice("sign-in is down", "Investigating", time.Hour)
	_, body := get(t, "/feed.atom", []Notice{n}, time.Time{}, true)
	before := readFeed(t, body)
	n.Title, n.State, n.ResolvedAt = "sign-in was down", "Resolved", new(metav1.NewTime(now))
	n.Updates = append([]Update{{At: ago(0), State: "Resolved", Text: "over"}}, n.Updates...)
	_, body = get(t, "/feed.atom", []Notice{n}, time.Time{}, true)
	after := readFeed(t, body)
	if before.ID[0] != after.ID[0] || before.Entries[0].ID[0] != after.Entries[0].ID[0] ||
		!before.Entries[0].Published[0].Equal(after.Entries[0].Published[0]) {
		t.Errorf("%+v\n%+v", before, after)
	}
	if !after.Entries[0].Updated[0].Equal(now) || !after.Updated[0].Equal(now) {
		t.Errorf("%+v", after)
	}
}

func TestAFeedWithoutEntriesIsAFeed(t *testing.T) {
	t.Parallel()
	_, body := get(t, "/feed.atom", nil, time.Time{}, true)
	if f := readFeed(t, body); len(f.Entries) != 0 || f.Updated[0] != time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC) {
		t.Errorf("%+v", f)
	}
}
