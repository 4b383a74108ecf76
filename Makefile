# make quickstart and make test set up what they need; make help lists all targets.

VENV ?= .venv
EXTRA ?= cpu
CONSTRAINTS ?= constraints.txt
MODEL_DIR ?= runs/quickstart
MIN_FREE_GB ?= 4
# Test files run in parallel; PARALLEL= runs them sequentially.
PARALLEL ?= -n 2 --dist worksteal

BIN = $(VENV)/bin
STAMP = $(VENV)/installed-$(EXTRA)-$(notdir $(CONSTRAINTS))$(PYTHON:%=-$(notdir $(PYTHON)))

.PHONY: help quickstart test test-all coverage smoke studies docs lint mutants \
    parity test-oldest install clean

help:
	@echo "make quickstart  set up, then run the whole loop on embedded data"
	@echo "make test        set up, then run the tests"
	@echo "make test-all    set up, then run the tests, longer checks included"
	@echo "make coverage    set up, then run the tests and measure their coverage"
	@echo "make smoke       set up, then take two steps of every configuration of the paper"
	@echo "make studies     set up, then run the embedded studies (two to three hours)"
	@echo "make docs        set up, then render the API reference into docs/api"
	@echo "make lint        set up, then check the style"
	@echo "make mutants     list small faults in the code that no test finds (an hour or two)"
	@echo "make parity      compare image operations with TensorFlow Addons (Python 3.11)"
	@echo "make test-oldest run the tests with the oldest supported packages (Python 3.11)"
	@echo "make install     set up only"
	@echo "make clean       remove the virtual environments"
	@echo "PYTHON=/path/to/python selects the Python, EXTRA=gpu the TensorFlow build."

quickstart: $(STAMP)
	@$(BIN)/python -m official_selftrain.train \
	    --gin_file=gin/quickstart.gin --model_dir=$(MODEL_DIR)

test: $(STAMP)
	@$(BIN)/python -m pytest -q --durations=20 $(PARALLEL)

test-all: $(STAMP)
	@$(BIN)/python -m pytest -q --durations=20 $(PARALLEL) -m ""

coverage: $(STAMP)
	@$(BIN)/python -m pytest --cov --cov-report=term -q --durations=20 $(PARALLEL)

# SMOKE=--record appends the figures to benchmarks/results/smoke.jsonl.
smoke: $(STAMP)
	@$(BIN)/python -W ignore benchmarks/smoke.py $(SMOKE)

STUDIES = digits_table_2 digits_table_3 digits_table_7 digits_table_10 digits_figure_2

studies: $(STAMP)
	@failed=0; for study in $(STUDIES); do \
	    $(BIN)/python -m official_selftrain.study \
	        --gin_file=gin/study/$$study.gin --model_dir=runs/study --jobs=2 || failed=1; \
	done; $(BIN)/python benchmarks/claims.py --model_dir=runs/study && exit $$failed

docs: $(STAMP)
	@TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python tools/api_reference.py docs/api
	@echo "docs/api/index.html"

lint: $(STAMP)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

# A stopped run continues; MUTANTS=--rooms=geometry selects rooms.
mutants: $(STAMP)
	@$(BIN)/python -W ignore tools/mutants.py $(MUTANTS)

# TensorFlow Addons isn't compatible with Keras 3: it needs a separate environment.
PARITY_VENV ?= .venv-parity

parity: $(STAMP)
	@PYTHON="$(PYTHON)" sh tools/make_parity_venv.sh $(PARITY_VENV)
	@TF_CPP_MIN_LOG_LEVEL=3 $(PARITY_VENV)/bin/python -W ignore \
	    benchmarks/parity_reference.py $(PARITY_VENV)/parity.npz
	@$(BIN)/python benchmarks/parity.py --record $(PARITY_VENV)/parity.npz

OLDEST_VENV ?= .venv-oldest

test-oldest:
	@$(MAKE) test VENV=$(OLDEST_VENV) CONSTRAINTS=constraints-oldest.txt \
	    PYTHON="$(or $(PYTHON),python3.11)"

install: $(STAMP)

$(STAMP): setup.py $(CONSTRAINTS)
	@MIN_FREE_GB=$(MIN_FREE_GB) PYTHON="$(PYTHON)" \
	    sh tools/make_venv.sh $(VENV) $(EXTRA) $(CONSTRAINTS)
	@touch $@

clean:
	@for venv in $(VENV) $(PARITY_VENV) $(OLDEST_VENV); do \
	    if [ -e $$venv/pyvenv.cfg ]; then rm -rf $$venv; fi; \
	done
