# make demo    install, then run the whole chain on this machine and show what was learnt
# make test    install, then check style, types and behaviour
#
# PYTHON       the interpreter to build the environment with (3.11 or 3.12); without, install.py finds one
# PIP_ARGS     for pip, as PIP_ARGS="--index-url https://pypi.example/simple"; without, install.py chooses torch's build
# RUN_ARGS     for `vlm run`, as RUN_ARGS="--workspace /data/demo --set pretrain.recipe.iterations=50"
# PYTEST_ARGS  for pytest
# TEST_PROCESSES  processes that run the tests, each with a core of its own
#
# make stage NAME=deduplicate  write a new stage's skeleton, with its test, into components/ and tests/unit/
#
# make test-gpu  the tests that need an NVIDIA GPU (and use Transformer Engine where it is installed)
#
# make images  build the CPU and the GPU image with docker or podman; make cpu-image, make gpu-image build one
# make test-images  build both images, look into them, and run the pipeline in them; make test-cpu-image: the CPU image alone
#
# make test-cluster TEST_KUBECONFIG=FILE  apply the manifests to a test cluster's API server and run the launcher against it; where the
#              cluster has Kubeflow Pipelines and an operator, and can pull REGISTRY's CPU image, also run the small pipeline there
#
# REGISTRY     what images are named after, as registry.example/team; TAG their tag
# BUILD_ARGS   for `docker build`, as BUILD_ARGS="--build-arg BASE_IMAGE=registry.example/python:3.11-slim-bookworm"

PYTHON ?=
PIP_ARGS ?=
RUN_ARGS ?=
PYTEST_ARGS ?=
TEST_PROCESSES ?= 2
ENGINE ?= $(firstword $(shell command -v docker podman))
REGISTRY ?= vlm-pipelines
TAG ?= 0.1.0
BUILD_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
SOURCES := components pipelines tests install.py
# Any Python runs install.py, which finds one that fits.
ANY_PYTHON := $(firstword $(shell command -v python3 python python3.12 python3.11) $(PYTHON))

.PHONY: demo test test-gpu lint install stage images cpu-image gpu-image test-cpu-image test-images test-cluster clean

demo: install
	$(BIN)/vlm run --preset laptop $(RUN_ARGS)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-gpu: install
	$(BIN)/python -m pytest tests/gpu $(PYTEST_ARGS)

lint: install
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt install.py
	@test -n "$(ANY_PYTHON)" || { echo "ERROR: Python 3.11 or 3.12 is needed, and there is none here."; exit 1; }
	@$(ANY_PYTHON) install.py --venv $(VENV) --python '$(PYTHON)' --pip-args='$(PIP_ARGS)'
	@touch $(STAMP)

stage: install
	@$(BIN)/python -m pipelines.skeleton '$(NAME)'

images: cpu-image gpu-image

cpu-image gpu-image: %-image:
	@test -n "$(ENGINE)" || { echo "ERROR: no docker or podman here; name one with ENGINE=..."; exit 1; }
	$(ENGINE) build --file containers/$*/Dockerfile --tag $(REGISTRY)/$*:$(TAG) --build-arg VERSION=$(TAG) \
	    --build-arg GIT_COMMIT=$(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null) $(BUILD_ARGS) .

test-cpu-image: install cpu-image
	VLM_TEST_CPU_IMAGE=$(REGISTRY)/cpu:$(TAG) $(BIN)/python -m pytest tests/e2e/test_images.py $(PYTEST_ARGS)

test-images: install images
	VLM_TEST_CPU_IMAGE=$(REGISTRY)/cpu:$(TAG) VLM_TEST_GPU_IMAGE=$(REGISTRY)/gpu:$(TAG) \
	    $(BIN)/python -m pytest tests/e2e/test_images.py $(PYTEST_ARGS)

test-cluster: install
	@test -n "$(TEST_KUBECONFIG)" || { echo "ERROR: name a test cluster's kubeconfig with TEST_KUBECONFIG=..."; exit 1; }
	VLM_TEST_KUBECONFIG=$(TEST_KUBECONFIG) VLM_TEST_CPU_IMAGE=$(REGISTRY)/cpu:$(TAG) \
	    $(BIN)/python -m pytest tests/e2e/test_control_plane.py tests/e2e/test_cluster_run.py $(PYTEST_ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
