"""What stands in the catalogues can be loaded and says about itself what the harness relies on."""

import pytest

from bench.contract import Method, Metric, Settings
from bench.core import registry

KNOWN = {"image", "label", "bbox", "keypoints", "mask", "prediction", "black_box", "noise", "gradient"}


@pytest.mark.parametrize("name", registry.names("methods"))
def test_methods(name):
    method, preset = registry.load("methods", name), registry.entry("methods", name).preset
    assert issubclass(method, Method)
    assert method.name == name or preset
    assert issubclass(method.Config, Settings)
    assert method.needs <= KNOWN


@pytest.mark.parametrize("name", registry.names("metrics"))
def test_metrics(name):
    metric, preset = registry.load("metrics", name), registry.entry("metrics", name).preset
    assert issubclass(metric, Metric)
    assert metric.name == name or preset
    assert metric.needs <= KNOWN
    assert metric.version
    config = metric.Config(**dict(preset))
    assert "" in metric.aggregates(config), "ours all say what their value is a mean of, or why it is none"


def test_no_two_entries_are_the_same_metric():
    found = [(one.target, one.preset) for one in registry.names("metrics").values()]
    assert len(set(found)) == len(found)


def test_metrics_are_chosen_by_name_group_or_default():
    every = registry.chosen_metrics((), shared=False)
    assert {"accuracy", "consistency", "stability"} <= set(every)
    assert "stability_pooled" not in every
    assert "stability_pooled" in registry.chosen_metrics((), shared=True)
    assert registry.chosen_metrics(("stability_v1", "accuracy"), shared=True) == ["stability_v1", "accuracy"]
    assert {"consistency", "stability_pixpnet"} <= set(registry.chosen_metrics(("keypoints",), shared=False))
    assert registry.chosen_metrics(("all",), shared=False) == list(registry.names("metrics"))
    with pytest.raises(registry.UnknownName, match="did you mean 'stability_v1'"):
        registry.chosen_metrics(("stability_v11",), shared=False)


@pytest.mark.parametrize("name", registry.names("datasets"))
def test_datasets_have_a_configuration(name):
    from bench.config.schema import dataset_config

    assert set(dataset_config(name, {}).backbones) <= set(registry.names("backbones"))


def test_listing_names_the_nearest():
    with pytest.raises(registry.UnknownName, match="did you mean 'protopnet'"):
        registry.entry("methods", "protopnett")
    with pytest.raises(
        registry.UnknownName, match=r"unknown method 'zzz'; `python -m bench ls methods` lists all [0-9]+"
    ):
        registry.entry("methods", "zzz")


def test_a_taken_name_is_not_given_away():
    with pytest.raises(ValueError, match="'ours' is taken"):
        registry.register("methods", "ours", Method)
    with pytest.raises(ValueError, match="unknown kind 'method'"):
        registry.register("method", "x", Method)
