package server

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// natsConf is the configuration of a NATS server: what a cluster with JetStream
// needs, and else the defaults.
var natsConf = template.Must(template.New("nats.conf").Parse(`
server_name: "{{.Name}}"
listen: "{{.Client}}"
jetstream {
  store_dir: "{{.Data}}"
{{- if .SyncAlways}}
  sync_interval: always
{{- end}}
}
cluster {
  name: bench
  listen: "{{.Peer}}"
  routes: [{{.Routes}}]
}
`))

type natsRunning struct{ s *natsserver.Server }

func startNATS(cfg config) (running, error) {
	var routes []string
	for _, m := range cfg.members {
		if m.name != cfg.name {
			routes = append(routes, `"nats://`+m.addr+`"`)
		}
	}
	var conf bytes.Buffer
	err := natsConf.Execute(&conf, map[string]any{
		"Name": cfg.name, "Client": cfg.client, "Peer": cfg.peer, "Data": cfg.data,
		"SyncAlways": cfg.syncAlways, "Routes": strings.Join(routes, ", "),
	})
	if err != nil {
		return nil, err
	}
	file := filepath.Join(cfg.data, "nats.conf")
	if err := os.WriteFile(file, conf.Bytes(), 0o600); err != nil {
		return nil, err
	}
	opts, err := natsserver.ProcessConfigFile(file)
	if err != nil {
		return nil, err
	}
	if opts.SyncAlways != cfg.syncAlways {
		return nil, errors.New("the setting sync_interval was not understood")
	}
	opts.NoSigs = true // this process has its own handler
	s, err := natsserver.NewServer(opts)
	if err != nil {
		return nil, err
	}
	s.ConfigureLogger()
	s.Start()
	return natsRunning{s}, nil
}

func (r natsRunning) ready() error {
	switch {
	case !r.s.ReadyForConnections(100 * time.Millisecond):
		return errors.New("not listening")
	case !r.s.JetStreamIsCurrent():
		return errors.New("JetStream is not current")
	}
	return nil
}

func (r natsRunning) failed() <-chan error { return nil } // it panics or exits

func (r natsRunning) stop() {
	r.s.Shutdown()
	r.s.WaitForShutdown()
}
