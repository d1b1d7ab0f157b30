"""Tables of items are read to the bit as they were written, and nothing else passes for one."""

import numpy as np
import pytest

from bench.core.score import table_text
from bench.results.result_files import NotNumbers, parse_table


def test_a_table_is_read_to_the_bit():
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 2**63, 2000, dtype=np.int64)
    written = {
        "index": bits,
        "any double": np.where(np.isnan(bits.view(np.float64)), np.inf, bits.view(np.float64)),
        "gap": np.where(bits % 7 == 0, np.nan, generator.normal(size=2000)),
        "correct, or not": bits % 2 == 0,
    }
    read = parse_table(table_text(written).encode())
    assert list(read) == list(written)
    for name, column in written.items():
        assert read[name].dtype == column.dtype
        assert np.array_equal(read[name], column, equal_nan=column.dtype == np.float64)


def test_a_table_without_rows_has_its_columns():
    assert {name: column.tolist() for name, column in parse_table(b"index,correct\n").items()} == {
        "index": [],
        "correct": [],
    }


@pytest.mark.parametrize("text", [b"", b"index,correct\n0\n", b"index\n0,1\n", b"index\n\xff\n", b"index\n0\r1\n"])
def test_what_is_no_table_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse_table(text)


def test_a_table_with_texts_is_refused():
    with pytest.raises(NotNumbers):
        parse_table(b"index,name\n0,wing\n")
