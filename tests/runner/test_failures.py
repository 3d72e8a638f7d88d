"""What errors say, as plans, warnings and records say it."""

from dstbench.errors import in_a_line
from dstbench.runner.failures import failure


def test_frames_of_another_language_are_no_part_of_a_reason():
    error = TypeError(
        "Overflow when unpacking\nException raised from unpack at numbers.h:79\nframe #0: Error() + 0x9d"
    )
    assert in_a_line(error) == "TypeError: Overflow when unpacking"
    assert failure(error, "build")["reason"] == "TypeError: Overflow when unpacking"
    assert in_a_line(KeyboardInterrupt()) == "KeyboardInterrupt"
