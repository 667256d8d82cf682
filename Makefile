# Everything here also works without make: the recipes are short on purpose.

GO         ?= go
FUZZTIME   ?= 60s
SEEDS      ?= 1000
SEED       ?= 0
RUNS       ?= 1
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
CYCLONEDX   = github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
BUF         = github.com/bufbuild/buf/cmd/buf@v1.75.0
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.8.0

# Packages whose tests run processes of their own take the race detector along
# only in the test program, which says little: they run without it.
RACE_PACKAGES = $(shell $(GO) list ./... | grep -v '/test$$')

.PHONY: run
run: ## three nodes on this machine
	$(GO) run ./cmd/parley dev

.PHONY: test
test: ## everything but the slow and the optional
	$(GO) test ./...

.PHONY: race
race: ## with the race detector
	$(GO) test -race -timeout 20m $(RACE_PACKAGES)

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (60s)
	@set -e; $(GO) list ./... | while read -r package; do \
	  for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
	    echo "$$package $$target"; \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x $$package </dev/null; \
	  done; \
	done

.PHONY: lint
lint: ## gofmt, vet, staticcheck, licences, known vulnerabilities
	@files=$$(gofmt -l .); [ -z "$$files" ] || { echo "gofmt: $$files"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	GO='$(GO)' .ci/licences
	.ci/vulncheck $(GOVULNCHECK)

.PHONY: lint-proto
lint-proto: ## the .proto files (buf lint); 'generate' does it too
	$(GO) run $(BUF) lint api

.PHONY: licences
licences: ## licences of all that is linked in; fails on one that is not allowed
	GO='$(GO)' .ci/licences

.PHONY: sbom
sbom: ## what the program is made of, as CycloneDX JSON: parley.cdx.json
	$(GO) run $(CYCLONEDX) app -json -licenses -main cmd/parley -output parley.cdx.json .

.PHONY: e2e
e2e: ## clusters of real processes
	$(GO) test -count=1 -v ./test/

.PHONY: chaos
chaos: ## kill nodes under load for a minute
	$(GO) run ./cmd/parley chaos

.PHONY: chaos-compose
chaos-compose: ## the same against containers; needs Docker
	deploy/chaos-compose.sh

.PHONY: sim
sim: ## SEEDS (1000) simulated clusters, broken on purpose; SEED=n begins there
	cd internal/lab && $(GO) test -run '^TestSim$$' -count=1 -timeout 60m -seeds $(SEEDS) -seed $(SEED)

.PHONY: matrix
matrix: ## every misfortune of the matrix once; ROW=name (or several, with commas), RUNS=n, SEED=n, LONG=1, KEEP=directory
	cd test && $(GO) test -run '^TestMatrix$$' -count=1 -timeout 0 -row '$(or $(ROW),all)' -runs $(RUNS) -seed $(SEED) $(if $(LONG),-long) $(if $(KEEP),-keep $(KEEP))

.PHONY: mutants
mutants: ## plant bugs and want each caught; MUTANT=name plants one
	$(GO) run ./internal/lab/mutants -mutant '$(MUTANT)'

.PHONY: hostile
hostile: ## a minute under assault by 2,000 connections, on a quiet machine
	PARLEY_TEST_HOSTILE=60s $(GO) test -run '^TestHostileClient$$' -count=1 -v ./test/

.PHONY: soak
soak: ## ten minutes at full load without an election
	$(GO) run ./cmd/parley chaos --steady --duration 10m --rate 0

.PHONY: bench
bench: ## the benchmarks of all packages
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: performance
performance: ## all figures of docs/performance.md, an hour on a quiet machine; writes it
	cd bench && $(GO) run -mod=mod . -docs ../docs -section all

.PHONY: bench-peers
bench-peers: ## beside NATS, etcd and RabbitMQ only, a quarter of an hour; writes docs/performance.md
	cd bench && $(GO) run -mod=mod . -docs ../docs -section peers

.PHONY: bench-smoke
bench-smoke: ## the same in half a minute, writes nothing
	cd bench && $(GO) run -mod=mod . -smoke

.PHONY: bench-compare
bench-compare: ## micro-benchmarks of the last commit (OLD=commit or file) and the tree, by benchstat
	bench/compare.sh

.PHONY: generate
generate: ## what is generated from sources
	$(GO) generate ./...

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1|\2/p' Makefile | column -t -s '|'
