# make run    build (release, no link-time optimisation) and start Weir here
# make test   formatting, lints, every test; installs what is missing on Debian
# make crash  ten minutes of deaths under load, WEIR_CRASH_SECONDS=N for as long; figures at the end
# make overload  ten minutes of more load than it can carry; memory and answers in figures
# make storm  1,000 random edits under load, WEIR_STORM_EDITS=N for as many; figures at the end
# make start  time from a kill -9 until data is taken, WEIR_START_MIB=N with so much to replay
# make bench  in, out and at rest, beside peers; writes docs/benchmarks*.md; PART=rest for one part
# make dist   the binary that is shipped (thin link-time optimisation)
# make docs   write docs/reference/ anew from the component tables

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

PIPELINES ?= pipelines.d
DATA ?= data
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
VENV := $(TARGET)/venv
# What the end-to-end tests run the OpenTelemetry SDK with.
export WEIR_PYTHON ?= $(VENV)/bin/python
OTEL := opentelemetry-sdk opentelemetry-exporter-otlp-proto-grpc opentelemetry-exporter-otlp-proto-http
# ClickHouse in a Python process, and what fills it.
ENGINES := chdb duckdb opentelemetry-proto pyarrow
PART ?=
# A broker of the Kafka protocol, which keeps its topics in SQLite.
TANSU := 0.6.0

.PHONY: help run test crash overload storm start bench dist docs tools compiler

help:
	@grep '^# make' Makefile | cut -c3-

run: compiler
	@printf '%s\n' 'A first build takes about 18 minutes on two cores. Then Weir starts; where to look:' \
		'  start page     http://127.0.0.1:9347/' \
		'  OpenTelemetry  127.0.0.1:4317 (gRPC), http://127.0.0.1:4318 (HTTP)' \
		'  syslog         127.0.0.1:5514 (UDP and TCP)' \
		'  pipelines      $(PIPELINES)/*.toml: edit one, save it, and it is live'
	cargo run --release --bin weir -- run --pipelines "$(PIPELINES)" --data "$(DATA)"

test: compiler tools
	export PATH="$$PATH:/usr/sbin:/sbin"
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test --workspace

# The debug binary: only that has fail points.
crash: compiler
	export WEIR_CRASH_SECONDS="$${WEIR_CRASH_SECONDS:-600}" WEIR_CRASH_SEED="$${WEIR_CRASH_SEED:-$$RANDOM}"
	cargo test -p weir --test main deaths_under_load -- --nocapture

# The release binary under the tests' own senders.
overload: export WEIR_OVERLOAD_SECONDS ?= 600
overload: FIGURES := what_is_refused_is_told
storm: export WEIR_STORM_EDITS ?= 1000
storm: export WEIR_STORM_SEED ?= $(shell echo $$RANDOM)
storm: FIGURES := edits_under_load
start: export WEIR_START_MIB ?= 1024
start: FIGURES := a_long_journal_is_replayed
overload storm start: export WEIR_TEST_BINARY = $(TARGET)/release/weir
overload storm start: compiler
	cargo build --release --bin weir
	cargo test -p weir --test main $(FIGURES) -- --nocapture

# Peers to compare with.
bench: compiler
	@$(packages)
	missing=()
	for peer in prometheus prometheus-node-exporter python3 victoria-metrics; do
		command -v "$$peer" >/dev/null || missing+=("$$peer")
	done
	python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
	[ $${#missing[@]} = 0 ] || packages "$${missing[@]}"
	[ -x "$(WEIR_PYTHON)" ] || python3 -m venv "$(VENV)"
	"$(WEIR_PYTHON)" -c 'import chdb, duckdb, opentelemetry.proto, pyarrow' 2>/dev/null \
		|| "$(WEIR_PYTHON)" -m pip install --quiet --disable-pip-version-check $(ENGINES)
	[ -n "$(PART)" ] || cargo bench -p weir-operators --bench operators
	cargo bench -p weir --bench bench -- $(PART)

dist: compiler
	cargo build --profile dist --bin weir
	@echo "built: $(TARGET)/dist/weir"

docs: compiler
	cargo run --bin weir -- describe --all docs/reference

# `packages NAMES` installs Debian packages; asked for only when something is not there.
define packages
packages() {
	if ! command -v apt-get >/dev/null; then
		echo "error: these are missing and there is no apt-get to install them: $$*" >&2
		return 1
	fi
	local as_root=()
	[ "$$(id -u)" = 0 ] || as_root=(sudo)
	"$${as_root[@]}" apt-get update -q
	"$${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$$@"
}
endef

# The C parts (ring, zstd) need a compiler.
compiler:
	@$(packages)
	command -v cc >/dev/null || packages build-essential

# Real senders and receivers for the end-to-end tests.
tools: compiler
	@$(packages)
	missing=()
	export PATH="$$PATH:/usr/sbin:/sbin"
	need() { command -v "$$1" >/dev/null || missing+=("$$2"); }
	need curl curl
	need logger bsdutils
	need mariadbd mariadb-server
	need nats-server nats-server
	need openssl openssl
	need prometheus prometheus
	need prometheus-node-exporter prometheus-node-exporter
	need python3 python3
	need rsyslogd rsyslog
	compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=(postgresql)
	compgen -G '/usr/lib/*/rsyslog/lmnsd_gtls.so' >/dev/null || missing+=(rsyslog-gnutls)
	python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
	[ $${#missing[@]} = 0 ] || packages "$${missing[@]}"
	[ -x "$(WEIR_PYTHON)" ] || python3 -m venv "$(VENV)"
	"$(WEIR_PYTHON)" -c 'import opentelemetry.sdk, opentelemetry.exporter.otlp.proto.grpc, opentelemetry.exporter.otlp.proto.http' 2>/dev/null \
		|| "$(WEIR_PYTHON)" -m pip install --quiet --disable-pip-version-check $(OTEL)
	"$(WEIR_PYTHON)" -c 'import chdb' 2>/dev/null \
		|| "$(WEIR_PYTHON)" -m pip install --quiet --disable-pip-version-check chdb
	# As it is in debug builds: 11 minutes of CPU time, and never again in this build folder.
	[ -x "$(TARGET)/tools/bin/tansu" ] || {
		CARGO_TARGET_DIR="$(TARGET)/tools/build" CARGO_PROFILE_DEV_DEBUG=false cargo install --debug --locked \
			--root "$(TARGET)/tools" --version "$(TANSU)" --no-default-features --features libsql tansu
		rm -rf "$(TARGET)/tools/build"
	}
