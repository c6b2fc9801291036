// Package logi plays the identity platform 1pass.dev: its tables, its webhook dispatcher, its relying parties and its
// HTTP API. A playbook's step can't tell the difference. It counts what it is told to do, and can be told to fail. It
// is test equipment, and imports nothing of the controllers.
package logi

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed schema.sql
var schema string

//go:embed audit.sql
var audit string

// Config of a Server. Zero values take the defaults.
type Config struct {
	// DatabaseURL connects as the owner of the tables.
	DatabaseURL string
	// Listen is the address to serve on; the default is a free port on loopback.
	Listen string
	// Workers of the dispatcher; the default is 8.
	Workers int
	// ManualDispatch starts no workers: only DispatchOnce delivers.
	ManualDispatch bool
	// Backoff before each retry; an entry that fails once more after the last dies. The default takes nine hours.
	Backoff []time.Duration
	// DeliveryTimeout of one attempt; the default is 5 s.
	DeliveryTimeout time.Duration
	// JWKSMaxAge is how long relying parties cache the keys that they fetched; the default is 5 minutes.
	JWKSMaxAge time.Duration
	// JWKSReplicas has a duration for each replica that serves JWKS: how long it caches what it read. They serve in turn,
	// request by request. The default is one replica without a cache.
	JWKSReplicas []time.Duration
	// Settle409 switches on the mended rule: a 409 to a retry settles the entry as delivered. Without it the entry dies,
	// as on the real platform.
	Settle409 bool
}

// Server is a running platform.
type Server struct {
	// Services that tell people, at URL().
	Services *Services

	config     Config
	pool       *pgxpool.Pool
	url        string
	adminToken string
	render     *Render
	server     *http.Server
	client     *http.Client
	stopping   context.Context // ends with Close
	cancel     context.CancelFunc
	running    sync.WaitGroup

	mu       sync.Mutex
	rakes    rakes
	faults   map[int64]Fault
	arrivals map[int64]int // attempts that reached the relying party
	counts   map[int64]*ApplicationCounts
	seen     map[int64]map[string]int // deliveries accepted, by idempotency key
	jwks     map[int64]cachedKeys
	nonces   map[string]nonce
	list     ListFault
	// listReads are how often each page of the list was asked for.
	listReads map[int]int
	clients   map[string]string // secrets of OAuth clients, by id
	tokens    TokenFault
	tokenKey  ed25519.PrivateKey
	leaked    map[int64]map[string]bool // kids that an application was told are compromised
	jwksTTL   map[int64]time.Duration   // of applications that keep JWKS for a time of their own
	jwksTurn  int                       // replica that serves JWKS next
	replicas  []replica
	jwksDown  JWKSFault
}

// Migrate creates the platform's tables.
func Migrate(ctx context.Context, databaseURL string) error {
	return execute(ctx, databaseURL, "creating the platform's tables", schema)
}

// InstallAudit adds a trigger that records each requeue in the table logi_test.requeues.
func InstallAudit(ctx context.Context, databaseURL string) error {
	return execute(ctx, databaseURL, "installing the audit trigger", audit)
}

func execute(ctx context.Context, databaseURL, doing, sql string) error {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return fmt.Errorf("connecting to the platform's database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// AddMigration records a migration that has run. Its version is the time at which it was written.
func (s *Server) AddMigration(ctx context.Context, written time.Time) error {
	if _, err := s.pool.Exec(ctx, `INSERT INTO schema_migrations VALUES ($1)`,
		written.UTC().Format("20060102150405")); err != nil {
		return fmt.Errorf("adding a migration: %w", err)
	}
	return nil
}

// Start serves the platform whose tables Migrate created, until Close.
func Start(ctx context.Context, config Config) (*Server, error) {
	if config.Workers == 0 {
		config.Workers = 8
	}
	if config.Backoff == nil {
		config.Backoff = []time.Duration{30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute, 2 * time.Hour,
			6 * time.Hour}
	}
	if config.JWKSMaxAge == 0 {
		config.JWKSMaxAge = 5 * time.Minute
	}
	if len(config.JWKSReplicas) == 0 {
		config.JWKSReplicas = []time.Duration{0}
	}
	if config.DeliveryTimeout == 0 {
		config.DeliveryTimeout = 5 * time.Second
	}
	if config.Listen == "" {
		config.Listen = "127.0.0.1:0"
	}
	database, err := pgxpool.ParseConfig(config.DatabaseURL)
	if err != nil {
		return nil, fmt.Errorf("reading the database's URL: %w", err)
	}
	database.MaxConns = int32(config.Workers) + 4
	database.ConnConfig.RuntimeParams["TimeZone"] = "UTC"
	database.ConnConfig.RuntimeParams["application_name"] = "logi"
	pool, err := pgxpool.NewWithConfig(ctx, database)
	if err != nil {
		return nil, fmt.Errorf("preparing the connection pool: %w", err)
	}
	listener, err := net.Listen("tcp", config.Listen)
	if err != nil {
		pool.Close()
		return nil, fmt.Errorf("listening: %w", err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: config.Workers}
	s := &Server{
		Services: NewServices(),
		config:   config, pool: pool, url: "http://" + listener.Addr().String(), adminToken: rand.Text(), render: NewRender(),
		client: &http.Client{Timeout: config.DeliveryTimeout, Transport: transport},
		faults: map[int64]Fault{}, listReads: map[int]int{},
		arrivals: map[int64]int{}, counts: map[int64]*ApplicationCounts{},
		seen: map[int64]map[string]int{},
		jwks: map[int64]cachedKeys{}, nonces: map[string]nonce{}, clients: map[string]string{},
		leaked:  map[int64]map[string]bool{},
		jwksTTL: map[int64]time.Duration{}, replicas: make([]replica, len(config.JWKSReplicas)),
	}
	s.server = &http.Server{Handler: s.routes(), ReadHeaderTimeout: 10 * time.Second}
	workers, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.stopping, s.cancel = workers, cancel
	s.running.Go(func() { _ = s.server.Serve(listener) }) // ErrServerClosed, after Close
	if !config.ManualDispatch {
		for range config.Workers {
			s.running.Go(func() { s.work(workers) })
		}
	}
	return s, nil
}

// URL of the platform, without a path.
func (s *Server) URL() string { return s.url }

// AdminToken opens the admin API.
func (s *Server) AdminToken() string { return s.adminToken }

// Close stops the dispatcher and the HTTP server. Deliveries under way stay undelivered.
func (s *Server) Close() error {
	s.cancel()
	err := s.server.Close()
	s.running.Wait()
	s.render.Wait()
	s.client.CloseIdleConnections()
	s.pool.Close()
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("closing the platform's server: %w", err)
	}
	return nil
}
