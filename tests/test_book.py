"""What the site's extension makes of drawings, formulas and style sheets, tried without building a site."""

import re

import pytest

from book.extension import inline_svg
from book.notes import explain, typed
from book.tidy import PARAMETERS, SIGNATURE, UNWANTED, as_spans, with_fewer_spans, without_unused_rules

SVG = """<?xml version="1.0"?>
<svg width="9">
 <metadata>about</metadata><style>*{color: red}</style><!-- note -->
 <defs><path id="used" d="M 1.23456 -0.98765"/><path id="spare"/></defs>
 <use href="#used" x="2.999"/><g clip-path="url(#used)"><a href="#used">1.23456</a></g>
</svg>"""


def test_a_drawing_in_the_page_has_names_of_its_own() -> None:
    assert inline_svg(SVG, "03-1-", 'A "curve" <up>') == (
        '<svg role="img" aria-label="A &quot;curve&quot; &lt;up&gt;" width="9"><defs>'
        '<path id="03-1-used" d="M 1.23 -0.98"/><path/></defs>'
        '<use href="#03-1-used" x="2.99"/><g clip-path="url(#03-1-used)"><a href="#03-1-used">1.23456</a></g>'
        "</svg>"
    )
    assert inline_svg('<svg aria-label="mine"></svg>', "x-", "other") == '<svg aria-label="mine"></svg>'


@pytest.mark.parametrize(
    ("latex", "plain"),
    [
        (r"d_{\text{model}}", "d_model"),
        (r"\sqrt{d_k}", "√d_k"),
        (r"n \times d_k", "n × d_k"),
        (r"\operatorname{softmax}", "softmax"),
    ],
)
def test_a_formula_as_one_would_type_it(latex: str, plain: str) -> None:
    assert typed(latex) == plain


def test_a_letter_is_explained_only_beside_queries_and_keys() -> None:
    meanings = {name: f"{name}: known" for name in ("Q", "V", "n", "d_k", r"d_\text{model}")}
    assert explain(r"Q V / \sqrt{d_k}", meanings).splitlines() == ["Q: known", "V: known", "d_k: known"]
    assert explain(r"n V d_k", meanings) == "d_k: known"
    assert explain(r"d_{\text{model}}", meanings) == r"d_\text{model}: known"
    assert explain(r"Q W^V + x_n + \n + d_kx", meanings) == "Q: known"


def test_only_rules_for_what_is_there_stay() -> None:
    css = """/*! licence */ /* note */ .used, .spare > a { color: red }
.spare { color: blue } #there:not(.spare) { top: 0 } a[href=".spare"] { top: 1px }
@media print { .spare { top: 2px } } @media screen { .used\\:on { top: 3px } }"""
    kept = re.sub(r"\s+", " ", without_unused_rules(css, {"used", "there", "used:on"}))
    assert kept == (
        ".used{ color: red } #there:not(.spare) { top: 0 } "
        'a[href=".spare"] { top: 1px } @media screen { .used\\:on { top: 3px } } /*! licence */ '
    )


def test_signatures_are_made_plain_and_what_is_unwanted_goes() -> None:
    page = """<dt class="sig sig-object"><span class="p"><span class="pre">(</span></span>
<span class="k">None</span><dl>
<dd><em class="sig-param">x</em></dd>
</dl></dt><span class="n">kept</span><a role="doc-link"></a><div role="list"></div>"""
    page = re.sub(PARAMETERS, as_spans, re.sub(UNWANTED, "", page))
    assert re.sub(SIGNATURE, with_fewer_spans, page) == (
        '<dt class="sig sig-object">(\n<span class="k">None</span>'
        '<span class="sig-params"><span><em class="sig-param">x</em></span>\n</span></dt>'
        '<span class="n">kept</span><a></a><div role="list"></div>'
    )
