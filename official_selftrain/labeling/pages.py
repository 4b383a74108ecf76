"""HTML pages with embedded images."""

import base64
import html
import io

from official_selftrain.files import atomic

_STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse } th, td { padding: .25em .8em; text-align: right }
th:first-child, td:first-child { text-align: left }
tr:nth-child(even) { background: #f3f3f3 } img { max-width: 100% }
"""


def write_page(path, title, body):
    """Write an HTML page.

    Args:
        path: str.
        title: str.
        body: list of str, HTML.
    """
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<body>{''.join(body)}</body></html>"
    )
    atomic.write_text(path, page)


def table(header, rows):
    """Return an HTML table of a header and a list of rows."""

    def cells(values, tag):
        return "".join(f"<{tag}>{html.escape(str(v))}</{tag}>" for v in values)

    lines = [f"<tr>{cells(header, 'th')}</tr>"]
    lines += [f"<tr>{cells(row, 'td')}</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"


def picture(figure):
    """Return a matplotlib `Figure` as HTML with an embedded image."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    data = base64.b64encode(png.getvalue()).decode()
    return f'<p><img alt="figure" src="data:image/png;base64,{data}"></p>'
