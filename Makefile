# Every target runs with what is in the repository, Go, Node and the package registries. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

MODULES := $(shell sed -n 's/^\t\.\/\(.*\)/\1/p' go.work)
PACKAGES := $(MODULES:%=./%/...)
BIN := bin
DAEMONS := $(foreach s,network storage compute container orchestrator,./services/$(s)/cmd/$(s)d)

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: build
build: ## build the programs into bin/
	go build -ldflags="-s -w" -o $(BIN)/ ./services/weft/cmd/weft ./services/weft/cmd/demo $(DAEMONS)

$(BIN)/protoc-gen-go $(BIN)/protoc-gen-go-grpc: scripts/tools/protoc-gen/go.mod
	cd scripts/tools/protoc-gen && GOWORK=off go build -o ../../../$(BIN)/ google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc

$(BIN)/golangci-lint: scripts/tools/golangci-lint/go.mod
	cd scripts/tools/golangci-lint && GOWORK=off go build -o ../../../$(BIN)/ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

$(BIN)/gofumpt: scripts/tools/gofumpt/go.mod
	cd scripts/tools/gofumpt && GOWORK=off go build -o ../../../$(BIN)/ mvdan.cc/gofumpt

$(BIN)/kubectl: scripts/tools/kubectl/go.mod scripts/tools/kubectl/main.go
	cd scripts/tools/kubectl && GOWORK=off go build -ldflags="-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2" -o ../../../$@ .

$(BIN)/buf: scripts/tools/buf/package.json
	cd scripts/tools/buf && npm install --no-package-lock --no-audit --no-fund --loglevel=error
	mkdir -p $(BIN) && ln -sf ../scripts/tools/buf/node_modules/.bin/buf $@ && touch $@

.PHONY: gen
gen: $(BIN)/buf $(BIN)/protoc-gen-go $(BIN)/protoc-gen-go-grpc ## generate Go from the contracts
	$(BIN)/buf format -w --path proto/weft
	rm -rf proto/gen && $(BIN)/buf generate

.PHONY: lint
lint: $(BIN)/buf $(BIN)/golangci-lint $(BIN)/gofumpt ## check contracts, formatting, import rules and common mistakes
	$(BIN)/buf lint
	@unformatted=$$(git ls-files '*.go' | grep -v '^proto/gen/' | xargs $(BIN)/gofumpt -l); test -z "$$unformatted" || { echo "not formatted by gofumpt:"; echo "$$unformatted"; exit 1; }
	$(BIN)/golangci-lint run $(PACKAGES)

.PHONY: test
test: ## run all tests that need nothing but this machine
	go test $(filter-out ./deploy/e2e/...,$(PACKAGES))
	go test -count=1 -timeout 25m ./deploy/e2e/... # the stories build the programs themselves: go test does not see when those change

.PHONY: race
race: ## run the same tests under the race detector
	go test -race $(PACKAGES)

SEED ?= 1
N ?= 2000
.PHONY: sim
sim: ## simulate a cluster from N seeds, from SEED on; the same seed gives the same run
	go test -count=1 -timeout 0 -v -run '^TestSimulation$$' ./services/orchestrator/internal/engine -sim.seed=$(SEED) -sim.n=$(N) -sim.time=0

LENGTH ?= 10m
.PHONY: soak
soak: # work at random for LENGTH while all kinds of faults go on: every operation ends, and nothing is left
	WEFT_SOAK=$(LENGTH) go test -count=1 -timeout 0 -v -run '^TestSoak$$' ./deploy/e2e

.PHONY: cluster
cluster: ## tell the stories that take minutes: 1,000 sagas, clusters of etcd and NATS that break, an upgrade
	WEFT_CHAOS=1 WEFT_SAGAS=1000 WEFT_TIGHT_SAGAS=200 go test -count=1 -v -timeout 40m -run 'TestSeveralOrchestrators|TestTightCloud|TestBackboneBreaks|TestUpgrade' ./deploy/e2e

.PHONY: test-real
test-real: ## run the suites and stories on the OpenStack of OS_CLOUD and the Kubernetes of KUBECONFIG
	go run ./deploy/e2e/cmd/testreal

.PHONY: verify
verify: gen ## generated code is up to date, lint, test
	@git diff --exit-code --stat -- proto || { echo "generated code differs from what is committed: run make gen and commit"; exit 1; }
	$(MAKE) lint test

.PHONY: demo
demo: build ## watch a composite application come up, change and go away
	$(BIN)/demo

# What `make chaos` prints at its end; SHORT tries the points at which most is at stake, once.
CHAOS_TABLE := $(CURDIR)/$(BIN)/chaos.txt
CHAOS := go test -count=1 -timeout 60m ./deploy/e2e/chaos -table $(CHAOS_TABLE)
SHORT := ^engine/commit/after|^engine/takeover/asked|^outbox/publish/after|^inbox/commit/before|^record/commit/after|^loop/create/|^loop/delete/after

.PHONY: chaos
chaos: ## kill processes at named points: nothing is lost, doubled or left
	@mkdir -p $(BIN)
	$(CHAOS) -repeat 3 -fleet; code=$$?; cat $(CHAOS_TABLE); exit $$code

.PHONY: chaos-short
chaos-short: # the part of it that fits into a few minutes
	@mkdir -p $(BIN)
	$(CHAOS) -repeat 1 -points '$(SHORT)' -wide '^loop/create/after' -broken 'look-up'; code=$$?; cat $(CHAOS_TABLE); exit $$code

.PHONY: bench
bench: build ## measure installations and sagas, as ratios
	go test -run '^$$' -bench . -benchtime 1x -timeout 30m ./deploy/e2e/bench ./services/orchestrator/internal/engine/enginebench

.PHONY: bench-heat
bench-heat: build # measure Weft beside Heat on the OpenStack of OS_CLOUD, as ratios
	WEFT_BIN=$(CURDIR)/$(BIN)/weft go test -run '^$$' -bench BesideHeat -benchtime 1x -timeout 60m ./deploy/e2e/heat

.PHONY: clean
clean: ## delete what was built
	rm -rf $(BIN) scripts/tools/buf/node_modules
