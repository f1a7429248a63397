"""Compiles grammars to see if they can be: `python -m scoring.grammar_process`.

Some schemas of a few hundred bytes keep llguidance busy for minutes and take gigabytes, and nothing
stops it from within. So this process allows itself half a second of processor time for each, and so
much memory; the kernel ends it where that is not enough. Lines of JSON come in on standard input,
the first with the tokenizer, then one for each grammar; each is answered by a line.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

from .errors import GrammarError
from .grammar import Grammar
from .grammar_mask import GrammarTokenizer

CPU_S = 0.5
MEMORY_BYTES = 128 << 20
# A lock that is never released, say, takes no processor time.
_WALL_S = 20.0
# Requests in progress come first.
_NICENESS = 5


def main() -> None:
    os.nice(_NICENESS)
    start = json.loads(sys.stdin.readline())
    tokenizer = GrammarTokenizer(Path(start["tokenizer"]), frozenset(start["end_token_ids"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = _address_space() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    _answer(None)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        signal.setitimer(signal.ITIMER_REAL, _WALL_S)
        reason = None
        try:
            tokenizer.compile(Grammar(json.loads(line)))
        except GrammarError as error:
            reason = str(error)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _answer(reason)


def _answer(reason: str | None) -> None:
    sys.stdout.write(json.dumps(reason) + "\n")
    sys.stdout.flush()


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
