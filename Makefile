# Two commands on a fresh machine do all the set-up: `make up` and `make test`.
SHELL := /bin/bash
.DEFAULT_GOAL := help

BIN      := bin/shiplog
DATA_DIR ?= /var/lib/shiplog
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# What the API server and the embedded kubectl say they are: the pinned version of the Kubernetes libraries.
KUBE     := $(shell awk '$$1 == "k8s.io/kubernetes" { print $$2 }' go.mod)
LDFLAGS  := -X main.version=$(VERSION) \
  -X k8s.io/component-base/version.gitVersion=$(KUBE)+shiplog \
  -X k8s.io/component-base/version.gitMajor=$(word 1,$(subst ., ,$(KUBE:v%=%))) \
  -X k8s.io/component-base/version.gitMinor=$(word 2,$(subst ., ,$(KUBE:v%=%)))
# Rooms whose tests need no more than a Go tool chain, and those that start Postgres, containers or network namespaces.
INTEGRATION := ./ops/... ./projections/... ./runtime/... ./eventstore/... ./commands/... ./api/...

# The end-to-end suite with every cluster's log in another process, reached through the official EventStoreDB client.
ON_EVENTSTORE := SHIPLOG_E2E_EVENTSTORE=esdb

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## install what is missing on this machine (Debian packages, Go modules)
	@ops/scripts/deps.sh

.PHONY: build
build: ## build bin/shiplog, showing progress
	@ops/scripts/build.sh $(BIN) ./cmd/shiplog "$(LDFLAGS)"

.PHONY: images
images: build ## build the example images as archives under bin/images
	@go run ./examples/internal/buildimages -o bin/images

.PHONY: up
up: deps build ## start a one-node cluster in the background and wait until it is Ready
	@$(BIN) up --detach --data-dir $(DATA_DIR)

.PHONY: demo
demo: up images ## run the two-tier example on it, fetch its page, print what to try next
	@SHIPLOG_DATA_DIR=$(DATA_DIR) ops/scripts/demo.sh

.PHONY: down
down: build ## stop the cluster and everything it runs; the data stays
	@$(BIN) down --data-dir $(DATA_DIR)

.PHONY: clean
clean: down ## stop the cluster and delete its data
	@$(BIN) down --data-dir $(DATA_DIR) --delete-data

.PHONY: generate
generate: ## write generated code and documents again
	go generate ./...

.PHONY: lint
lint: ## formatting, vet, staticcheck
	@ops/scripts/lint.sh

.PHONY: test
test: deps build lint ## every check: architecture, unit, integration, end to end
	go test -timeout 25m ./...
	$(ON_EVENTSTORE) go test -timeout 25m ./test/e2e

.PHONY: e2e
e2e: deps build ## only the end-to-end suites, on the embedded log and on an event store in another process
	go test -count=1 -timeout 25m ./test/...
	$(ON_EVENTSTORE) go test -count=1 -timeout 25m ./test/e2e

.PHONY: soak
soak: deps ## power fails under the log for as long as you like: SOAK=30m, or a number of runs; a failing seed prints how to see it again
	SOAK=$${SOAK:-10m} go test -count 1 -timeout 0 -v -run '^TestPowerLoss$$' ./eventstore/embedded

.PHONY: mutants
mutants: deps ## break the log on purpose, one change of eventstore/MUTATIONS.md after the other, and see the tests notice
	go run ./eventstore/internal/mutants

.PHONY: bench
bench: deps build ## measure and print the figures that docs/performance.md reports
	@ops/scripts/bench.sh
