// Package outbound is the manager's way to HTTP servers of others. It has one transport, which refuses the addresses at
// which clouds serve credentials, and one way to make a call, whose errors repeat no secret and say what was certainly
// not done.
package outbound

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

// dialTimeout leaves time in Timeout for a second address of the host.
const dialTimeout = 4 * time.Second

// NewTransport makes net/http's default transport, and checks addresses. Each connection's address is checked after the
// name was resolved, and before anything is sent. So neither a redirect nor a DNS answer that changes after the check
// gets around it.
//
// Loopback and private addresses are allowed, since platforms run in clusters. Where the environment names a proxy
// (HTTPS_PROXY), the proxy resolves names, so the proxy has to refuse the addresses behind them. Addresses in URLs are
// still refused here. The resolver's own connections are not checked: NodeLocal DNSCache listens on a link-local
// address.
func NewTransport() *http.Transport {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second, Control: checkAddress}
	transport.DialContext = dialer.DialContext
	transport.Proxy = func(r *http.Request) (*url.URL, error) {
		if addr, err := netip.ParseAddr(r.URL.Hostname()); err == nil {
			if err := Check(addr); err != nil {
				return nil, err
			}
		}
		return http.ProxyFromEnvironment(r)
	}
	return transport
}

func checkAddress(_, address string, _ syscall.RawConn) error {
	parsed, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("checking the address: %w", err)
	}
	return Check(parsed.Addr())
}

// RefusedAddress says that no connection was made, since no pager and no platform has such an address.
type RefusedAddress struct {
	Addr netip.Addr
	// Kind of address, and why it is refused.
	Kind string
}

func (e *RefusedAddress) Error() string {
	return fmt.Sprintf("the address %s is refused: it is %s", e.Addr, e.Kind)
}

const (
	linkLocal   = "link-local, where clouds serve the machine's credentials"
	unspecified = "unspecified, which reaches whatever listens on this machine"
	multicast   = "multicast, which is no single server"
	metadata    = "a cloud's own, where it serves the machine's metadata and credentials"
)

// clouds' addresses that are not link-local.
var clouds = []netip.Prefix{
	netip.MustParsePrefix("fd00:ec2::/32"),      // AWS: ::254 metadata, ::23 pods' credentials
	netip.MustParsePrefix("fd20:ce::254/128"),   // Google
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure's wire server
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba
}

// Check returns *RefusedAddress where addr, or the IPv4 address in it, is link-local, unspecified, multicast or a
// cloud's metadata.
func Check(addr netip.Addr) error {
	for _, form := range forms(addr.WithZone("").Unmap()) {
		kind := ""
		switch {
		case form.IsLinkLocalUnicast():
			kind = linkLocal
		case form.IsUnspecified():
			kind = unspecified
		case form.IsMulticast():
			kind = multicast
		}
		for _, cloud := range clouds {
			if cloud.Contains(form) {
				kind = metadata
			}
		}
		if kind != "" {
			return &RefusedAddress{Addr: addr, Kind: kind}
		}
	}
	return nil
}

var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")   // RFC 6052
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48") // RFC 8215
	sixToFour  = netip.MustParsePrefix("2002::/16")      // RFC 3056
	compatible = netip.MustParsePrefix("::/96")          // RFC 4291, 2.5.5.1
)

// forms are the address, and the IPv4 addresses that a translator on the way may make of it. A network's own NAT64
// prefix looks like any other address, so it is not recognised.
func forms(addr netip.Addr) []netip.Addr {
	all := []netip.Addr{addr}
	if addr.Is4() {
		return all
	}
	b := addr.As16()
	switch {
	case nat64.Contains(addr), compatible.Contains(addr):
		all = append(all, netip.AddrFrom4([4]byte(b[12:])))
	case sixToFour.Contains(addr):
		all = append(all, netip.AddrFrom4([4]byte(b[2:6])))
	case localNAT64.Contains(addr):
		// RFC 6052, 2.2: the place of the four bytes depends on the length of the prefix, which only the network knows. Byte
		// 8 is never one of them. At a wrong place there is mostly 0.0.0.0, so that doesn't count.
		for _, at := range [][4]int{{6, 7, 9, 10}, {7, 9, 10, 11}, {9, 10, 11, 12}, {12, 13, 14, 15}} {
			if v4 := netip.AddrFrom4([4]byte{b[at[0]], b[at[1]], b[at[2]], b[at[3]]}); !v4.IsUnspecified() {
				all = append(all, v4)
			}
		}
	}
	return all
}
