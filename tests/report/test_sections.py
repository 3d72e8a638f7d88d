from __future__ import annotations

import json
import re

from markupsafe import Markup

from dstbench.report import page, sections
from dstbench.report.section import Section


def test_a_section_brings_its_heading_data_script_and_style_into_the_page(results, tmp_path, monkeypatch):
    def made(material):
        return Section(
            "what-matters",
            "What <matters>",
            Markup("<p>{}</p>").format("</p><b>"),
            data={"text": "</script>", "rows": len(material.summary), "trials": len(material.trials)},
            script="const told = document.getElementById('data-what-matters');",
            style="#what-matters p { color: var(--soft); }",
        )

    monkeypatch.setattr(sections, "SECTIONS", (lambda material: None, made))
    page.write_leaderboards(results, tmp_path)
    text = (tmp_path / "index.html").read_text("utf-8")
    assert '<section class="section card" id="what-matters">' in text
    assert "<h2>What &lt;matters&gt;</h2>\n<p>&lt;/p&gt;&lt;b&gt;</p>" in text
    assert "#what-matters p { color: var(--soft); }" in text
    assert "const told = document.getElementById('data-what-matters');" in text
    data = re.search(r'id="data-what-matters">(.*?)</script>', text)[1]
    assert json.loads(data) == {"text": "</script>", "rows": 12, "trials": 36}
