#!/usr/bin/env bash
# Runs `parley chaos` against the containers of docker-compose.yml: nodes are
# killed (docker kill), frozen (docker pause) and cut from their peers (docker
# network disconnect) in turn, and mended after a while. With --fault, what happens
# to them can be chosen; term is docker stop.
#
# usage: deploy/chaos-compose.sh [flags of `parley chaos`]
#        deploy/chaos-compose.sh --fault kill --only-leaders --kills 10 --duration 5m
#
# At the end stands, for each fault, for how long nobody could write.
#
# If the cluster of docker-compose.yml is running, it is used and left running.
# Otherwise one is started under the project name parley-chaos, and removed with
# its volumes at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'chaos-compose: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

if docker compose version >/dev/null 2>&1; then
  tool=(docker compose)
else
  tool=(docker-compose)
fi
project=() # or: -p NAME
compose() { "${tool[@]}" ${project[@]+"${project[@]}"} "$@"; }

# network prints the id of the network between the nodes of a container's project.
network() {
  local name
  name=$(docker inspect -f '{{index .Config.Labels "com.docker.compose.project"}}' "$1")
  docker network ls -q -f "label=com.docker.compose.project=$name" -f label=com.docker.compose.network=peers
}

# kill_node makes a node fail in a certain way, and notes how.
kill_node() {
  local node=$1 how=$2 id
  id=$(cat "$CHAOS_STATE/id-$node")
  echo "$how $id" >"$CHAOS_STATE/broken-$node"
  case $how in
    kill) docker kill "$id" ;;
    freeze) docker pause "$id" ;;
    term) docker stop "$id" ;;
    cut) docker network disconnect "$(network "$id")" "$id" ;;
    *) die "no fault $how" ;;
  esac >/dev/null
}

# repair_node undoes what kill_node did.
repair_node() {
  local node=$1 how id
  [ -f "$CHAOS_STATE/broken-$node" ] || return 0
  read -r how id <"$CHAOS_STATE/broken-$node"
  case $how in
    kill | term) docker start "$id" ;;
    freeze) docker unpause "$id" ;;
    cut) docker network connect --alias "$node" --alias "$node.peers" "$(network "$id")" "$id" ;;
  esac >/dev/null
  rm "$CHAOS_STATE/broken-$node"
}

# find_nodes waits until all nodes are healthy and keeps their containers' ids.
find_nodes() {
  local node id health deadline=$((SECONDS + 120))
  for node in n1 n2 n3; do
    id=$(compose ps -q "$node")
    [ -n "$id" ] || die "no container for $node"
    until health=$(docker inspect -f '{{.State.Health.Status}}' "$id") && [ "$health" = healthy ]; do
      if [ $SECONDS -ge $deadline ]; then
        docker logs --tail 20 "$id" >&2
        die "$node is $health"
      fi
      sleep 0.5
    done
    echo "$id" >"$CHAOS_STATE/id-$node"
  done
}

# cleanup mends what is still broken and removes what was started.
cleanup() {
  local file
  for file in "$CHAOS_STATE"/broken-*; do
    if [ -f "$file" ]; then
      repair_node "${file##*/broken-}" || say "could not mend ${file##*/broken-}"
    fi
  done
  if [ "${started:-}" ]; then
    compose down --volumes --timeout 5 >/dev/null 2>&1 || say "could not remove the cluster"
  fi
  rm -rf "$CHAOS_STATE"
}

case ${1:-} in
  kill-node)
    kill_node "$2" "$3"
    exit
    ;;
  repair-node)
    repair_node "$2"
    exit
    ;;
esac

docker version >/dev/null 2>&1 || die "no Docker engine answers"
CHAOS_STATE=$(mktemp -d)
export CHAOS_STATE
trap cleanup EXIT
trap 'exit 130' INT TERM

go build -o "$CHAOS_STATE/parley" ./cmd/parley
if [ -n "$(compose ps -q n1 2>/dev/null)" ]; then
  say "using the cluster that is running"
else
  deploy/base-image.sh
  for name in GOPROXY GOSUMDB GONOSUMDB GONOPROXY GOPRIVATE GOINSECURE; do
    export "$name=$(go env "$name")" # the image is built with this machine's module settings
  done
  say "starting a cluster"
  project=(-p parley-chaos)
  started=yes
  compose up -d --build >"$CHAOS_STATE/up.log" 2>&1 || {
    tail -n 30 "$CHAOS_STATE/up.log" >&2
    die "could not start the cluster"
  }
fi
find_nodes

faults=(--fault "kill,freeze,cut")
for flag in "$@"; do
  case $flag in --fault | --fault=*) faults=() ;; esac
done
"$CHAOS_STATE/parley" chaos --servers 127.0.0.1:3000,127.0.0.1:3001,127.0.0.1:3002 \
  --duration 60s --kill-every 6s --down 3s ${faults[@]+"${faults[@]}"} \
  --kill-cmd "deploy/chaos-compose.sh kill-node \$1 \$2" --repair-cmd "deploy/chaos-compose.sh repair-node \$1" "$@"
