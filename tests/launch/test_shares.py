"""GPUs for a cell: from the command line, else from the method's configuration, else one or none."""

import pytest

from bench import config
from bench.contract import RequestError
from bench.launch.launcher import Launcher


@pytest.fixture
def configs(tmp_path, monkeypatch):
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "ours.yaml").write_text("gpus: 0.25\n")
    (tmp_path / "methods" / "protopnet.yaml").write_text("gpus: lots\n")
    monkeypatch.setattr(config, "CONFIGS", tmp_path)


def test_shares(configs):
    assert Launcher().share("ours", 1.0) == 0.25
    assert Launcher().share("tesnet", 1.0) == 1.0
    assert Launcher().share("ours", 0.0) == 0.0
    said = Launcher(gpus={"": 0.5, "ours": 2.0})
    assert (said.share("ours", 1.0), said.share("protopnet", 1.0)) == (2.0, 0.5)
    with pytest.raises(RequestError, match="write a number such as 1"):
        Launcher().share("protopnet", 1.0)
