package bench

import (
	"errors"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// line is a way to the database that takes time: a proxy on loopback that delivers what either side wrote half of its
// round trip later. It delays bytes and queues none behind another: latency, not bandwidth.
type line struct {
	net.Listener
	server    string
	roundTrip time.Duration
	// turns are how often a client spoke after the server had: its round trips.
	turns atomic.Int64
}

// lineTo starts a line to a server; it ends with the benchmark.
func lineTo(b *testing.B, server string, roundTrip time.Duration) *line {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(b, err)
	l := &line{Listener: listener, server: server, roundTrip: roundTrip}
	var connections sync.WaitGroup
	connections.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			connections.Go(func() { l.carry(b, client) })
		}
	})
	b.Cleanup(func() {
		check(b, l.Close())
		connections.Wait()
	})
	return l
}

// over is a URL by way of the line.
func (l *line) over(b *testing.B, direct string) string {
	b.Helper()
	u, err := url.Parse(direct)
	check(b, err)
	u.Host = l.Addr().String()
	return u.String()
}

func (l *line) carry(b *testing.B, client net.Conn) {
	server, err := net.Dial("tcp", l.server)
	if err != nil {
		b.Error(err)
		_ = client.Close()
		return
	}
	var answered atomic.Bool
	answered.Store(true)
	var both sync.WaitGroup
	both.Go(func() {
		l.deliver(b, client, server, func() {
			if answered.Swap(false) {
				l.turns.Add(1)
			}
		})
	})
	both.Go(func() { l.deliver(b, server, client, func() { answered.Store(true) }) })
	both.Wait()
}

// deliver carries what is read from one side to the other, until one of them ends.
func (l *line) deliver(b *testing.B, from, to net.Conn, seen func()) {
	type piece struct {
		bytes []byte
		due   time.Time
	}
	under := make(chan piece, 1024) // on their way
	var writer sync.WaitGroup
	writer.Go(func() {
		for p := range under {
			// The runtime's timers are a millisecond off; the kernel's are not.
			if wait := time.Until(p.due); wait > 0 {
				nap := syscall.NsecToTimespec(wait.Nanoseconds())
				_ = syscall.Nanosleep(&nap, nil)
			}
			if _, err := to.Write(p.bytes); err != nil {
				_ = from.Close()
			}
		}
		_ = to.Close()
	})
	for {
		buffer := make([]byte, 64<<10)
		n, err := from.Read(buffer)
		if n > 0 {
			seen()
			under <- piece{buffer[:n], time.Now().Add(l.roundTrip / 2)}
		}
		if err != nil {
			if !errors.Is(err, net.ErrClosed) && err.Error() != "EOF" && !errors.Is(err, syscall.ECONNRESET) {
				b.Error(err)
			}
			break
		}
	}
	close(under)
	writer.Wait()
}
