# make up    a cluster on this machine, with a demo in it
# make test  every check there is; the same command CI runs
# make down  stop the cluster and remove every trace of it
.PHONY: up down test bench build

DATA_DIR ?= /var/lib/ironclad

up:
	@scripts/up $(DATA_DIR)

down:
	@scripts/down $(DATA_DIR)

test:
	@scripts/test

bench:
	@scripts/bench

build:
	@scripts/dependencies build
	@scripts/cargo build --release --locked -p ironclad
