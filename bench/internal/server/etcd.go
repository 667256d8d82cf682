package server

import (
	"errors"
	"net/url"
	"strings"

	"go.etcd.io/etcd/server/v3/embed"
)

type etcdRunning struct{ e *embed.Etcd }

// startEtcd starts a member with the defaults of etcd.
func startEtcd(cfg config) (running, error) {
	ec := embed.NewConfig()
	ec.Name, ec.Dir = cfg.name, cfg.data
	var err error
	if ec.ListenClientUrls, err = urls(cfg.client); err != nil {
		return nil, err
	}
	if ec.ListenPeerUrls, err = urls(cfg.peer); err != nil {
		return nil, err
	}
	ec.AdvertiseClientUrls, ec.AdvertisePeerUrls = ec.ListenClientUrls, ec.ListenPeerUrls
	var members []string
	for _, m := range cfg.members {
		members = append(members, m.name+"=http://"+m.addr)
	}
	ec.InitialCluster = strings.Join(members, ",")
	e, err := embed.StartEtcd(ec)
	if err != nil {
		return nil, err
	}
	return etcdRunning{e}, nil
}

func urls(addr string) ([]url.URL, error) {
	u, err := url.Parse("http://" + addr)
	if err != nil {
		return nil, err
	}
	return []url.URL{*u}, nil
}

func (r etcdRunning) ready() error {
	select {
	case <-r.e.Server.ReadyNotify():
	default:
		return errors.New("not ready")
	}
	if r.e.Server.Leader() == 0 {
		return errors.New("no leader")
	}
	return nil
}

func (r etcdRunning) failed() <-chan error { return r.e.Err() }

func (r etcdRunning) stop() { r.e.Close() }
