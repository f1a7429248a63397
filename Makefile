# Two commands do everything on a fresh machine with Python 3.11+ and make:
#   make serve   install and start the server on the best weights there are (MODEL=… names them)
#   make test    install and run lint, types and tests
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: serve test lint format bench-load bench-engine bench-cluster gpu-check wheel image up image-test lock docs ray-test demo-train demo-eval clean

serve: .venv/installed
	$(BIN)/phi3v serve $(if $(MODEL),--model "$(MODEL)") $(ARGS)

# Two files of tests at a time: most wait, for servers to start and for clocks.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Memory while weights load and the cost of streaming, on random weights; FULL=1 adds those of the
# full size (8.3 GB on disk, made once), ARGS="--checkpoint DIR" measures your own instead.
bench-load: .venv/installed
	$(BIN)/python -m benchmark.loading $(if $(FULL),--full) $(ARGS)
	$(BIN)/python -m benchmark.streamer

# Our engine beside transformers on the same weights, and its own goals: ten minutes on two quiet
# cores. ARGS="--only decode,host --rounds 1" for a part; python -m benchmark.engine --help for all.
bench-engine: .venv/installed
	$(BIN)/python -m benchmark.engine $(ARGS)

# Routing over 1 to 64 replicas, simulated: a table, bench-cluster.json and a chart; no GPU, no Ray.
# ARGS="--replicas 1,8 --policies ours" for a part; python -m benchmark.cluster --help for all.
bench-cluster: .venv/installed-bench
	$(BIN)/python -m benchmark.cluster $(ARGS)

# On a machine with a GPU: right, leaking nothing, and how near its limits; a table, and
# gpu-check.json. ARGS="--size full" for the genuine sizes (8.3 GB of random weights, made once),
# ARGS="--device cpu" for a rehearsal without a GPU; python -m benchmark.gpu_check --help for all.
gpu-check: .venv/installed
	$(BIN)/python -m benchmark.gpu_check $(ARGS)

# What the image is built from, beside requirements/.
wheel: .venv/installed
	tools/image_wheel.sh dist

# DEVICE=cpu for a machine without a GPU, FLASH_ATTN=0 to leave out an hour of compiling, RAY=1 for
# a cluster's: phi3v-server:latest, :cpu, :ray or :cpu-ray.
DEVICE ?= cuda
FLASH_ATTN ?= 1
RAY ?= 0
TAG := $(subst cuda-ray,ray,$(DEVICE)$(if $(filter 1,$(RAY)),-ray))
image: wheel
	docker build --tag phi3v-server:$(if $(filter cuda,$(TAG)),latest,$(TAG)) \
	    --build-arg DEVICE=$(DEVICE) --build-arg FLASH_ATTN=$(FLASH_ATTN) --build-arg RAY=$(RAY) \
	    --build-arg REVISION=$(shell git rev-parse --short HEAD) .

# The image, and Prometheus and Grafana beside it, on loopback: PHI3V_API_KEY=… PHI3V_MODEL_DIR=…
up: image
	docker compose -f deploy/compose.yml $(if $(filter cpu,$(DEVICE)),-f deploy/compose.cpu.yml) up

# Builds the CPU image without docker, and asks it; as root, on Debian. See the script.
image-test: wheel
	tools/image_test.sh

# The image's requirements anew, from pyproject.toml and constraints.txt; with Python 3.11, as there.
lock:
	$(PYTHON) tools/lock_requirements.py

# The documentation as a site, in build/site.
docs: .venv/installed-dev
	$(BIN)/mkdocs build --quiet --site-dir build/site

# The tests of `--cluster ray`, on a cluster of this machine, then those of the contract and the
# clients, with clusters in the place of the servers that they share.
ray-test: .venv/installed-ray
	$(BIN)/python -m pytest tests/ray
	$(BIN)/python -m pytest --cluster ray tests/http tests/clients

# The demo model made anew, on two quiet cores in about two hours; its state in DEMO_STATE lets an
# interrupted run go on. The checkpoint is in its folder demo, and takes the place of scoring/demo by
# hand, with the marks of `make demo-eval ARGS=$(DEMO_STATE)/demo` in its model card.
DEMO_STATE ?= build/demo
demo-train: .venv/installed-demo
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.train_demo train $(DEMO_STATE) $(ARGS)

# The marks of the demo model in the package, on 1,000 unseen drawings: some minutes.
demo-eval: .venv/installed-demo
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.train_demo evaluate $(ARGS)

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(INSTALL) -e '.[dev]'
	touch $@

.venv/installed-bench: .venv/installed
	$(INSTALL) -e '.[bench]'
	touch $@

.venv/installed-ray: .venv/installed-dev
	$(INSTALL) -e '.[ray]'
	touch $@

.venv/installed-demo: .venv/installed
	$(INSTALL) -e '.[demo]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info tests/clients/js/node_modules
	rm -rf .mypy_cache .pytest_cache .ruff_cache
