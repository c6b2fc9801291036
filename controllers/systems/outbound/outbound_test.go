package outbound_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/1pass-dev/playbook-operator/controllers/systems/outbound"
)

// kinds of address, by a word of the error that refuses it. Empty is allowed.
var kinds = map[string]string{
	"169.254.169.254":  "link-local",
	"169.254.0.1":      "link-local",
	"169.254.170.2":    "link-local",
	"169.253.255.255":  "",
	"169.255.0.0":      "",
	"fe80::1":          "link-local",
	"febf::1":          "link-local",
	"fe80::1%eth0":     "link-local",
	"fec0::1":          "",
	"0.0.0.0":          "unspecified",
	"::":               "unspecified",
	"224.0.0.1":        "multicast",
	"239.255.255.255":  "multicast",
	"ff02::1":          "multicast",
	"ff0e::1":          "multicast",
	"fd00:ec2::254":    "cloud's own",
	"fd00:ec2::23":     "cloud's own",
	"fd20:ce::254":     "cloud's own",
	"168.63.129.16":    "cloud's own",
	"100.100.100.200":  "cloud's own",
	"100.100.100.201":  "",
	"127.0.0.1":        "",
	"::1":              "",
	"10.0.0.1":         "",
	"172.16.0.1":       "",
	"192.168.1.1":      "",
	"100.64.0.1":       "",
	"fd12:3456::1":     "",
	"93.184.216.34":    "",
	"2606:4700::1111":  "",
	"255.255.255.255":  "",
	"::ffff:10.0.0.1":  "",
	"::ffff:127.0.0.1": "",
	// The same addresses, mapped, translated or tunnelled.
	"::ffff:169.254.169.254":        "link-local",
	"::ffff:0.0.0.0":                "unspecified",
	"::ffff:224.0.0.1":              "multicast",
	"::ffff:168.63.129.16":          "cloud's own",
	"::169.254.169.254":             "link-local",
	"64:ff9b::169.254.169.254":      "link-local",
	"64:ff9b::a9fe:a9fe":            "link-local",
	"64:ff9b::0.0.0.0":              "unspecified",
	"64:ff9b::239.1.1.1":            "multicast",
	"64:ff9b::100.100.100.200":      "cloud's own",
	"64:ff9b::10.0.0.1":             "",
	"64:ff9b:1::169.254.169.254":    "link-local", // /96
	"64:ff9b:1:a9fe:a9:fe00::":      "link-local", // /48
	"64:ff9b:1:a9:fe:a9fe::":        "link-local", // /56
	"64:ff9b:1:abcd:a9:fea9:fe00:0": "link-local", // /64
	"64:ff9b:1::10.0.0.1":           "",
	"64:ff9b:1:a00:0:100::":         "",
	"2002:a9fe:a9fe::1":             "link-local",
	"2002:a00:1::1":                 "",
}

func TestWhichAddressesAreRefused(t *testing.T) {
	t.Parallel()
	for text, kind := range kinds {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		err = outbound.Check(addr)
		var refused *outbound.RefusedAddress
		switch {
		case kind == "" && err != nil:
			t.Errorf("%s: %v", text, err)
		case kind != "" && (!errors.As(err, &refused) || refused.Addr != addr ||
			!strings.Contains(err.Error(), addr.String()) || !strings.Contains(err.Error(), kind)):
			t.Errorf("%s: got %v, want one that says it is %s", text, err, kind)
		}
	}
}

// An IPv4 address that is refused is refused in every form of it, and no address makes the check panic.
func FuzzNoFormGetsAroundTheCheck(f *testing.F) {
	for text := range kinds {
		if addr, err := netip.ParseAddr(text); err == nil {
			f.Add(addr.AsSlice())
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		addr, ok := netip.AddrFromSlice(raw)
		if !ok {
			return
		}
		refused := outbound.Check(addr) != nil
		plain := addr.Unmap()
		if !refused && (plain.IsLinkLocalUnicast() || plain.IsMulticast() || plain.IsUnspecified()) {
			t.Fatalf("%s is allowed", addr)
		}
		if !addr.Is4() {
			return
		}
		b := addr.As4()
		for name, form := range map[string][16]byte{
			"mapped":         {10: 0xff, 0xff, b[0], b[1], b[2], b[3]},
			"NAT64":          {0, 0x64, 0xff, 0x9b, 12: b[0], b[1], b[2], b[3]},
			"local NAT64 96": {0, 0x64, 0xff, 0x9b, 0, 1, 12: b[0], b[1], b[2], b[3]},
			"local NAT64 48": {0, 0x64, 0xff, 0x9b, 0, 1, b[0], b[1], 0, b[2], b[3]},
			"local NAT64 56": {0, 0x64, 0xff, 0x9b, 0, 1, 7, b[0], 0, b[1], b[2], b[3]},
			"local NAT64 64": {0, 0x64, 0xff, 0x9b, 0, 1, 7, 7, 0, b[0], b[1], b[2], b[3]},
			"6to4":           {0x20, 0x02, b[0], b[1], b[2], b[3], 15: 1},
		} {
			if refused && !addr.IsUnspecified() && outbound.Check(netip.AddrFrom16(form)) == nil {
				t.Errorf("%s is refused, but not its %s form %s", addr, name, netip.AddrFrom16(form))
			}
		}
	})
}

// The dialled address is checked, so a name that resolves to a refused address is refused too.
func TestATransportDialsNoRefusedAddress(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"http://169.254.169.254/latest/meta-data/", "http://[::ffff:a9fe:a9fe]/", "http://[fe80::1%25lo]/",
		"http://0.0.0.0:9/", "http://[::]:9/", "http://[fd00:ec2::254]/",
	} {
		_, err := outbound.Do(t.Context(), nil, outbound.Call{Method: http.MethodGet, URL: url, MaxAnswer: 1})
		var refused *outbound.RefusedAddress
		if !errors.As(err, &refused) {
			t.Errorf("%s: %v", url, err)
		}
	}
	// This goes around the transport's check of literal addresses, as a DNS answer does.
	conn, err := outbound.NewTransport().DialContext(t.Context(), "tcp", "169.254.169.254:80")
	var refused *outbound.RefusedAddress
	if !errors.As(err, &refused) {
		t.Errorf("%v, %v", conn, err)
	}
}

func TestARedirectDoesNotGetAroundTheCheck(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.RedirectHandler("http://169.254.169.254/latest/meta-data/", http.StatusFound))
	defer server.Close()
	client := &http.Client{Transport: outbound.NewTransport()}
	response, err := client.Get(server.URL)
	var refused *outbound.RefusedAddress
	if !errors.As(err, &refused) {
		t.Errorf("%v, %v", response, err)
	}
}

func TestLoopbackIsReached(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
	}))
	defer server.Close()
	answer, err := outbound.Do(t.Context(), nil, outbound.Call{Method: http.MethodGet, URL: server.URL})
	if err != nil || answer.Status != http.StatusTeapot {
		t.Errorf("%v, %v", answer, err)
	}
}
