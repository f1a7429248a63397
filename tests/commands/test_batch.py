"""`phi3v batch`: what goes in, what comes out, and what stays out."""

import fcntl
import json
from pathlib import Path

import pytest
import trustme

from ..http.parrot import Parrot, ParrotServer, parrot_server
from ..http.pictures import data_url, plain_png
from .batch_files import Output, assert_not_run, line, run_batch, write_lines
from .conftest import KEY
from .terminal import in_terminal


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


BAD = {
    "not json": "it is not JSON",
    "[1]": "it is no JSON object",
    json.dumps({"method": "POST"}): "custom_id must be a text",
    json.dumps(line("", "hi")): "custom_id must be a text",
    json.dumps(line("get", "hi") | {"method": "GET"}): "method must be 'POST'",
    json.dumps(line("url", "hi") | {"url": "/v1/embeddings"}): "url must be one of /v1/chat/",
    json.dumps(line("body", "hi") | {"body": "hi"}): "body must be a JSON object",
    json.dumps(line("stream", "hi", stream=True)): "body.stream must not be true",
    json.dumps(line("good", "again")): "its custom_id 'good' is that of line 1",
}


def test_answers_and_errors(parrot: ParrotServer, tmp_path: Path, out: Path) -> None:
    """A line that is wrong is told with its number; what the server refuses has its status."""
    file = write_lines(
        tmp_path / "in.jsonl",
        [line("good", "hello"), *BAD, "", line("hot", "hi", temperature=9),
         line("azure", "hi") | {"url": "/chat/completions"}],
    )  # fmt: skip
    done = run_batch(file, out, "--url", parrot.base_url, "--key", KEY)
    assert done.returncode == 1
    assert done.stdout == f"2 answered, {len(BAD) + 1} failed: {out}\n"

    output = Output(out)
    assert output.said("good") == "hello"
    assert output.said("azure") == "hi"
    errors = output.errors()
    assert list(sorted(errors)) == list(range(2, 2 + len(BAD)))
    for number, reason in enumerate(BAD.values(), start=2):
        assert errors[number].startswith(f"line {number}: {reason}"), errors[number]
    assert output.of("stream")["error"]["code"] == "invalid_line"
    refused = output.of("hot")["response"]
    assert refused["status_code"] == 422
    assert refused["body"]["error"]["param"] == "temperature"
    assert refused["request_id"]
    assert len({result["id"] for result in output.lines}) == len(output.lines)


def test_nothing_but_answers_is_exit_code_0(
    parrot: ParrotServer, tmp_path: Path, out: Path
) -> None:
    """An empty file has nothing to fail; a byte order mark and Windows' line ends are no errors."""
    empty = write_lines(tmp_path / "empty.jsonl", [])
    assert run_batch(empty, out, "--url", parrot.base_url, "--key", KEY).returncode == 0
    text = json.dumps(line("one", "hello"))
    (tmp_path / "in.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
    done = run_batch(tmp_path / "in.jsonl", out, "--url", f"{parrot.base_url}/v1", "--key", KEY)
    assert done.returncode == 0
    assert Output(out).said("one") == "hello"


def test_run_again_it_sends_what_failed_only(
    demo_checkpoint: Path, tmp_path: Path, out: Path
) -> None:
    with parrot_server(demo_checkpoint, Parrot(demo_checkpoint)) as server:
        at = ["--url", server.base_url]
        lines = [line("a", "alpha"), line("b", "beta", temperature=9), "nonsense"]
        run_batch(write_lines(tmp_path / "in.jsonl", lines), out, *at)
        assert Output(out).ids == ["a", "b"]
        first = Output(out).of("a")

        lines = [line("a", "alpha"), line("b", "beta"), line("c", "gamma")]
        done = run_batch(write_lines(tmp_path / "in.jsonl", lines), out, *at)
        assert done.returncode == 0
        assert "2 answered, 0 failed, 1 answered before" in done.stdout
        output = Output(out)
        assert output.ids == ["a", "b", "c"]
        assert output.of("a") == first
        assert output.errors() == {}

        steps = server.parrot.num_steps
        assert run_batch(tmp_path / "in.jsonl", out, *at).returncode == 0
        assert server.parrot.num_steps == steps

        assert run_batch(tmp_path / "in.jsonl", out, *at, "--restart").returncode == 0
        assert Output(out).ids == ["a", "b", "c"]
        assert Output(out).of("a") != first


def test_pictures_beside_the_batch_file_are_read_here(
    demo_checkpoint: Path, tmp_path: Path, png: Path
) -> None:
    """In OpenAI's form: as URLs, which may be paths. Nothing but pictures leaves the machine."""
    folder = tmp_path / "batch"
    folder.mkdir()
    (folder / "dot.png").write_bytes(plain_png(30, 30))
    (folder / "secret.png").write_text("the machine's secret")
    urls = {
        "relative": "dot.png",
        "up": "../a picture.png",
        "absolute": png.as_uri(),
        "data": data_url(plain_png(30, 30)),
        "missing": "none.png",
        "secret": "secret.png",
        "device": "file:///dev/zero",
        "elsewhere": "file://host/dot.png",
    }
    parts = {
        name: [{"type": "text", "text": "what"}, {"type": "image_url", "image_url": {"url": url}}]
        for name, url in urls.items()
    }
    lines = [line(name, content, max_tokens=4) for name, content in parts.items()]
    file = write_lines(folder / "in.jsonl", lines)
    parrot = Parrot(demo_checkpoint)
    with parrot_server(demo_checkpoint, parrot, max_model_len=8192) as server:
        done = run_batch(file, folder / "out.jsonl", "--url", server.base_url)
    assert done.returncode == 1
    output = Output(folder / "out.jsonl")
    usages = {
        name: output.of(name)["response"]["body"]["usage"]["prompt_tokens_details"]["image_tokens"]
        for name in ("relative", "up", "absolute", "data")
    }
    assert usages["relative"] == usages["data"] > 0
    assert usages["up"] == usages["absolute"] > 0
    reasons = {
        "missing": "No such file",
        "secret": "no picture of the formats",
        "device": "is no file",
        "elsewhere": "on another machine",
    }
    for name, reason in reasons.items():
        assert output.of(name)["error"]["code"] == "unreadable_picture"
        assert reason in output.of(name)["error"]["message"]


def test_a_batch_that_cannot_run_is_exit_code_2(
    parrot: ParrotServer, tmp_path: Path, out: Path
) -> None:
    file = write_lines(tmp_path / "in.jsonl", [line("a", "hi")])
    at = ["--url", parrot.base_url]
    assert_not_run(run_batch(file, out, *at), "401 the key is missing or wrong")
    known = [*at, "--key", KEY]
    assert_not_run(run_batch(tmp_path / "no.jsonl", out, *known), "no.jsonl cannot be read")
    assert_not_run(run_batch(file, tmp_path / "no" / "out", *known), "cannot be written")
    assert_not_run(run_batch(file, file, *known), "is the input")
    assert_not_run(run_batch(file, out, "--url", "http://127.0.0.1:1"), "no server answers")
    assert_not_run(run_batch(file, out, *known, "--model", "m"), "--url names one")
    assert_not_run(run_batch(file, out, "--model", str(tmp_path / "no")), "own server has ended: ")
    issued = trustme.CA().issue_cert("phi.example")
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    files = {name: str(tmp_path / f"{name[4:]}.pem") for name in ("tls_cert", "tls_key")}
    settings = tmp_path / "settings.toml"
    settings.write_text("".join(f"{name} = {json.dumps(path)}\n" for name, path in files.items()))
    assert_not_run(
        run_batch(file, out, "--config", str(settings)), "leave tls_cert and tls_key out"
    )


def test_a_file_that_is_no_batch_output_stays_as_it_is(
    parrot: ParrotServer, tmp_path: Path
) -> None:
    file = write_lines(tmp_path / "in.jsonl", [line("a", "hi")])
    for text in ("my thesis\n", "my thesis", '{"custom_id": "a"}\n'):
        other = tmp_path / "other"
        other.write_text(text)
        done = run_batch(file, other, "--url", parrot.base_url, "--key", KEY)
        assert_not_run(done, "--restart overwrites it")
        assert other.read_text() == text


def test_a_last_line_without_its_line_break_is_ended_first(
    parrot: ParrotServer, tmp_path: Path, out: Path
) -> None:
    """An edited OUT often ends without one. The next answer was put on the same line, and the next
    run then refused the file. Both where all lines stay and where one leaves."""
    at = ["--url", parrot.base_url, "--key", KEY]
    run_batch(write_lines(tmp_path / "in.jsonl", [line("a", "hi")]), out, *at)
    answer = json.loads(out.read_text())
    failure = answer | {"custom_id": "b", "response": None, "error": {"code": "any"}}
    file = write_lines(tmp_path / "in.jsonl", [line("a", "hi"), line("b", "hello")])
    for edited in ([answer], [failure, answer]):
        out.write_text("\n".join(json.dumps(result) for result in edited))
        assert run_batch(file, out, *at).returncode == 0
        assert Output(out).ids == ["a", "b"]
        assert Output(out).of("a") == answer


def test_two_batches_do_not_share_an_output(
    parrot: ParrotServer, tmp_path: Path, out: Path
) -> None:
    file = write_lines(tmp_path / "in.jsonl", [line("a", "hi")])
    with out.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = run_batch(file, out, "--url", parrot.base_url, "--key", KEY)
    assert_not_run(done, "another batch writes to")


def test_a_terminal_shows_a_bar(parrot: ParrotServer, tmp_path: Path, out: Path) -> None:
    lines = [line(str(number), "hello") for number in range(60)]
    file = write_lines(tmp_path / "in.jsonl", lines)
    at = ["--url", parrot.base_url, "--key", KEY]
    with in_terminal("batch", str(file), str(out), *at, "--concurrency", "1") as terminal:
        terminal.expect(" answered, 0 failed")
        terminal.expect("━")
        terminal.expect("%")
        terminal.expect("60 answered, 0 failed: ")
        assert terminal.exit_code() == 0
