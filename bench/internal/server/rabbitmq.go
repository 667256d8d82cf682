package server

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// RabbitMQHome is where Debian's package puts RabbitMQ.
const RabbitMQHome = "/usr/lib/rabbitmq"

// RabbitMQHost is the host in the names of RabbitMQ's nodes.
const RabbitMQHost = "localhost"

// RabbitMQArgs are the flags that make a process a RabbitMQ server. epmd is the port
// of the daemon by which Erlang's nodes find each other, cookie the secret they share.
func RabbitMQArgs(epmd, cookie string) []string {
	return []string{"--kind", string(rabbitMQ), "--epmd", epmd, "--cookie", cookie}
}

// RabbitMQEnviron is the environment of Erlang programs: they speak over the
// loopback interface only and keep nothing outside of home.
func RabbitMQEnviron(epmd, home string) []string {
	const loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LANG=C.UTF-8",
		"ERL_EPMD_PORT=" + epmd, "ERL_EPMD_ADDRESS=127.0.0.1",
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=" + loopback, "RABBITMQ_CTL_ERL_ARGS=" + loopback,
	}
}

// execRabbitMQ makes this process a RabbitMQ server with the defaults of the package,
// and returns only if that fails. A second process answers /readyz for it.
func execRabbitMQ(cfg config) error {
	conf := []string{"listeners.tcp.1 = " + cfg.client, "cluster_formation.peer_discovery_backend = classic_config"}
	for i, m := range cfg.members {
		conf = append(conf, fmt.Sprintf("cluster_formation.classic_config.nodes.%d = %s@%s", i+1, m.name, RabbitMQHost))
	}
	file := func(name string) string { return filepath.Join(cfg.data, name) }
	for name, text := range map[string]string{
		"rabbitmq.conf": strings.Join(conf, "\n") + "\n", "plugins": "[].\n", "rabbitmq-env.conf": "", ".erlang.cookie": cfg.cookie,
	} {
		if _, err := os.Stat(file(name)); err == nil {
			continue // it has been running before
		}
		if err := os.WriteFile(file(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	_, distribution, err := net.SplitHostPort(cfg.peer)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	watch := exec.Command(self, "serve", "--kind", string(rabbitMQReady), "--data", cfg.data, "--members", "n1=-",
		"--client-listen", cfg.client, "--ops-listen", cfg.ops)
	watch.Stdout, watch.Stderr = os.Stdout, os.Stderr
	if err := watch.Start(); err != nil {
		return err
	}
	server := filepath.Join(RabbitMQHome, "bin", "rabbitmq-server")
	err = syscall.Exec(server, []string{server}, append(RabbitMQEnviron(cfg.epmd, cfg.data),
		"RUNNING_UNDER_SYSTEMD=true", // in the foreground, as this process and no child of it
		"RABBITMQ_NODENAME="+cfg.name+"@"+RabbitMQHost, "RABBITMQ_DIST_PORT="+distribution,
		"RABBITMQ_CONFIG_FILE="+file("rabbitmq.conf"), "RABBITMQ_CONF_ENV_FILE="+file("rabbitmq-env.conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE="+file("plugins"),
		"RABBITMQ_MNESIA_BASE="+file("mnesia"), "RABBITMQ_LOG_BASE="+file("log"), "RABBITMQ_PID_FILE="+file("pid"),
	))
	_ = watch.Process.Kill()
	return fmt.Errorf("%s: %w", server, err)
}

// rabbitWatch answers for the RabbitMQ server that has started this process, and ends
// with it.
type rabbitWatch struct {
	addr   string
	parent int
}

func (r rabbitWatch) ready() error {
	c, err := amqp.DialConfig("amqp://guest:guest@"+r.addr, amqp.Config{Dial: amqp.DefaultDial(500 * time.Millisecond)})
	if err != nil {
		return err
	}
	return c.Close()
}

func (r rabbitWatch) failed() <-chan error {
	ch := make(chan error, 1)
	go func() {
		for os.Getppid() == r.parent {
			time.Sleep(20 * time.Millisecond)
		}
		ch <- errors.New("the server has ended")
	}()
	return ch
}

func (rabbitWatch) stop() {}
