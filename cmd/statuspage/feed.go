package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// The feed is Atom (RFC 4287), with one entry for each notice. An entry's id is that of the Incident's UID, so that a
// reader knows it again after an update, a restart and a move.

type feed struct {
	XMLName xml.Name `xml:"http://www.w3.org/2005/Atom feed"`
	Lang    string   `xml:"http://www.w3.org/XML/1998/namespace lang,attr"`
	ID      string   `xml:"id"`
	Title   string   `xml:"title"`
	Updated string   `xml:"updated"`
	Author  string   `xml:"author>name"`
	Links   []link   `xml:"link"`
	Entries []entry  `xml:"entry"`
}

type entry struct {
	ID        string  `xml:"id"`
	Title     string  `xml:"title"`
	Updated   string  `xml:"updated"`
	Published string  `xml:"published"`
	Link      link    `xml:"link"`
	Content   content `xml:"content"`
}

type link struct {
	Rel  string `xml:"rel,attr"`
	Type string `xml:"type,attr"`
	Href string `xml:"href,attr"`
}

type content struct {
	Type string `xml:"type,attr"`
	Text string `xml:",chardata"`
}

func (s Site) atom(v View) ([]byte, error) {
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	// Where it has no entry, it has been so at least since the day began. The time must not change with each look.
	updated := v.AsOf.UTC().Truncate(24 * time.Hour)
	var entries []entry
	for _, n := range slices.Concat(v.Current, v.Past) {
		at, first := n.UpdatedAt().Time, n.StartedAt.Time
		if len(n.Updates) > 0 {
			first = n.Updates[len(n.Updates)-1].At.Time
		}
		if len(entries) == 0 || at.After(updated) {
			updated = at
		}
		var text bytes.Buffer
		if err := page.ExecuteTemplate(&text, "entry", n); err != nil {
			return nil, fmt.Errorf("writing an entry of the feed: %w", err)
		}
		entries = append(entries, entry{
			ID: "urn:uuid:" + n.ID, Title: n.Title, Updated: stamp(at), Published: stamp(first),
			Link:    link{"alternate", "text/html", s.URL + "#" + n.ID},
			Content: content{"html", text.String()},
		})
	}
	out, err := xml.MarshalIndent(feed{
		// The same title is the same page, wherever it is served.
		Lang: "en", ID: "urn:uuid:" + uuid.NewSHA1(uuid.NameSpaceOID, []byte("statuspage "+s.Title)).String(),
		Title: s.Title, Updated: stamp(updated), Author: s.Title,
		Links: []link{
			{"self", "application/atom+xml", s.URL + "feed.atom"}, {"alternate", "text/html", s.URL},
		},
		Entries: entries,
	}, "", " ")
	return append([]byte(xml.Header), out...), err
}
