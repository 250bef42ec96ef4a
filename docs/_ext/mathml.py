"""Formulas as MathML, which browsers set by themselves: the pages load nothing from elsewhere."""

from docutils.nodes import SkipNode
from docutils.utils.math import latex2mathml


def inline(writer, node):
    writer.body.append(latex2mathml.tex2mathml(node.astext()))
    raise SkipNode


def block(writer, node):
    writer.body.append(writer.starttag(node, "div", CLASS="formula"))
    for formula in node.astext().split("\n\n"):
        writer.body.append(latex2mathml.tex2mathml(formula, as_block=True))
    writer.body.append("</div>\n")
    raise SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
