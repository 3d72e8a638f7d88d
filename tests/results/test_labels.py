from __future__ import annotations

import pytest

from dstbench.results.labels import spec_text


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("erk", "erk"),
        ({"name": "erk"}, "erk"),
        ({"name": "cosine", "zeta": 0.30, "delta_t": 100}, "cosine(delta_t=100, zeta=0.3)"),
        ({"name": "magnitude", "share": {"name": "global"}}, "magnitude(share=global)"),
        ({"name": "a", "x": 2.0, "y": 0.12345678, "z": True}, "a(x=2, y=0.12345678, z=True)"),
        ({"name": "a", "x": [0.1, 2], "y": {"k": 1}}, 'a(x=[0.1, 2], y={"k":1})'),
        ({"name": "rigl", "dense_layers": ["@first_conv", "fc"]}, "rigl(dense_layers=@first_conv+fc)"),
    ],
)
def test_specs_as_people_write_them(spec, text):
    assert spec_text(spec) == text
