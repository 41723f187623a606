"""Tables as text: alignment, spaces and ragged rows."""

import pytest

from mhe.harness.tables import text_table

pytestmark = pytest.mark.one_backend


def test_columns_align_left_and_right_without_trailing_spaces():
    rows = [["a", "1", "x"], ["abcd", "1234567", ""]]
    assert text_table(rows, ["name", "value", "note"]) == (
        "name    value  note\na           1     x\nabcd  1234567"
    )
    assert text_table(rows, ["name", "value", "note"], left=(2,)) == (
        "name    value  note\n   a        1  x\nabcd  1234567"
    )


def test_a_table_without_rows_is_its_header():
    assert text_table([], ["ways", "shots"]) == "ways  shots"


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        text_table([["a"]], ["name", "value"])
