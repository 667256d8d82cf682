package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"github.com/parley-chat/parley"
	"github.com/parley-chat/parley/certs"
)

// adminArgs are the arguments of an administrative act; each takes some of them.
type adminArgs struct {
	Name  string `json:"name,omitempty"`  // of a member or user
	Key   string `json:"key,omitempty"`   // of a setting
	Value string `json:"value,omitempty"` // of a setting
	// Secret is a password. It is in no log.
	Secret string `json:"secret,omitempty"`
}

// LogValue is what the audit log says of the arguments.
func (a adminArgs) LogValue() slog.Value {
	var attrs []slog.Attr
	for _, f := range []struct{ name, value string }{{"name", a.Name}, {"key", a.Key}, {"value", a.Value}} {
		if f.value != "" {
			attrs = append(attrs, slog.String(f.name, f.value))
		}
	}
	return slog.GroupValue(attrs...)
}

// adminAct is one thing that an administrator may do. Its result is printed as JSON.
type adminAct func(ctx context.Context, a adminArgs) (result any, err error)

// adminServer carries out administrative acts, each by POST /v1/ACT with
// adminArgs as JSON. It is reached by a Unix socket that only this node's own user
// and root can open, and, if so configured, by TLS with an administrator's
// certificate. Every act is one line in the log: who, what, and how it ended.
//
// It owns a goroutine per listener and those of net/http; close ends them.
type adminServer struct {
	log    *slog.Logger
	acts   map[string]adminAct
	server *http.Server
	socket string // "" if there is none
	served sync.WaitGroup
}

const (
	adminConns   = 64       // connections at a time, of each listener
	adminBody    = 64 << 10 // bytes of a request
	adminTimeout = 30 * time.Second
)

func newAdminServer(log *slog.Logger, acts map[string]adminAct) *adminServer {
	a := &adminServer{log: log, acts: acts}
	a.server = &http.Server{
		Handler:           a,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       adminTimeout,
		WriteTimeout:      2 * adminTimeout,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		ConnContext:       func(ctx context.Context, nc net.Conn) context.Context { return context.WithValue(ctx, connKey{}, nc) },
	}
	return a
}

type connKey struct{}

// listenSocket opens the Unix socket. What a former process left behind in its
// place is replaced: the data directory's lock says that it is gone.
func (a *adminServer) listenSocket(path string) error {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return err
	}
	ln.SetUnlinkOnClose(false) // it has another name by then
	if err := errors.Join(os.Chmod(fresh, 0o600), os.Rename(fresh, path)); err != nil {
		ln.Close()
		return err
	}
	a.socket = path
	a.serve(ln)
	return nil
}

// listenTLS opens the port for administrators elsewhere.
func (a *adminServer) listenTLS(addr string, source *certs.Source) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	a.serve(tls.NewListener(netutil.LimitListener(ln, adminConns), source.Admin()))
	return nil
}

func (a *adminServer) serve(ln net.Listener) {
	a.served.Go(func() {
		if err := a.server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("an admin listener failed", "err", err)
		}
	})
}

// close ends the listeners after the acts under way.
func (a *adminServer) close(ctx context.Context) {
	if a.server.Shutdown(ctx) != nil {
		a.server.Close()
	}
	a.served.Wait()
	if a.socket != "" {
		os.Remove(a.socket) //nolint:errcheck // the next start replaces it
	}
}

// ServeHTTP carries out one act, if whoever is there may ask for it.
func (a *adminServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := filepath.Base(r.URL.Path)
	who, err := adminOf(r)
	var args adminArgs
	var result any
	if err == nil {
		result, err = a.act(w, r, name, &args)
	}
	outcome := "ok"
	if err != nil {
		outcome = err.Error()
	}
	a.log.Info("audit", "who", who, "what", name, "args", args, "result", outcome)
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		result = jsonErrorOf(err)
	}
	_ = json.NewEncoder(w).Encode(result)
}

func (a *adminServer) act(w http.ResponseWriter, r *http.Request, name string, args *adminArgs) (any, error) {
	act := a.acts[name]
	switch {
	case act == nil || r.URL.Path != "/v1/"+name:
		var known []string
		for k := range a.acts {
			known = append(known, k)
		}
		slices.Sort(known)
		return nil, parley.Errorf(parley.CodeUnsupported, "there is no act %.80q, but %v", r.URL.Path, known)
	case r.Method != http.MethodPost:
		return nil, parley.Errorf(parley.CodeBadRequest, "an act is a POST, not a %.20s", r.Method)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, adminBody))
	if err == nil {
		err = json.Unmarshal(body, args)
	}
	if err != nil {
		return nil, parley.Errorf(parley.CodeBadRequest, "the arguments: %v", err)
	}
	ctx, cancel := context.WithTimeout(r.Context(), adminTimeout)
	defer cancel()
	return act(ctx, *args)
}

// adminOf returns who is at the other end of a request.
func adminOf(r *http.Request) (string, error) {
	if r.TLS != nil { // the handshake has seen to it already
		name, err := certs.AdminName(*r.TLS)
		return "certificate " + name, err
	}
	nc, ok := r.Context().Value(connKey{}).(*net.UnixConn)
	if !ok {
		return "somebody", errors.New("neither a Unix socket nor TLS")
	}
	uid, known, err := peerUser(nc)
	switch who := fmt.Sprintf("uid %d", uid); {
	case err != nil:
		return "somebody", fmt.Errorf("who is at the socket: %w", err)
	case !known: // the file's mode has to do
		return "local user", nil
	case uid != 0 && uid != os.Geteuid():
		return who, parley.Errorf(parley.CodeBadRequest, "user %d may not administer this node: only root and user %d may", uid, os.Geteuid())
	default:
		return who, nil
	}
}
