"""What two measurements are called beside each other."""

from pathlib import Path

import pytest

from benchmark.load.comparison import labels


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("a/before.json", "b/after.json"), ("before", "after")),
        (("before/report.json", "after/report.json"), ("before/report", "after/report")),
        (("report.json", "after/report.json"), ("report", "after/report")),
        (
            ("old/bench/report.json", "new/bench/report.json"),
            ("old/bench/report.json", "new/bench/report.json"),
        ),
        (("a/report.json", "a/report.json"), ("a/report.json (1)", "a/report.json (2)")),
    ],
)
def test_two_files_never_have_one_label(files, expected):
    first, second = map(Path, files)

    assert labels((first, second)) == expected
