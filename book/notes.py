"""Notes beside the text: what the symbols of a formula mean, and what the next chapter is going to ask."""

from __future__ import annotations

import html
import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

logger = logging.getLogger(__name__)
NOTATION = "book/notation"
TYPED = {r"\times": "×", r"\sqrt": "√", r"\varepsilon": "ε"}


def typed(latex: str) -> str:
    """A formula as one would type it: d_model, √d_k."""
    text = re.sub(r"\\(?:text|operatorname)\{(\w+)\}", r"\1", latex)
    for command, character in TYPED.items():
        text = text.replace(command, character)
    return re.sub(r"\{(\w+)\}", r"\1", text)


def rows(doctree: nodes.document, heading: str) -> list[list[nodes.entry]]:
    """The rows of the table that has a column of this name."""
    for table in doctree.findall(nodes.table):
        head, *body = ([*row.findall(nodes.entry)] for row in table.findall(nodes.row))
        if heading in [entry.astext() for entry in head]:
            return body
    logger.warning("no table has a column `%s`, which this site reads", heading, once=True)
    return []


def meanings(env: BuildEnvironment) -> dict[str, str]:
    """The symbols of the notation page, and what it says of each."""
    found = {}
    for symbol, _, meaning in rows(env.get_doctree(NOTATION), "Symbol"):
        for latex in next(iter(symbol.findall(nodes.math))).astext().split(", "):
            found[latex] = f"{typed(latex)}: {typed(meaning.astext())}"
    return found


def explain(formula: str, meanings: dict[str, str]) -> str:
    """What the symbols in a formula mean, one to a line."""
    formula = re.sub(r"\{(\\text\{\w+\})\}", r"\1", formula)

    def contains(symbol: str) -> bool:
        after = "[A-Za-z]" if len(symbol) > 1 else "[A-Za-z_']"
        return bool(re.search(rf"(?<![A-Za-z_^\\]){re.escape(symbol)}(?!{after})", formula))

    # a letter alone often stands for something else; beside queries or keys it is the notation page's
    letters = contains("Q") or contains("K")
    return "\n".join(
        meanings[symbol] for symbol in meanings if contains(symbol) and (letters or len(symbol) > 1)
    )


class FormulaNotes(SphinxPostTransform):
    """Gives each formula what its symbols mean, to be shown while one points at it or has tabbed to it."""

    default_priority = 500
    builders = ("html",)

    def run(self, **kwargs: Any) -> None:
        if NOTATION not in self.env.all_docs or self.env.docname == NOTATION:
            return
        known = meanings(self.env)
        notation = self.app.builder.get_relative_uri(self.env.docname, NOTATION)
        linked = set()
        formulas = [*self.document.findall(nodes.math), *self.document.findall(nodes.math_block)]
        for formula in formulas:
            note = html.escape(explain(formula.astext(), known))
            if not note or isinstance(formula.parent, (nodes.title, nodes.reference)):
                continue
            data = f'class="noted" data-note="{note}"'
            name = html.escape(typed(formula.astext()))
            spoken = f'{data} aria-description="{note}"'
            if isinstance(formula, nodes.math_block):
                start, end = f'<div {spoken} role="group" aria-label="Formula" tabindex="0">', "</div>"
            elif note not in linked:
                start, end = f'<a {spoken} aria-label="{name}" href="{notation}#symbols">', "</a>"
            else:  # the first is a stop for the keyboard; that is enough
                start, end = f"<span {data}>", "</span>"
            linked.add(note)
            place = formula.parent.index(formula)
            formula.parent.insert(place + 1, nodes.raw("", end, format="html"))
            formula.parent.insert(place, nodes.raw("", start, format="html"))


def tell_the_story(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Put the question of a chapter, as the map on the first page asks it, under `previous` and `next`."""
    labels = app.env.get_domain("std").anonlabels  # type: ignore[attr-defined]
    questions = {}
    for chapter, _, question in rows(app.env.get_doctree(app.config.root_doc), "A question it answers"):
        for link in chapter.findall(lambda node: isinstance(node, nodes.Element) and "reftarget" in node):
            if link["reftarget"] in labels:  # a fork may have left its chapter out
                questions[labels[link["reftarget"]][0]] = typed(question.astext())
    before, after = app.env.collect_relations().get(pagename, [None, None, None])[1:]
    for place, docname in {"prev": before, "next": after}.items():
        if docname in questions and context.get(place):
            question = f'<span class="question">{html.escape(questions[docname])}</span>'
            context[f"{place}_title"] = f"{context[place]['title']}<br>{question}"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_post_transform(FormulaNotes)
    app.connect("html-page-context", tell_the_story)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
