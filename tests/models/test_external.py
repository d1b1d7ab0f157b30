"""Files and folders in settings: content in the serialised form, place beside it."""

import pytest
from pydantic import ValidationError

from bench.config.schema import validate
from bench.contract import RequestError
from bench.models.external import ExternalFile, NetworkConfig


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"abc")
    return path


def test_the_serialised_form_is_the_content(file, tmp_path):
    config = NetworkConfig(checkpoint=str(file))
    # The first 16 digits of SHA-256("abc"), FIPS 180-2, appendix B.1.
    assert config.model_dump(mode="json") == {"checkpoint": "ba7816bf8f01cfea", "source": None}
    other = tmp_path / "elsewhere"
    other.write_bytes(b"abc")
    assert NetworkConfig(checkpoint=other).model_dump() == config.model_dump()
    other.write_bytes(b"abd")
    assert NetworkConfig(checkpoint=other).model_dump() != config.model_dump()


def test_what_was_planned_is_found_again(file, tmp_path):
    config = NetworkConfig(checkpoint=str(file))
    places = {given.digest: str(given.path) for given in config.given.values()}
    again = NetworkConfig.model_validate(config.model_dump(mode="json"), context={"given": places})
    assert again == config
    assert list(again.given) == ["checkpoint"]
    assert NetworkConfig().given == {}
    with pytest.raises(ValidationError, match="no such file"):
        NetworkConfig.model_validate(config.model_dump(mode="json"))


def test_a_change_is_noticed(file):
    given = ExternalFile.at(file)
    assert not given.changed()
    file.write_bytes(b"abd")
    assert given.changed()
    file.unlink()
    assert given.changed()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"checkpoint": "nowhere"}, "x.checkpoint: Value error, no such file (got 'nowhere')"),
        ({"checkpoint": 3}, "x.checkpoint: Value error, expected a path (got 3)"),
        ({"checkpoint": "."}, "x.checkpoint: Value error, no such file (got '.')"),
        ({"source": "nowhere"}, "x.source: Value error, no such folder (got 'nowhere')"),
        ({"source": __file__}, "x.source: Value error, no such folder"),
        ({"sources": "x"}, "did you mean 'source'?"),
    ],
)
def test_wrong_ones_are_one_line(values, expected):
    with pytest.raises(RequestError) as error:
        validate(NetworkConfig, values, "x")
    assert expected in str(error.value)


def test_a_folder_counts_by_its_code(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.py").write_text("x = 1\n")
    before = ExternalFile.at(tmp_path)
    for name in ("data.bin", "__pycache__/model.py", ".git/x.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("changed")
    assert not before.changed()
    (tmp_path / "a" / "model.py").rename(tmp_path / "a" / "models.py")
    assert before.changed()
