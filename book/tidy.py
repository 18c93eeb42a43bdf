"""After the build: take out of the site what no page needs, and make its front door a proper page."""

from __future__ import annotations

import base64
import io
import logging
import re
import shutil
from pathlib import Path

from fontTools import subset
from sphinx.application import Sphinx

# What the pages are better without: the theme's icon script (1.5 MB; a web font draws the icons), labels that
# contradict the text they label, roles that are out of date
UNWANTED = "|".join(
    (
        r"<script[^>]*fontawesome\.js[^>]*></script>",
        r'(?<=<summary) aria-label="[^"]*"',
        r'(?<=title="Search") aria-label="Search"',
        r' role="doc-\w+"',
        r' role="list"(?= class="citation-list")',
    )
)
PREFERRED = 'matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"'
# A long signature's parameters: a list of definitions without a term, which a screen reader cannot announce
PARAMETERS = r'<dl>\n((?:<dd><em class="sig-param">.*</dd>\n)+)</dl>'
# All of a signature, in which each word and each bracket has a span or two of its own
SIGNATURE = r'(?s)<dt class="sig .*?</dt>'
INDEX = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><title>{title}</title>
<link rel="icon" href="{icon}"><meta http-equiv="refresh" content="0; url={page}">
</head>
<body><main><h1><a href="{page}">{title}</a></h1></main></body>
</html>
"""


def used_names(out: Path) -> set[str]:
    """Every word of the pages and of their scripts. What is not among them cannot be a class or an id."""
    files = [*out.rglob("*.html"), *out.glob("_static/**/*.js")]
    names = {"bs-tooltip-auto"}  # bootstrap.js puts this one together
    return names.union(*(re.findall(r"[\w-]+", file.read_text(encoding="utf-8")) for file in files))


def without_unused_rules(css: str, names: set[str]) -> str:
    """The style sheet without the selectors that name a class or an id of no page: most of Bootstrap's."""

    def applies(selector: str) -> bool:
        plain = re.sub(r"\[[^\]]*\]|\([^()]*\)", "", re.sub(r"\([^()]*\)", "", selector))
        found = re.findall(r"[.#]((?:\\.|[\w-])+)", plain)
        return all(name.replace("\\", "") in names for name in found)

    def shorten(rule: re.Match[str]) -> str:
        if rule[1].lstrip().startswith("@"):
            return rule[0]
        selectors = [part for part in re.split(r",(?![^(\[]*[)\]])", rule[1]) if applies(part)]
        return f"{','.join(selectors)}{{{rule[2]}}}" if selectors else ""

    notices = re.findall(r"(?s)/\*!.*?\*/", css)
    css = re.sub(r"(?s)/\*.*?\*/", "", css)
    css = re.sub(r"([^{}]+)\{([^{}]*)\}", shorten, css)
    css = re.sub(r"@(?:media|supports)[^{}]*\{\s*\}", "", css)
    return "\n".join([css.strip(), *notices]) + "\n"


def as_spans(parameters: re.Match[str]) -> str:
    """A signature's parameters as lines of text."""
    lines = re.sub(r"(?<=<)dd>|(?<=</)dd>", "span>", parameters[1])
    return f'<span class="sig-params">{lines}</span>'


def with_fewer_spans(signature: re.Match[str]) -> str:
    """A signature without the spans of what looks the same with and without them: its words and brackets."""
    text = signature[0]
    for _ in "inner", "outer":
        text = re.sub(r'<span class="(?:pre|[npw])">([^<]*)</span>', r"\1", text)
    return text


def as_url(font: bytes, kind: str) -> str:
    return f"url(data:font/{kind};base64,{base64.b64encode(font).decode()})"


def embed_icons(css: Path) -> None:
    """Put the icons that the theme's style sheet still names into it: 4 kB in place of a font of 156 kB."""
    text = css.read_text(encoding="utf-8")
    icons = {ord(icon) for icon in re.findall("[\ue000-\uf8ff]", text)}
    icons |= {int(code, 16) for code in re.findall(r"\\([ef][0-9a-f]{3})", text)}
    options = subset.Options(flavor="woff", layout_features=[], name_IDs=[])

    def embed(source: re.Match[str]) -> str:
        font = subset.load_font(str(css.parent / source[1]), options)
        wanted = subset.Subsetter(options)
        wanted.populate(unicodes=icons)
        wanted.subset(font)
        subset.save_font(font, content := io.BytesIO(), options)
        return f"src:{as_url(content.getvalue(), 'woff')}"

    text = re.sub(r"src:url\([^)]*\.woff2\)[^,]*,url\(([^)]*\.ttf)\)[^;}]*", embed, text)
    css.write_text(text, encoding="utf-8")


def embed_fonts(css: Path) -> None:
    """Put the fonts of nearly every formula into KaTeX's style sheet: no page shifts when they arrive."""
    text = css.read_text(encoding="utf-8")
    for font in ("Main-Regular", "Math-Italic", "Size1-Regular", "Size2-Regular", "Size3-Regular"):
        name = f"fonts/KaTeX_{font}.woff2"
        text = text.replace(f"url({name})", as_url((css.parent / name).read_bytes(), "woff2"))
    css.write_text(text, encoding="utf-8")


def tidy(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.name != "html":
        return
    out = Path(app.outdir)
    static = out / "_static"
    for old in [*out.glob("chapters/*.html"), *out.glob("book/*.html")]:  # of what has been left out since
        if old.relative_to(out).with_suffix("").as_posix() not in app.env.all_docs:
            old.unlink()
    for page in out.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        text = re.sub(PARAMETERS, as_spans, re.sub(UNWANTED, "", text))
        text = re.sub(SIGNATURE, with_fewer_spans, text)
        # no page is ever without a theme: its colours would be undefined, and borders in them not drawn
        text = text.replace('data-theme="auto"', 'data-theme="light"', 1)
        text = text.replace('getItem("theme") || "auto"', f'getItem("theme") || ({PREFERRED})', 1)
        page.write_text(text, encoding="utf-8")
    for unused in [*static.rglob("*.map"), *static.glob("scripts/fontawesome.js*")]:
        unused.unlink(missing_ok=True)
    names = used_names(out)
    for css in static.rglob("*.css"):
        if css.name != "book.css" and "demo" not in css.parts:  # ours have no rule too many
            css.write_text(without_unused_rules(css.read_text(encoding="utf-8"), names), encoding="utf-8")
    embed_icons(static / "styles" / "pydata-sphinx-theme.css")
    shutil.rmtree(static / "vendor")
    embed_fonts(static / "katex" / "katex.min.css")
    index = INDEX.format(
        title=app.config.html_title,
        page=app.builder.get_target_uri(app.config.root_doc),
        icon=f"_static/{Path(app.config.html_favicon).name}",
    )
    (out / "index.html").write_text(index, encoding="utf-8")


logging.getLogger("fontTools").setLevel(logging.WARNING)  # else it buries what the build complains of


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", tidy, priority=900)  # after the theme, which writes a style sheet then
    return {"parallel_read_safe": True, "parallel_write_safe": True}
