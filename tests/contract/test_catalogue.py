"""What stands in the catalogues can be loaded and says about itself what the harness relies on."""

import pytest

from bench import registry
from bench.contract import Method, Metric, Settings

KNOWN = {"image", "label", "bbox", "keypoints", "mask", "prediction", "noise", "gradient"}


@pytest.mark.parametrize("name", registry.names("methods"))
def test_methods(name):
    method = registry.load("methods", name)
    assert issubclass(method, Method)
    assert method.name == name
    assert issubclass(method.Config, Settings)
    assert method.needs <= KNOWN


@pytest.mark.parametrize("name", registry.names("metrics"))
def test_metrics(name):
    metric = registry.load("metrics", name)
    assert issubclass(metric, Metric)
    assert metric.name == name
    assert metric.needs <= KNOWN
    assert metric.version
    assert metric.Config()


@pytest.mark.parametrize("name", registry.names("datasets"))
def test_datasets_have_a_configuration(name):
    from bench.config import dataset_config

    assert set(dataset_config(name, {}).backbones) <= set(registry.names("backbones"))


def test_listing_names_the_nearest():
    with pytest.raises(registry.UnknownName, match="did you mean 'protopnet'"):
        registry.entry("methods", "protopnett")
    with pytest.raises(registry.UnknownName, match="known: blackbox, center"):
        registry.entry("methods", "zzz")


def test_a_taken_name_is_not_given_away():
    with pytest.raises(ValueError, match="'ours' is taken"):
        registry.register("methods", "ours", Method)
    with pytest.raises(ValueError, match="unknown kind 'method'"):
        registry.register("method", "x", Method)
