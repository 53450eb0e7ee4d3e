"""A table keeps together what is read together, and leaves code and formulas as they are."""

import pytest
from docutils import nodes
from tables import join, joined


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2.53 ms", "2.53~ms"),
        ("7.81 µs and 0.27 GiB", "7.81~µs and 0.27~GiB"),
        ("0.718 ± 0.022", "0.718~±~0.022"),
        ("≥ 40 %: met", "≥~40~%: met"),
        ("planted, 8,000 x 64, K = 50", "planted, 8,000 x 64, K~=~50"),
        ("5. Self-distillation; 6. DINO's last layer", "5.~Self-distillation; 6.~DINO's last layer"),
        ("2 halves, 3 seeds", "2 halves, 3 seeds"),
    ],
)
def test_a_number_keeps_what_belongs_to_it(text, shown):
    assert joined(text).replace("\N{NO-BREAK SPACE}", "~") == shown


def test_only_words_of_cells_are_joined():
    document = nodes.document("", "")
    document += [nodes.paragraph("", "5 s"), nodes.entry("", nodes.paragraph("", "5 s"))]
    document += nodes.entry("", nodes.paragraph("", "", nodes.literal("", "5 s"), nodes.math("", "5 s")))
    join(None, document)
    assert document.astext() == "5 s\n\n5\N{NO-BREAK SPACE}s\n\n5 s5 s"
