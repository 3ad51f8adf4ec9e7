import pytest

from partnas.config import PRESETS, data_config, load_config, merge, parse_data, parse_settings
from partnas.errors import PartnasError
from partnas.loop import learning_rate_at


def test_defaults_are_the_papers():
    search = load_config("search")
    assert (search.epochs, search.batch_size, search.milestones, search.alpha_epoch) == (25, 40, [15, 20], 8)
    assert (search.learning_rate, search.alpha_learning_rate, search.alpha_weight_decay) == (1e-3, 8e-4, 3e-4)
    assert (search.space().input_size, search.space().depth, search.space().cells) == (128, 32, 10)
    train = load_config("train", "large")
    assert (train.epochs, train.batch_size, train.milestones) == (20, 64, [12, 16])
    assert (train.space().input_size, train.space().depth, train.space().cells) == (256, 64, 20)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("job", ["search", "train"])
def test_every_preset_loads(preset, job):
    load_config(job, preset)


def test_later_sources_win(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("epochs: 3\nbatch_size: 8\nnetwork:\n  channels: 4\n")
    config = load_config("search", "mini", file, parse_settings(["batch_size=2", "network.depth=4"]))
    assert (config.epochs, config.batch_size) == (3, 2)
    assert (config.space().channels, config.space().depth, config.space().input_size) == (4, 4, 64)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("epochs: 0", "epochs"),
        ("learning_rat: 0.1", "learning_rat"),
        ("data: {strid: 1}", r"data\.strid"),
        ("augmentation: {flip: 1}", r"augmentation.*flip"),
        ("augmentation: {flip_probability: 2}", r"augmentation\.flip_probability"),
        ("network: {chanels: 1}", "chanels"),
        ("[1, 2]", "mapping"),
        ("epochs: [", "line 1"),
    ],
)
def test_a_bad_file_is_one_line_with_its_field(tmp_path, text, named):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(PartnasError, match=named) as caught:
        load_config("search", None, file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"learning_rate": 1e39}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"alpha_learning_rate": 1e39}, "alpha_learning_rate"),
        ({"alpha_weight_decay": 1e39}, "alpha_weight_decay"),
        ({"batch_size": 1, "network": {"input_size": 32}}, "batch_size.*batch norm"),
    ],
    ids=str,
)
def test_what_no_step_survives_is_refused(settings, named):
    with pytest.raises(PartnasError, match=named) as caught:
        load_config("search", settings=settings)
    assert "\n" not in str(caught.value)


def test_batch_norm_needs_two_values_a_channel():
    load_config("search", settings={"batch_size": 1, "network": {"input_size": 64}})
    load_config("search", settings={"batch_size": 2, "network": {"input_size": 32}})


def test_missing_file_and_unknown_preset(tmp_path):
    with pytest.raises(PartnasError, match=r"no\.yaml"):
        load_config("search", None, tmp_path / "no.yaml")
    with pytest.raises(PartnasError, match="mini, search, small, large"):
        load_config("search", "tiny")


@pytest.mark.parametrize("setting", ["epochs", "=3", "epochs=[1"])
def test_bad_settings(setting):
    with pytest.raises(PartnasError, match="--set"):
        parse_settings([setting])


@pytest.mark.parametrize(
    ("values", "root", "sets"),
    [
        (["/h36m"], "/h36m", []),
        (["lr=0.1/h36m"], "lr=0.1/h36m", []),
        (["muco=/x"], None, [("muco", "/x")]),
        (["human36m=/a", "mpii=/b=c"], None, [("human36m", "/a"), ("mpii", "/b=c")]),
        (["/a", "coco=/b"], None, [("human36m", "/a"), ("coco", "/b")]),
        (["human36m,mpii=/all"], None, [("human36m", "/all"), ("mpii", "/all")]),
    ],
)
def test_folders_and_named_sets(values, root, sets):
    data = data_config(parse_data(values))
    assert data.root == root
    assert [(chosen.name, chosen.root) for chosen in data.sets] == sets


def test_the_first_3d_set_comes_first_and_gives_the_skeleton():
    sets = [{"name": name, "root": "/x"} for name in ("coco", "muco", "human36m")]
    config = load_config("train", None, None, {"data": {"sets": sets}})
    assert [chosen.name for chosen in config.data.in_order()] == ["muco", "coco", "human36m"]
    assert (config.space().skeleton, config.space().parts) == ("muco", 21)
    assert load_config("train").space().skeleton == "human36m"
    with pytest.raises(PartnasError, match=r"network\.skeleton: human36m is not that of the first 3D set, muco"):
        load_config("train", None, None, {"data": {"sets": sets}, "network": {"skeleton": "human36m"}})
    with pytest.raises(PartnasError, match=r"network\.parts: 18 is not the number of parts of muco, 21; leave it out"):
        load_config("train", None, None, {"data": {"sets": sets}, "network": {"parts": 18}})
    assert load_config("train", None, None, {"network": {"parts": 18}}).space().parts == 18


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"sets": [{"name": "lsp", "root": "/x"}]}, r"data\.sets\.0\.name"),
        ({"sets": [{"name": "muco"}]}, "muco: root is missing"),
        ({"sets": [{"name": "coco", "root": "/x"}]}, "none of them is 3D"),
        ({"sets": [{"name": "human36m"}], "root": "/x"}, "exclude each other"),
    ],
)
def test_sets_that_cannot_be(data, named):
    with pytest.raises(PartnasError, match=named) as caught:
        load_config("train", None, None, {"data": data})
    assert "\n" not in str(caught.value)


def test_the_embedded_sample_is_taken_whole():
    def strides(**data):
        data = load_config("train", "small", None, {"genotype": "reference", "data": data}).data
        return data.train_stride, data.test_stride

    assert strides() == (1, 1)
    assert strides(test_stride=4) == (1, 4)
    assert strides(root="somewhere") == strides(sets=[{"name": "human36m", "root": "somewhere"}]) == (5, 64)


def test_merge_keeps_its_arguments():
    base = {"a": {"b": 1}}
    assert merge(base, {"a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}
    assert base == {"a": {"b": 1}}


def test_fields_of_what_has_none_are_refused():
    assert merge({"augmentation": None}, {"augmentation": {"flip_probability": 0}})["augmentation"] is not None
    for settings in (["network=3", "network.channels=4"], ["network=[1]", "network.channels=4"]):
        with pytest.raises(PartnasError, match=r"network: .* is not a mapping of settings") as caught:
            parse_settings(settings)
        assert "\n" not in str(caught.value)


def test_learning_rate_falls_at_the_milestones():
    rates = [learning_rate_at(epoch, 1.0, [3, 5]) for epoch in range(1, 7)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
