"""The sections of the page, in order. A new one is a line here: a function of the results, which gives None where
they have nothing to say."""

from __future__ import annotations

from collections.abc import Callable

from dstbench.report.evidence.page_sections import effects_section, groups_section
from dstbench.report.section import Material, Section
from dstbench.report.sensitivity import tuning_section

SECTIONS: tuple[Callable[[Material], Section | None], ...] = (tuning_section, effects_section, groups_section)


def sections(material: Material) -> list[Section]:
    """What the page shows below its tables."""
    return [section for make in SECTIONS if (section := make(material))]
