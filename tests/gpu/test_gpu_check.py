"""`make gpu-check`, rehearsed on a CPU: it finds what is wrong, says so, and outlives crashes."""

import json
import math
import mmap
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmark.checkpoints import random_checkpoint
from benchmark.gpu_check import graphs
from benchmark.gpu_check.aborts import check_aborts
from benchmark.gpu_check.checks import NAMES
from benchmark.gpu_check.cost import num_crops, picture_flops, prompt_flops, weights_read
from benchmark.gpu_check.inside import runner_of
from benchmark.gpu_check.isolated import Task, run_isolated
from benchmark.gpu_check.lab import QUICK, Backend, Lab
from benchmark.gpu_check.parity import check_parity
from benchmark.gpu_check.prompts import noise
from benchmark.gpu_check.table import Row, to_markdown
from model_config import from_checkpoint
from scoring.weights import build_empty, load_model

PROJECT = Path(__file__).resolve().parents[2]
EAGER = Backend("eager", {"kernels": "eager"})


@pytest.fixture(scope="module")
def tiny() -> Path:
    return random_checkpoint("tiny")


@pytest.fixture
def lab(tiny) -> Lab:
    return make_lab(tiny)


def make_lab(tiny: Path, kind: type[Lab] = Lab) -> Lab:
    return kind(device="cpu", model=tiny, tiny=tiny, golden=None, effort=QUICK)


def gpu_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmark.gpu_check", *arguments],
        cwd=PROJECT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def verdicts(rows) -> dict[str, bool | None]:
    return {row.quantity: row.holds for row in rows}


def test_the_rehearsal_holds_every_bound_and_measures_every_check(tmp_path):
    done = gpu_check("--device", "cpu", "--json", str(tmp_path / "found.json"))

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert {"date", "commit", "device", "torch", "triton", "flash-attn"} <= found["machine"].keys()
    rows = found["rows"]
    assert {row["check"] for row in rows} == set(NAMES)
    measured = {row["check"] for row in rows if row["state"] == "measured"}
    assert measured == set(NAMES) - {"memory"}  # which only a GPU can count
    assert all(row["holds"] is not False for row in rows)
    assert [row for row in rows if row["check"] == "decode" and row["state"] == "skipped"] == []
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(found["machine"]) + len(rows)
    assert len({len(line) for line in table}) == 1  # aligned


def test_weights_that_are_not_the_published_ones_are_found_out(shared, tiny, tmp_path):
    (tmp_path / "golden").symlink_to(shared / "golden")
    (tmp_path / "tiny-phi3v").symlink_to(tiny)
    files = ("--golden", str(tmp_path / "golden"), "--json", str(tmp_path / "found.json"))

    done = gpu_check("--device", "cpu", "--only", "parity", *files)

    assert done.returncode == 1, done.stderr
    assert "DOES NOT HOLD" in done.stdout


def test_without_a_gpu_it_says_how_to_rehearse(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")

    done = gpu_check("--json", str(tmp_path / "found.json"))

    assert done.returncode == 1
    assert "--device cpu" in done.stderr
    assert "Traceback" not in done.stderr


def test_parity_needs_no_published_files(lab):
    rows = list(check_parity(lab, EAGER))

    assert len(rows) == 4
    assert all(row.holds is not False for row in rows)
    assert sum(row.holds is True for row in rows) == 3


class Stale:
    """A graph whose replay leaves behind what it computed when it was captured."""

    def __init__(self, work) -> None:
        work()

    def replay(self) -> None:
        pass


def test_a_graph_that_computes_something_else_is_found_out(tiny):
    class Captured(Lab):
        def build(self, *args, **options):
            engine = super().build(*args, **options)
            runner_of(engine).capture(Stale, options["max_model_len"])
            return engine

    native = Backend("native", {"kernels": "native"})
    rows = list(graphs.check_graphs(make_lab(tiny, Captured), native))

    if all(row.state == "skipped" for row in rows):
        pytest.skip(rows[0].note)
    assert verdicts(rows)["largest logit difference"] is False


def test_memory_that_grows_with_each_step_is_found_out(tiny):
    class Leaking(Lab):
        def build(self, *args, **options):
            engine, kept = super().build(*args, **options), []
            step = engine.step

            def leaking_step():
                # Pages that were nobody's before, whatever the process has freed.
                kept.append(mmap.mmap(-1, 4 << 20))
                kept[-1].write(bytes(4 << 20))
                return step()

            engine.step = leaking_step
            return engine

    for kind, is_flat in ((Lab, True), (Leaking, False)):
        found = verdicts(check_aborts(make_lab(tiny, kind)))
        assert found["memory grown, the process's"] is is_flat
        assert found["cache blocks missing"] is True


@pytest.mark.parametrize(
    ("ending", "says"),
    [
        (partial(int, "x"), "ValueError: invalid literal"),
        (partial(signal.raise_signal, signal.SIGSEGV), "died with exit code"),
        (partial(os._exit, 3), "died with exit code 3"),
        (partial(time.sleep, 60), "no end after 2 s"),
    ],
    ids=["raises", "crashes", "exits", "hangs"],
)
def test_a_check_that_breaks_is_a_row_and_the_next_one_runs(ending, says):
    (row,) = run_isolated(Task("graphs", "broken", ending), timeout_s=2)
    assert (row.check, row.subject, row.holds) == ("graphs", "broken", False)
    assert says in row.verdict

    well = Row("parity", "well", "error", 0.1, at_most=0.2)
    assert list(run_isolated(Task("parity", "well", partial(iter, [well])), timeout_s=60)) == [well]


def test_a_value_that_is_no_number_keeps_no_bound():
    assert Row("parity", "", "error", math.nan, at_most=1.0).holds is False
    assert Row("parity", "", "error", math.nan, at_least=1.0).holds is False
    assert Row("decode", "", "step", math.nan).holds is None
    assert "nan" in to_markdown([Row("parity", "", "error", math.nan, at_most=1.0)])


def test_the_limits_of_a_step_come_from_the_weights_that_it_uses(tiny):
    config = from_checkpoint(tiny)
    model = build_empty(config)
    decoder = [model.lm_head, model.model.norm, *model.model.layers]
    sizes = [p.numel() for part in decoder for p in part.parameters()]
    matrices = [p.numel() for part in decoder for p in part.parameters() if p.dim() == 2]

    assert weights_read(config.text) == sum(sizes)
    attention = 4 * config.text.hidden_size * config.text.num_layers
    assert prompt_flops(config.text, [1]) == 2 * sum(matrices) + attention
    assert prompt_flops(config.text, [1, 1]) == 2 * prompt_flops(config.text, [1])


def test_the_limit_of_a_picture_is_what_torch_counts(tiny):
    config = from_checkpoint(tiny)
    model = load_model(tiny, config, torch.device("cpu"), torch.float32, lambda done, total: None)
    picture = noise(config.vision, 1, 4)
    crops = num_crops(config.vision, picture.pixels.shape)

    # Other ways of a CPU's attention are not counted.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        (features,) = model.encode_images([torch.tensor(picture.pixels)])

    assert (crops, len(features)) == (1 + 4, picture.num_tokens)
    assert picture_flops(config, crops, picture.num_tokens) == counter.get_total_flops()
