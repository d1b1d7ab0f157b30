"""Settings from three layers, and one helpful line for each way to get them wrong."""

import re

import pytest

from baselines.protopnet import ProtoPNet
from bench.config import overrides, schema
from bench.config.black_box import BlackBoxConfig
from bench.config.plan import black_box_config
from bench.contract import RequestError
from bench.core.paths import config_file


def test_values_are_read_as_yaml():
    single, several = schema.parse_overrides(
        ("ours.k=5", "ours.refinement=naive,lbfgs", "pretrained=false", "x.y=[1, 2]", "ours.nmf_tol=1e-3, 0.1")
    )
    assert single == {"ours.k": 5, "pretrained": False, "x.y": [1, 2]}
    assert several == {"ours.refinement": ("naive", "lbfgs"), "ours.nmf_tol": (0.001, 0.1)}


def test_the_last_word_on_a_setting_counts():
    assert schema.parse_overrides(("ours.k=3,5", "ours.k=7")) == ({"ours.k": 7}, {})
    assert schema.parse_overrides(("ours.k=7", "ours.k=3,5")) == ({}, {"ours.k": (3, 5)})


def values_of(request, name):
    """What a method would be run with."""
    section = name.partition(".")[0]
    return [{**request["overrides"], **chosen}[name] for chosen in schema.combinations(request["grid"], section)]


def test_command_line_overrides_one_or_several_suite_values():
    suite = {"grid": {"ours.k": [3, 5, 10], "ours.norm": ["l2"]}, "overrides": {"tesnet.k": 4, "cub.folder": "cub50"}}
    found = schema.with_settings(suite, {"ours.k": 7}, {"tesnet.k": (2, 3)})
    assert values_of(found, "ours.k") == [7]
    assert values_of(found, "tesnet.k") == [2, 3]
    assert (found["grid"]["ours.norm"], found["overrides"]["cub.folder"]) == (["l2"], "cub50")
    assert suite["grid"]["ours.k"] == [3, 5, 10]
    wider = schema.with_settings(suite, {}, {"ours.k": (1, 2)})
    assert values_of(wider, "ours.k") == [1, 2]


def test_a_grid_is_every_combination_of_its_section():
    grid = {"ours.k": (3, 5), "ours.norm": ("l2", "minmax"), "protopnet.depth": (64, 128)}
    assert schema.combinations(grid, "ours") == [
        {"ours.k": 3, "ours.norm": "l2"},
        {"ours.k": 3, "ours.norm": "minmax"},
        {"ours.k": 5, "ours.norm": "l2"},
        {"ours.k": 5, "ours.norm": "minmax"},
    ]
    assert schema.combinations(grid, "blackbox") == [{}]


def test_several_values_of_data_sets_are_requests_of_their_own():
    grid = {"cub.protocol": ["huang2023", "whole"], "cub.folder": ("a", "b"), "ours.k": [3, 5]}
    asked = {"datasets": ["cub", "demo"], "grid": grid, "overrides": {"ours.norm": "l2"}}
    found = overrides.by_dataset(asked)
    assert [(one["overrides"]["cub.protocol"], one["overrides"]["cub.folder"]) for one in found] == [
        ("huang2023", "a"), ("huang2023", "b"), ("whole", "a"), ("whole", "b")
    ]  # fmt: skip
    assert all(one["grid"] == {"ours.k": [3, 5]} and one["overrides"]["ours.norm"] == "l2" for one in found)
    assert len(grid) == 3
    # Of a data set that is not in the request, and of what is no list of values, the check of names tells.
    for other in ({"cars.folder": ["a", "b"]}, {"cub.protocol": "whole"}):
        assert overrides.by_dataset({"datasets": ["cub"], "grid": other}) == [{"datasets": ["cub"], "grid": other}]


@pytest.mark.parametrize(
    "pair",
    [
        "ours.k", "=5", "ours.k={", "ours.k=", "ours.k=3,,5", "ours.k=,", "ours..k=1", ".k=1", "ours.=1", "ours.k=&x",
        "ours.k=5 # five", "ours.k=#5", "ours.k=[3", "ours.k={a: 1, a: 2}", "ours.k=1e999", "ours.k=1,.nan",
        "ours.k=" + "9" * 6000, "ours.k=" + "[" * 5000, "ours.k=*x", "ours.k=!!python/name:os.system", "ours.k\x07=5",
        ".".join("k" * 1000) + "=5", "k" * 1000 + ".k=5",
    ],
)  # fmt: skip
def test_a_pair_that_is_none(pair):
    with pytest.raises(RequestError, match="--set") as caught:
        schema.parse_overrides((pair,))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_merge_reaches_into_lists_and_leaves_the_base_alone():
    base = {"a": {"phases": [{"lr": {"x": 1}}, {"lr": {"x": 2}}]}}
    found = schema.merge(base, {"a.phases.1.lr.x": 9, "a.b": 3}, "m")
    assert found == {"a": {"phases": [{"lr": {"x": 1}}, {"lr": {"x": 9}}], "b": 3}}
    assert base["a"]["phases"][1]["lr"]["x"] == 2


@pytest.mark.parametrize(
    "name",
    [
        "a.phases.7.epochs", "a.phases.x.epochs", "a.n.deeper", "a.phases.-1.epochs", "a.phases.-1",
        "a.phases.+0.epochs", "a.phases.0_0.epochs", "a.phases. 0.epochs", "a.phases.\u0660.epochs",
        "a.phases.1e0", "a.phases.0x0.epochs", "a.phases." + "0" * 5000, "a..n",
        "a." + ".".join("b" * 40),
    ],
)  # fmt: skip
def test_merge_to_nowhere(name):
    with pytest.raises(RequestError, match=re.escape(f"--set m.{name[:40]}")):
        schema.merge({"a": {"phases": [{}], "n": 3}}, {name: 1}, "m")


def test_a_value_that_serves_several_is_not_changed():
    shared = {"a.x": {}, "a.x.y": 1}
    assert schema.merge({}, shared, "m") == {"a": {"x": {"y": 1}}}
    assert shared["a.x"] == {}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("per_class", "true"), ("per_class", "yes"), ("per_class", "1:30"), ("l1", "nan"), ("l1", "'-inf'"),
        ("l1", "true"), ("schedule.phases.0.lr.add_on", "false"), ("per_class", "٣"), ("per_class", "null"),
        ("per_class", "x" * 5000), ("schedule.phases", "5"), ("schedule.batch_size", "[true]"),
    ],
)  # fmt: skip
def test_what_is_no_number_is_refused(setting, said):
    single, _ = schema.parse_overrides((f"protopnet.{setting}={said}",))
    file = config_file("methods", "protopnet")
    with pytest.raises(RequestError, match=rf"^protopnet\.{setting.split('.')[0]}") as caught:
        schema.from_recipe(file, ProtoPNet.Config, "demo", single, "protopnet")
    assert len(str(caught.value)) < 250


def test_truth_values_stay_where_they_belong():
    assert BlackBoxConfig.model_validate(black_box_config("tiny", "demo", {}).model_dump())
    settings = schema.dataset_config("demo", {"demo.pretrained": True, "demo.options": {"deep": [True]}})
    assert (settings.pretrained, settings.options) == (True, {"deep": [True]})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("includes: 5", "includes is a list"), ("extends: [a]", "extends is one"), ("overrides: [1]", "expected names"),
        ("grid: 5", "expected names"), ("methods: [ours]\nmethods: [tesnet]", "'methods' is there twice"),
    ],
)  # fmt: skip
def test_suites_of_the_wrong_shape_are_named(text, expected, tmp_path, monkeypatch):
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "odd.yaml").write_text(f"{text}\n")
    monkeypatch.setenv("BENCH_CONFIGS", str(tmp_path))
    with pytest.raises(RequestError, match=r"odd\.yaml.*: .*" + expected):
        schema.read_suites("odd")


def test_an_unknown_field_suggests_the_nearest():
    with pytest.raises(RequestError, match=r"demo\.protokol: unknown setting; did you mean 'protocol'\?"):
        schema.dataset_config("demo", {"demo.protokol": 1})


def test_a_wrong_value_is_shown():
    with pytest.raises(RequestError, match=r"demo\.protocol\.crop: .*'bbox' or 'full'.*got 'tight'"):
        schema.dataset_config("demo", {"demo.protocol.crop": "tight"})


def test_an_unknown_dataset_suggests_the_nearest():
    with pytest.raises(RequestError, match=r"unknown dataset 'cubs'; did you mean 'cub'\?"):
        schema.dataset_config("cubs", {})


def test_an_unknown_suite_suggests_the_nearest():
    with pytest.raises(RequestError, match=r"unknown suite 'demos'; did you mean 'demo'\?"):
        schema.read_suites("demos")


@pytest.mark.parametrize("suite", schema.suites())
def test_suites_are_requests(suite):
    for content in schema.read_suites(suite):
        assert schema.validate(schema.Request, content, "suite").suite == suite


def test_a_suite_takes_over_what_it_extends():
    (full,), (small,) = schema.read_suites("table5"), schema.read_suites("table5_small")
    assert small["methods"] == full["methods"]
    assert small["metrics"] == ["accuracy"]
    assert (small["backbones"], small["recipe"]) == (["mobilenet_v2"], "small")


@pytest.mark.parametrize("end", ["", "_small"])
@pytest.mark.parametrize("table", ["table1", "table2", "table5"])
def test_tables_have_all_systems_of_the_paper_and_its_related_work(table, end):
    (suite,) = schema.read_suites(table + end)
    others = {"evalprotopnet", "st-protopnet", "support-st", "prototree", "pixpnet", "protopshare", "protoconcepts"}
    assert others < set(suite["methods"])
    assert suite["grid"] == {"protoconcepts.base": ["protopnet", "tesnet", "protopool"]}


def test_overrides_of_what_a_suite_extends_stay(tmp_path, monkeypatch):
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "base.yaml").write_text("overrides: {ours.k: 5, ours.norm: l2}\ndatasets: [cub]\n")
    (tmp_path / "suites" / "more.yaml").write_text("extends: base\noverrides: {ours.k: 7}\n")
    monkeypatch.setenv("BENCH_CONFIGS", str(tmp_path))
    expected = {"suite": "more", "datasets": ["cub"], "overrides": {"ours.k": 7, "ours.norm": "l2"}}
    assert schema.read_suites("more") == [expected]


@pytest.mark.parametrize("end", ["", "_small"])
def test_everything_is_all_tables_and_figures_and_rivals(end):
    names = [name + end for name in (*(f"table{n}" for n in range(1, 7)), "fig5", "fig6")]
    one_by_one = [schema.read_suites(name) for name in (*names, "rivals")]
    assert schema.read_suites(f"everything{end}") == [
        {**part, "suite": f"everything{end}"} for parts in one_by_one for part in parts
    ]


def test_a_suite_that_includes_itself_is_refused(tmp_path, monkeypatch):
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "round.yaml").write_text("includes: [about]\n")
    (tmp_path / "suites" / "about.yaml").write_text("extends: round\n")
    monkeypatch.setenv("BENCH_CONFIGS", str(tmp_path))
    with pytest.raises(RequestError, match="round extends or includes itself: round > about > round"):
        schema.read_suites("round")


@pytest.mark.parametrize("recipe", ["published", "small", "demo"])
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "squeezenet1_1"])
def test_every_recipe_trains_a_classifier(backbone, recipe):
    assert black_box_config(backbone, recipe, {}).schedule.phases[0].epochs > 0


def test_a_backbone_has_its_own_recipe_or_everyones():
    small, common = (black_box_config(name, "small", {}) for name in ("squeezenet1_1", "mobilenet_v2"))
    assert small.schedule.phases[0].optimizer == "adam"
    assert common.schedule.phases[0].optimizer == "sgd"
    assert black_box_config("squeezenet1_1", "demo", {}) == black_box_config("mobilenet_v2", "demo", {})


@pytest.mark.parametrize("backbone", ["resnet34", "squeezenet1_1"])
def test_the_papers_recipe_is_the_published_one(backbone):
    (phase,) = black_box_config(backbone, "published", {}).schedule.phases
    assert (phase.optimizer, phase.momentum, phase.epochs, phase.step, phase.gamma) == ("sgd", 0.9, 100, 30, 0.1)
    assert set(phase.lr.values()) == {1e-3}
    assert set(phase.weight_decay.values()) == {1e-4}


def test_protopnet_published_pushes_after_epochs_10_20_30():
    from baselines.protopnet import ProtoPNet

    found = schema.from_recipe(config_file("methods", "protopnet"), ProtoPNet.Config, "published", {}, "protopnet")
    epoch, pushes = -1, []
    for phase in found.schedule.phases:
        epoch += phase.epochs if phase.name != "last" else 0
        pushes += [epoch] * (phase.action == "project")
    assert pushes == [10, 20, 30]
    assert (found.per_class, found.depth, found.cluster, found.separation, found.l1) == (10, 128, 0.8, 0.08, 1e-4)


def test_a_missing_recipe_is_named(tmp_path):
    file = tmp_path / "m.yaml"
    file.write_text("recipes: {demo: {}}")
    with pytest.raises(RequestError, match="m has no recipe 'small'; it has demo"):
        schema.from_recipe(file, BlackBoxConfig, "small", {}, "m")


@pytest.mark.parametrize(("text", "message"), [("a: [", "not valid YAML"), ("- 1", "expected names and values")])
def test_broken_yaml_names_the_file(tmp_path, text, message):
    file = tmp_path / "m.yaml"
    file.write_text(text)
    with pytest.raises(RequestError, match=message):
        schema.read_yaml(file)
