"""`phi3v bench` as a user runs it, against our server and others."""

import json
import re
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from benchmark.load import null_server
from benchmark.load.command import app

from ..http.running_server import PROJECT, command, environment, run_command, wait_until
from .conftest import KEY
from .scripted_server import HEAD, answer, event, scripted_server, whole

QUICK = ("--requests", "6", "--prompt-tokens", "24", "--output-tokens", "8", "--seed", "5")
PNG = b"\x89PNG\r\n\x1a\n"


def bench(url: str, output: Path, *arguments: str, **variables: str):
    return run_command("bench", "--url", url, "--output", str(output), *arguments, **variables)


def in_process(*arguments: str) -> Result:
    """Without a process of its own: what ends before anything is measured."""
    return CliRunner().invoke(app, arguments)


def report(output: Path) -> dict:
    return json.loads((output / "report.json").read_text())


@pytest.fixture(scope="module")
def swept(keyed_parrot, tmp_path_factory) -> Path:
    """One measurement of our server, closed and open loop, with everything that can be known."""
    output = tmp_path_factory.mktemp("swept")
    config = output / "model"
    config.mkdir()
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "vocab_size": 1000, "torch_dtype": "bfloat16"}
    (config / "config.json").write_text(json.dumps(sizes))
    done = bench(
        keyed_parrot.base_url,
        output,
        *QUICK,
        *("--concurrency", "1,3", "--rate", "40", "--rounds", "2", "--mix", "mixed"),
        *("--image-px", "64", "--turns", "2", "--slo", "ttft=60000,e2e=60000"),
        *("--model-config", str(config), "--bandwidth", "10", "--flops", "1"),
        BENCH_API_KEY=KEY,
    )
    assert done.returncode == 0, done.stderr
    (output / "stdout").write_text(done.stdout)
    return output


def test_every_load_is_measured_and_every_request_answered(swept):
    found = report(swept)

    assert found["schema"] == "phi3v-bench/1"
    loads = [(level["loop"], level["value"], len(level["rounds"])) for level in found["levels"]]
    assert loads == [("closed", 1, 2), ("closed", 3, 2), ("open", 40, 2)]
    for level in found["levels"]:
        for measured in level["rounds"]:
            assert measured["errors"] == {}
            assert measured["num_whole"] == measured["num_requests"] >= 6
            assert measured["num_without_usage"] == 0
            assert measured["output_tokens_per_s"] > 0
            assert measured["goodput_per_s"] == pytest.approx(measured["requests_per_s"])
            for name in ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms"):
                p50, p90, p99 = (measured[name][which] for which in ("p50", "p90", "p99"))
                assert 0 <= p50 <= p90 <= p99
            assert measured["ttft_ms"]["p50"] < measured["e2e_ms"]["p50"]
            assert measured["lag_ms"]["p99"] is not None
            assert measured["cpu_share"] > 0
            assert measured["of_limit"]["decode"] > 0
            assert measured["of_limit"]["prefill"] > 0


def test_the_report_says_what_was_measured_where_and_how(swept, keyed_parrot):
    found = report(swept)

    assert found["target"]["api_style"] == "azure"
    assert found["target"]["url"].startswith(keyed_parrot.base_url)
    assert found["target"]["model"]  # as its answers call it
    assert found["workload"]["seed"] == 5
    assert found["arguments"]["concurrency"] == "1,3"
    assert found["hardware"]["cores"] >= 1
    assert found["versions"]["python"]
    assert found["commit"]
    assert found["headroom"]["headroom"] > 0


def test_the_key_is_written_nowhere(swept):
    for file in swept.rglob("*"):
        if file.is_file():
            assert KEY.encode() not in file.read_bytes()


def test_the_figures_are_printed(swept):
    printed = (swept / "stdout").read_text()

    for expected in ("TTFT", "ITL", "TPOT", "E2E", "1 caller", "3 callers", "40 arrivals/s"):
        assert expected in printed
    assert re.search(r"Headroom|HEADROOM", printed)


class References(HTMLParser):
    """Everything in a page that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            outside = value and not value.startswith("#")
            if name in ("src", "href", "xlink:href", "srcset", "data", "action") and outside:
                self.found.append(f"{tag} {name}={value}")


def assert_self_contained(page: str) -> set[str]:
    references = References()
    references.feed(page)
    assert references.found == []
    assert references.tags & {"script", "link", "iframe", "object"} == set()
    assert re.findall(r"@import|url\((?!#)", page) == []
    return references.tags


def test_the_page_needs_nothing_else_and_has_charts(swept):
    page = (swept / "report.html").read_text()

    assert {"svg", "table"} <= assert_self_contained(page)
    assert page.count("<svg") == len(list(swept.glob("*.png"))) == 14  # seven for either loop
    assert "Time to first token" in page


def test_every_chart_is_a_png_too(swept):
    for name in ("closed-throughput", "closed-ttft", "closed-limit", "open-tpot", "open-e2e"):
        assert (swept / f"{name}.png").read_bytes().startswith(PNG)


def test_errors_are_counted_by_kind_the_rest_is_measured_and_the_warm_up_is_not(tmp_path):
    warm_up = [answer(3)] * 3
    failing = [
        whole("429 Too Many Requests", b"busy"),
        whole("500 Internal Server Error", b"<b>oops</b>"),
        [HEAD, event("a"), None],
        [HEAD, event("a"), 30.0],
    ]
    scripts = [*warm_up, *failing]
    with scripted_server(lambda body: scripts.pop(0) if scripts else answer(3)) as server:
        flags = ("--concurrency", "2", "--requests", "10", "--warm-up", "3", "--timeout", "1")
        done = bench(f"{server.url}/chat/completions", tmp_path, *flags)

    assert done.returncode == 0, done.stderr
    assert len(server.bodies) == 3 + 10
    (measured,) = report(tmp_path)["levels"][0]["rounds"]
    kinds = {"status 429", "status 500", "hung up in the stream", "timeout"}
    assert measured["errors"] == dict.fromkeys(kinds, 1)
    assert (measured["num_requests"], measured["num_whole"]) == (10, 6)
    assert "1 × status 429: busy" in done.stdout
    assert "&lt;b&gt;oops&lt;/b&gt;" in (tmp_path / "report.html").read_text()
    assert re.search(r"2 callers +unknown +unknown", done.stdout)
    assert "the model's size was not given" in done.stdout
    rates = report(tmp_path)["device_rates"]
    assert rates == {"bandwidth": None, "flops": None, "source": "not asked for"}


def test_two_measurements_are_compared_with_medians_and_ratios(swept, tmp_path):
    """The second is the first with twice the speed."""
    document = report(swept)
    for level in document["levels"]:
        for measured in level["rounds"]:
            measured["output_tokens_per_s"] *= 2
            for which in measured["ttft_ms"]:
                measured["ttft_ms"][which] /= 2
    other = tmp_path / "faster.json"
    other.write_text(json.dumps(document))
    files = (str(swept / "report.json"), str(other))
    done = run_command("bench", "--compare", *files, "--output", str(tmp_path / "both"))

    assert done.returncode == 0, done.stderr
    assert re.search(r"1 caller +output tokens/s +\S+ +\S+ +2 *\n", done.stdout)
    assert re.search(r"3 callers +TTFT p50, ms +\S+ +\S+ +0\.5 *\n", done.stdout)
    page = (tmp_path / "both" / "comparison.html").read_text()
    assert {"svg", "table"} <= assert_self_contained(page)
    assert "report p50" in page
    assert "faster p50" in page
    assert (tmp_path / "both" / "closed-ttft.png").read_bytes().startswith(PNG)


def test_two_files_of_one_name_are_two_lines_in_a_chart(swept, tmp_path):
    """Both had the label bench/report: the second took the first one's place."""
    files = [tmp_path / side / "bench" / "report.json" for side in ("old", "new")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_bytes((swept / "report.json").read_bytes())
    done = in_process("--compare", *map(str, files), "--output", str(tmp_path / "both"))

    assert done.exit_code == 0, done.stderr
    page = (tmp_path / "both" / "comparison.html").read_text()
    for file in files:
        assert f"{file} p50" in page


@pytest.mark.parametrize(
    ("text", "why"),
    [("{]", "cannot be read"), ('{"schema": "other/2"}', "schema other/2"), ("[]", "schema None")],
)
def test_what_is_no_measurement_is_not_compared(swept, tmp_path, text, why):
    (tmp_path / "bad.json").write_text(text)
    done = in_process("--compare", str(swept / "report.json"), str(tmp_path / "bad.json"))

    assert (done.exit_code, done.stdout) == (1, "")
    assert why in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["--concurrency", "0"], 2, "whole numbers above zero"),
        (["--concurrency", "2.5"], 2, "whole numbers above zero"),
        (["--rate", "1,nan"], 2, "numbers above zero"),
        (["--slo", "speed=3"], 2, "speed=3"),
        (["--extra-body", "[1]"], 2, "not a JSON object"),
        (["--params", "1e9", "--model-config", "."], 2, "not both"),
        (["--url", "nonsense"], 1, "not an address"),
        (["--url", "http://localhost:500l"], 1, "localhost:500l is not an address"),
        (["--url", "http://h:99999", "--api-style", "azure"], 1, "h:99999 is not an address"),
        (["--url", "http://127.0.0.1:1", "--api-style", "azure"], 1, "no connection"),
        (["--url", "http://127.0.0.1:1"], 1, "cannot be reached"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_measured_is_said_in_a_line(tmp_path, arguments, code, why):
    done = in_process("--output", str(tmp_path / "out"), *arguments)

    assert done.exit_code == code
    assert why in " ".join(done.stderr.replace("│", " ").split())


def test_a_headroom_that_cannot_be_measured_is_no_failure(monkeypatch, tmp_path):
    monkeypatch.setattr(null_server, "child_module", lambda *words: [sys.executable, "-c", ""])
    with scripted_server(lambda body: answer(2)) as server:
        flags = ("--concurrency", "1", "--requests", "1", "--output", str(tmp_path))
        done = in_process("--url", f"{server.url}/chat/completions", *flags)

    assert done.exit_code == 0, done.stderr
    assert report(tmp_path)["headroom"] is None
    assert "Headroom: not measured." in done.stdout


def test_a_wrong_key_stops_at_the_warm_up(keyed_parrot, tmp_path):
    flags = ("--api-style", "azure", "--key", "wrong", "--concurrency", "1")
    done = in_process("--url", keyed_parrot.base_url, "--output", str(tmp_path), *flags)

    assert done.exit_code == 1
    assert "status 401" in done.stderr
    assert not (tmp_path / "report.json").exists()


def test_an_interrupted_run_keeps_the_loads_that_are_done(tmp_path):
    """Ctrl-C while the second load waits for a server that does not answer it."""
    with scripted_server(
        lambda body: answer(2) if len(server.bodies) <= 4 else [HEAD, 60.0]
    ) as server:
        words = ["bench", "--url", f"{server.url}/chat/completions", "--output", str(tmp_path)]
        words += ["--concurrency", "1,2", "--requests", "4", "--warm-up", "0"]
        with subprocess.Popen(
            command(*words), cwd=PROJECT, env=environment(), stdout=subprocess.PIPE
        ) as process:
            wait_until(lambda: len(server.bodies) >= 6, 30, "the second load is asked")
            process.send_signal(signal.SIGINT)
            printed = process.communicate(timeout=30)[0].decode()

    assert process.returncode == 130
    found = report(tmp_path)
    assert found["was_interrupted"]
    assert [level["value"] for level in found["levels"]] == [1]
    assert "interrupted" in printed
