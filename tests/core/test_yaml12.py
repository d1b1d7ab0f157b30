"""Settings are YAML 1.2, each name once, finite, bounded; whatever else is one line of error."""

import os
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bench.contract import RequestError
from bench.core import yaml12
from bench.core.paths import PACKAGED_CONFIGS as CONFIGS

# The specification's own examples (section 10.3.2), and what YAML 1.1 reads in another way.
CORE = {
    "010": 10, "0o10": 8, "0x3A": 58, "-19": -19, "+12": 12, "0": 0, "1e3": 1000.0, "1e-3": 0.001, "0.": 0.0,
    "-0.0": 0.0, ".5": 0.5, "12e03": 12000.0, "-2E+05": -200000.0, "true": True, "FALSE": False, "null": None,
    "~": None, "yes": "yes", "No": "No", "on": "on", "off": "off", "y": "y", "1:30": "1:30", "190:20:30": "190:20:30",
    "1_000": "1_000", "0b11": "0b11", "2001-12-14": "2001-12-14", "nan": "nan", "=": "=", "<<": "<<", "٣": "٣",
    "'5'": "5", "!!str 5": "5", "!!float 5": 5.0, "[1, [a, true]]": [1, ["a", True]], "{a: {b: 1}}": {"a": {"b": 1}},
}  # fmt: skip
BOMB = "\n".join(["a0: &a0 [x, x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)), ""])
WRONG = {
    "duplicate": ("a: 1\nb: 2\na: 3", "w:3: not valid YAML ('a' is there twice, first in line 1)"),
    "duplicate inside": ("{a: {b: 1, b: 1}}", "'b' is there twice"),
    "two merges": ("x: &x {a: 1}\ny: {<<: *x, <<: *x}", "'<<' is there twice"),
    "nan": (".nan", "'.nan' is no finite number"),
    "infinity": ("[1, -.INF]", "'-.INF' is no finite number"),
    "beyond floats": ("1e999", "no finite number"),
    "beyond 64 bits": ("9223372036854775808", "too large"),
    "digits": ("9" * 6000, "a whole number of 6000 characters is too large"),
    "octal digits": ("0o" + "7" * 6000, "too large"),
    "recursive": ("&a [*a]", "an anchor is used inside itself"),
    "recursive names": ("&a {b: *a}", "an anchor is used inside itself"),
    "exploding": (BOMB, "more than 10000 values"),
    "deep": ("[" * 100_000, "too many levels"),
    "deep blocks": ("- " * 10_000, "too many levels"),
    "long": ("x" * 300_000, "settings may have"),
    "number as a name": ("{1: a}", "a name must be text, found '1'"),
    "list as a name": ("? [a]\n: 1", "a name must be text, found a sequence"),
    "nothing as a name": ("{~: 1}", "a name must be text"),
    "code": ("!!python/object/apply:os.system [ls]", "unknown tag"),
    "code by another name": ("%TAG !e! tag:yaml.org,2002:python/\n---\n!e!name:os.system x", "unknown tag"),
    "date": ("!!timestamp 2001-12-14", "unknown tag"),
    "tag that does not fit": ("!!int yes", "'yes' is no int"),
    "no such anchor": ("*x", "undefined alias"),
    "two documents": ("a\n---\nb", "another document"),
    "bell": ("a\x07", "character 0x0007 is not allowed"),
    "escaped zero": (r'"\0"', "control character"),
    "surrogate": (r'"\ud800"', "control character"),
    "beyond Unicode": (r'"\U00110000"', "not valid YAML"),
    "open": ("{a: [1", "not valid YAML"),
}


@pytest.mark.parametrize("text", CORE)
def test_scalars_are_those_of_the_core_schema(text):
    value = yaml12.parse(text, "w")
    assert (value, type(value)) == (CORE[text], type(CORE[text]))


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused_is_one_line_at_once(name):
    text, expected = WRONG[name]
    began = time.perf_counter()
    with pytest.raises(RequestError) as caught:
        yaml12.parse(text, "w")
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - began < 5


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        yaml12.parse(text, "w")
    except RequestError as error:
        assert "\n" not in str(error)  # noqa: PT017 (either outcome is right)


WORDS = st.text(alphabet="abc: #-[", max_size=9)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)


@given(st.recursive(SCALARS | WORDS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner)))
def test_what_is_written_is_read_again(value):
    assert yaml12.parse(yaml.safe_dump(value), "w") == value


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONFIGS)))
def test_our_own_files_mean_what_they_did(file):
    def with_types(value):
        if isinstance(value, dict):
            return {name: with_types(item) for name, item in value.items()}
        return [with_types(item) for item in value] if isinstance(value, list) else (type(value), value)

    assert with_types(yaml12.read_mapping(file)) == with_types(yaml.safe_load(file.read_text()))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: 1\n".encode("utf-16"), "not UTF-8 text (byte 0); save it as UTF-8"),
        (b"a: \xff\n", "not UTF-8 text (byte 3)"),
        (b"a: 1\x00\n", "character 0x0000 is not allowed"),
        (b"- 1\n", "expected names and values, found a list"),
        (b"#" * 2**19, "a file of settings may have"),
    ],
)
def test_files_that_are_no_settings_are_named(content, expected, tmp_path):
    file = tmp_path / "m.yaml"
    file.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        yaml12.read_mapping(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert expected in str(caught.value)


def test_a_byte_order_mark_is_no_content(tmp_path):
    (tmp_path / "m.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert yaml12.read_mapping(tmp_path / "m.yaml") == {"a": 1}


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_what_is_no_file_is_named(name, tmp_path):
    with pytest.raises(RequestError, match="cannot be read"):
        yaml12.read_mapping(Path(tmp_path / name))


def test_a_file_changed_with_equal_size_and_time_is_read_again(tmp_path):
    file = tmp_path / "m.yaml"
    file.write_text("a: 1\n")
    about = file.stat()
    assert yaml12.read_mapping(file) == {"a": 1}
    file.write_text("a: 2\n")
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert yaml12.read_mapping(file) == {"a": 2}
