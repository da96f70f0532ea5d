package embed

import (
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/config"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.etcd.io/etcd/server/v3/features"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy/adapter"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/weftcloud/weft/pkg/fault"
	"github.com/weftcloud/weft/pkg/store"
	"github.com/weftcloud/weft/pkg/store/etcdstore"
)

// startTimeout bounds the start of a server; the log of a kill -9 is read again within it.
const startTimeout = 60 * time.Second

// fewestPings is how far apart clients' pings must be at least; etcd's own default is 5 s, at which the store pings, and a
// ping that comes a little early must not end a connection.
const fewestPings = 2 * time.Second

// EtcdConfig says how etcd runs.
type EtcdConfig struct {
	// Dir is where its data are. It is made if need be, with mode 0700.
	Dir string
	// Logger takes its log, one level lower; nil discards it.
	Logger *slog.Logger
	// NoSync leaves out fsync: a crash of the machine then loses data. For tests.
	NoSync bool
}

// EtcdServer is etcd inside the process.
type EtcdServer struct {
	server *etcdserver.EtcdServer
	lock   *dirLock
	remote []*grpc.Server
}

// Etcd runs etcd with its data in dir.
func Etcd(dir string, logger *slog.Logger) (*EtcdServer, error) {
	return EtcdWith(EtcdConfig{Dir: dir, Logger: logger})
}

// EtcdWith runs etcd as cfg says.
func EtcdWith(cfg EtcdConfig) (_ *EtcdServer, err error) {
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	serverConfig, err := etcdConfig(cfg)
	if err != nil {
		return nil, err
	}
	server, err := etcdserver.NewServer(serverConfig)
	if err != nil {
		return nil, fault.Wrap(err, "start etcd in %s", cfg.Dir)
	}
	server.Start()
	select {
	case <-server.ReadyNotify():
		return &EtcdServer{server: server, lock: lock}, nil
	case <-server.StopNotify():
		return nil, fault.New(fault.Internal, "start etcd in %s: it stopped; its log says why", cfg.Dir)
	case <-time.After(startTimeout):
		server.HardStop()
		return nil, fault.New(fault.Unavailable, "start etcd in %s: it was not ready after %s", cfg.Dir, startTimeout)
	}
}

// etcdConfig gives the configuration of a member that is alone. Its addresses are names only: nobody ever dials them.
func etcdConfig(cfg EtcdConfig) (config.ServerConfig, error) {
	const name = "weft"
	urls, err := types.NewURLs([]string{"http://127.0.0.1:2380"})
	if err != nil {
		return config.ServerConfig{}, fault.Wrap(err, "name the etcd member")
	}
	logger := zap.New(&zapCore{logger: orDiscard(cfg.Logger).With("component", "etcd")})
	return config.ServerConfig{
		Name: name, DataDir: filepath.Join(cfg.Dir, "etcd"), Logger: logger,
		ClientURLs: urls, PeerURLs: urls, InitialPeerURLsMap: types.URLsMap{name: urls}, InitialClusterToken: name, NewCluster: true,
		SnapshotCount: etcdserver.DefaultSnapshotCount, SnapshotCatchUpEntries: etcdserver.DefaultSnapshotCatchUpEntries,
		MaxSnapFiles: 2, MaxWALFiles: 2,
		// A member alone elects itself: short ticks make the start quick, and cost nothing but an idle wake-up.
		TickMs: 20, ElectionTicks: 10, InitialElectionTickAdvance: true, PreVote: true,
		AutoCompactionMode: "periodic", AutoCompactionRetention: 2 * time.Minute,
		CompactionBatchLimit: 1000, CompactionSleepInterval: 10 * time.Millisecond,
		QuotaBackendBytes: 4 << 30, MaxTxnOps: store.MaxTxnOps, MaxRequestBytes: 1536 << 10, MaxConcurrentStreams: 1 << 20,
		WarningApplyDuration: time.Second, WarningUnaryRequestDuration: 3 * time.Second,
		StrictReconfigCheck: true, AuthToken: "simple", TokenTTL: 300, BcryptCost: 10,
		CompactHashCheckTime: time.Minute, DowngradeCheckTime: 5 * time.Second, MaxLearners: 1, Metrics: "basic",
		V2Deprecation: config.V2DeprDefault, ServerFeatureGate: features.NewDefaultServerFeatureGate(name, logger),
		UnsafeNoFsync: cfg.NoSync,
	}, nil
}

// Client gives a client that calls the server's functions. The caller closes it.
func (s *EtcdServer) Client() *clientv3.Client { return v3client.New(s.server) }

// Store gives a store over the server. The caller closes it; the server runs on.
func (s *EtcdServer) Store() *etcdstore.Store {
	kv := adapter.KvServerToKvClient(v3rpc.NewQuotaKVServer(s.server))
	return etcdstore.New(s.Client(), etcdstore.Options{KV: kv})
}

// Serve answers clients on a listener until Close, so that other processes of this machine can use the store. There is
// no authentication: the listener MUST be one that only those can reach who may do everything.
func (s *EtcdServer) Serve(listener net.Listener) {
	// As etcd's own listener does: without it gRPC takes the pings by which clients find a dead connection for an attack.
	pings := grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: fewestPings})
	remote := v3rpc.Server(s.server, nil, nil, pings)
	s.remote = append(s.remote, remote)
	go func() {
		if err := remote.Serve(listener); err != nil {
			s.server.Logger().Error("serve etcd clients", zap.Stringer("address", listener.Addr()), zap.Error(err))
		}
	}()
}

// Close stops the server; its data stay.
func (s *EtcdServer) Close() error {
	for _, r := range s.remote {
		r.Stop()
	}
	s.server.Stop()
	<-s.server.StopNotify()
	return fault.Wrap(s.lock.Close(), "unlock the data directory of etcd")
}
