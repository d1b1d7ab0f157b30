"""Names of settings read from source are those of the classes themselves."""

import pytest

from bench.config.setting_names import setting_names
from bench.core import registry


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in ("methods", "metrics") for name in registry.CATALOGUE[kind]]
)
def test_names_are_the_fields_of_the_class(kind, name):
    assert setting_names(name) == set(registry.load(kind, name).Config.model_fields)


def test_a_plugin_has_no_names_without_its_import(monkeypatch):
    assert setting_names("no such name") is None
    monkeypatch.setitem(registry.CATALOGUE["metrics"], "mine", registry.Entry("elsewhere:Metric", "a plugin's"))
    assert setting_names("mine") is None
