#!/usr/bin/env bash
# Compares the micro-benchmarks of two states of the sources, in turns, so that what
# disturbs the machine disturbs both.
#
#   bench/compare.sh                     the last commit and what is in the tree now
#   OLD=v1.0.0 bench/compare.sh          another commit and what is in the tree now
#   OLD=HEAD~3 NEW=HEAD bench/compare.sh two commits
#   OLD=old.txt bench/compare.sh         figures that were kept, and the tree
#
# SAVE=FILE keeps the new figures. COUNT (6) is the number of runs, BENCHTIME (0.3s)
# how long each benchmark takes in one, BENCH says which are run, PACKAGES of what.
set -euo pipefail
cd "$(dirname "$0")/.."

GO=${GO:-go}
BENCHSTAT=golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
OLD=${OLD:-HEAD}
NEW=${NEW:-}
COUNT=${COUNT:-6}
BENCHTIME=${BENCHTIME:-0.3s}
BENCH=${BENCH:-'^Benchmark(HotPath|Apply|Encode|Do|SessionStart)$'}
PACKAGES=${PACKAGES:-. wire fsm mux}

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# build SIDE COMMIT: the sources of a commit (none: the tree) and their test programs.
build() {
  local side=$1 commit=$2 sources=$PWD package
  mkdir -p "$dir/$side"
  if [ -n "$commit" ]; then
    sources=$dir/$side/sources
    mkdir "$sources"
    git archive "$commit" | tar -x -C "$sources"
  fi
  for package in $PACKAGES; do
    if [ -d "$sources/$package" ]; then
      (cd "$sources/$package" && $GO test -c -o "$dir/$side/${package//\//_}.test" .)
    fi
  done
  echo "$sources" >"$dir/$side/where"
}

# run SIDE: each benchmark once.
run() {
  local side=$1 package program sources
  sources=$(cat "$dir/$side/where")
  for package in $PACKAGES; do
    program=$dir/$side/${package//\//_}.test
    if [ -x "$program" ]; then
      (cd "$sources/$package" && "$program" -test.run '^$' -test.bench "$BENCH" -test.benchmem -test.benchtime "$BENCHTIME") >>"$dir/$side.txt"
    fi
  done
}

sides=new
if [ -f "$OLD" ]; then
  cp "$OLD" "$dir/old.txt"
else
  git rev-parse --verify --quiet "$OLD^{commit}" >/dev/null || { echo "compare.sh: OLD=$OLD is neither a file nor a commit" >&2; exit 2; }
  build old "$OLD"
  sides='old new'
fi
build new "$NEW"
for ((i = 1; i <= COUNT; i++)); do
  echo "run $i of $COUNT" >&2
  for side in $sides; do run "$side"; done
done
if [ -n "${SAVE:-}" ]; then cp "$dir/new.txt" "$SAVE"; fi
cd "$dir" # so that the columns are called old and new
$GO run "$BENCHSTAT" old.txt new.txt
