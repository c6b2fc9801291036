# The commands of this repository, for a machine with Go, git and make. What else a command needs, it builds from the versions that
# go.mod, hack/tools and hack/controlplane/binaries pin, into bin/, which git ignores.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TOOLS := $(CURDIR)/bin/tools
MODULES := . hack/tools hack/controlplane/binaries
GENERATED := api/README.md api/v1alpha1/zz_generated.deepcopy.go config/crd/bases config/rbac/watched/role.yaml
RENDERED := config/default config/rbac/watched config/statuspage

# The race detector needs cgo, and cgo a C compiler. Where there is none, the tests run without it.
RACE := $(if $(shell command -v $$(go env CC)),-race)

.PHONY: help
help: ## Print this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the programs of cmd/ into bin/.
	go build -o bin/ ./cmd/...

.PHONY: demo
demo: ## Tell the story of a replay, a leaked key and an outage in kubectl's own output, on a real API server and Postgres.
	go build -o bin/demo ./hack/demo
	exec bin/demo

.PHONY: dev
dev: ## Start the demo's servers and the manager, write bin/dev.env, and run until Ctrl-C.
	go build -o bin/demo ./hack/demo
	exec bin/demo -dev

# Two packages at a time, since each has servers of its own. Those that tell what they did go by themselves: go test shows what a
# package prints only where it is the one in the folder. The crash matrices wait more than they work, so others run beside them.
.PHONY: test
test: ## Run all tests on real servers. TESTFLAGS=-count=1 ignores cached results.
	go test $(RACE) -p 2 -timeout 40m $(TESTFLAGS) $$(go list ./... | grep -vE '/hack/(world|crashmatrix|evidencematrix)$$')
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-crashmatrix test-world

.PHONY: test-crashmatrix
test-crashmatrix:
	go test -C hack/crashmatrix $(RACE) -timeout 40m $(TESTFLAGS)

.PHONY: test-world
test-world:
	go test -C hack/world $(RACE) -timeout 40m $(TESTFLAGS)
	go test -C hack/evidencematrix $(RACE) -timeout 40m $(TESTFLAGS)

.PHONY: soak
soak: ## Disturb replays in every way at random, for hours. FOR=10m takes less; it prints each round's seed.
	go test -C hack/world $(RACE) -timeout 0 -count=1 -tags soak -run '^TestSoak' $(TESTFLAGS) -for $(or $(FOR),4h)

.PHONY: bench
bench: ## Measure speed on a real Postgres. COUNT=5 measures five times.
	go test -run '^$$' -bench . -benchtime 1x -count $(or $(COUNT),1) -timeout 4h ./hack/bench/...

.PHONY: capture
capture: ## Store every state of every kind anew in hack/upgrade, at a release, for the next one to finish.
	go test -count=1 -tags capture -run '^TestCapture' ./hack/upgrade/

.PHONY: generate
generate: tools ## Write what is generated: deepcopy, CRDs, the manager's Role, api/README.md.
	$(TOOLS)/controller-gen object crd paths=./api/... output:crd:dir=config/crd/bases
	$(TOOLS)/crd-ref-docs --log-level=ERROR --source-path=api --renderer=markdown --output-path=api/README.md \
		--config=hack/tools/crd-ref-docs/config.yaml --templates-dir=hack/tools/crd-ref-docs
	$(TOOLS)/controller-gen rbac:roleName=playbook-manager paths=./controllers/... output:rbac:dir=config/rbac/watched

# Generates in a copy without the generated files, so that it changes nothing and notices a file that nothing generates any more.
.PHONY: verify
verify: tools ## Fail on generated files that differ, untidy modules, unformatted code, or a config that does not render.
	copy=$$(mktemp -d); trap 'rm -rf "$$copy"' EXIT; \
	cp -R Makefile go.mod go.sum api config controllers hack "$$copy"; \
	(cd "$$copy" && rm -rf $(GENERATED) && $(MAKE) -o tools generate TOOLS=$(TOOLS)); \
	for path in $(GENERATED); do diff -ruN $$path "$$copy/$$path" || { echo "$$path differs: run make generate"; exit 1; }; done
	for module in $(MODULES); do go -C $$module mod tidy -diff; done
	unformatted=$$(gofmt -l api cmd config controllers hack); [ -z "$$unformatted" ] || { echo "run gofmt: $$unformatted"; exit 1; }
	for base in $(RENDERED); do $(TOOLS)/kustomize build $$base > /dev/null; done
	! git grep -nE '^(<{7}|>{7}) '

.PHONY: lint
lint: tools ## Run go vet, staticcheck, and over api/ the Kubernetes API linter.
	go vet -tags soak,capture ./...
	go -C hack/tools vet ./...
	$(TOOLS)/staticcheck -checks all -tags soak,capture ./...
	$(TOOLS)/kubeapilint ./api/...

.PHONY: tools
tools:
	go build -C hack/tools -o $(TOOLS)/ tool ./kubeapilint
