"""The report: one HTML file that needs nothing else: no script, style or font from outside."""

import json
from html import escape

from .charts import Chart
from .document import Document
from .tables import Table, remarks, tables

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c2024; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem; }
.charts svg { width: 100%; height: auto; }
pre { overflow-x: auto; background: #f5f6f7; padding: 1rem; font-size: 13px; }
"""


def measurement_page(document: Document, drawn: list[Chart]) -> str:
    """Of one measurement."""
    target = document["target"]
    named = target["model"] or "a model without a name"
    lead = f"{named} at {target['url']}, {document['created']}"
    return _page(
        "Load on a chat endpoint",
        [f"<p>{escape(lead)}</p>", _list(remarks(document)), _charts(drawn)]
        + [_table(table) for table in tables(document)]
        + [_facts("How it was measured", document)],
    )


def comparison_page(
    documents: dict[str, Document], table: Table, said: list[str], drawn: list[Chart]
) -> str:
    """Of two measurements, by their labels."""
    facts = [_facts(label, document) for label, document in documents.items()]
    title = " and ".join(documents)
    return _page(f"Compared: {title}", [_list(said), _charts(drawn), _table(table), *facts])


def _page(title: str, parts: list[str]) -> str:
    body = "\n".join(parts)
    # What the browser is told to refuse, the page does not need: a check of its own promise.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _list(said: list[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in said)
    return f"<ul>{items}</ul>" if items else ""


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.header)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n"
        for row in table.rows
    )
    return (
        f"<h2>{escape(table.title)}</h2>\n<table>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{rows}</tbody>\n</table>"
    )


def _charts(drawn: list[Chart]) -> str:
    figures = "".join(
        f'<figure role="img" aria-label="{escape(chart.title)}">{chart.svg}</figure>'
        for chart in drawn
    )
    return f'<div class="charts">{figures}</div>' if figures else ""


def _facts(title: str, document: Document) -> str:
    """All but the figures."""
    facts = {name: value for name, value in document.items() if name != "levels"}
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    return f"<h2>{escape(title)}</h2>\n<pre>{escape(text)}</pre>"
