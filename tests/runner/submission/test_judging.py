"""What in a record contradicts figures that were made again."""

import pytest

from dstbench.runner.submission.evidence import Evidence
from dstbench.runner.submission.judging import judge


@pytest.mark.parametrize(("said", "wrong"), [(0.25, False), (0.2, False), (0.3, True)])
def test_a_figure_may_be_as_earlier_versions_counted_it(said, wrong):
    evidence = Evidence("checkpoint", {"density_all": 0.25}, earlier={"density_all": 0.2})
    findings, compared = judge({"measures": {"density_all": said}, "provenance": {}}, evidence, same=True)
    assert bool(findings) == wrong
    assert compared == ["measures.density_all"]
