import json
import re

import numpy as np
import pytest
from fake_run import write_run

from partnas.errors import PartnasError
from partnas.skeleton import HUMAN36M, MUCO
from partnas.viz.page import plotly_source
from partnas.viz.report import operation_names, write_report
from partnas.viz.summary import write_png

FILES = ["predictions.json", "evaluation.json", "genotype.json", "metrics.jsonl"]


def body(path):
    """The page without plotly's own source."""
    return path.read_text().replace(plotly_source(), "PLOTLY")


def test_a_whole_run_fills_every_section(tmp_path):
    text = body(write_report(write_run(tmp_path / "run")))
    assert 'class="missing' not in text
    said = ("80.0 mm", "0.40×", "1.23 M", "2.50 G", "Node 1", "L Wrist", "dil_conv_5x5", "99 test frames", "voxels")
    for words in said:
        assert words in text, words
    assert text.count("<svg") == 3
    assert text.count("Plotly.newPlot(") == 3 + 4
    assert text.count("Plotly.react(") == text.count("PLOTLY<") == 1
    assert text.count("data:image/jpeg;base64,") == 4


def test_the_page_needs_nothing_from_outside(tmp_path):
    text = body(write_report(write_run(tmp_path / "run")))
    links = re.findall(r"(?:src|href)=\"(?!data:)([^\"]*)\"", text)
    assert links == []
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {"http://www.w3.org/2000/svg"}
    configurations = re.findall(r"\{[^{}]*\"displaylogo\"[^{}]*\}", text)
    assert len(configurations) == 3 + 4 + 1
    assert all(json.loads(found)["showSendToCloud"] is False for found in configurations)


def test_what_files_say_is_escaped(tmp_path):
    text = body(write_report(write_run(tmp_path / "run")))
    assert "<script>alert" not in text
    assert "<b>run</b>" not in text
    assert "&lt;b&gt;run" in text


@pytest.mark.parametrize("missing", FILES)
def test_a_missing_file_is_said(tmp_path, missing):
    run = write_run(tmp_path / "run")
    (run / missing).unlink()
    text = body(write_report(run))
    assert f"{missing}" in re.findall(r'class="missing lead">(.*?)</p>', text, flags=re.S)[0]


def test_parts_of_a_run_in_several_folders(tmp_path):
    run, search = write_run(tmp_path / "run"), tmp_path / "search"
    search.mkdir()
    for name in ("metrics.jsonl", "genotype.json"):
        (run / name).rename(search / name)
    assert 'class="missing' in body(write_report(run))
    assert 'class="missing' not in body(write_report(run, search_dir=search))


def test_a_line_cut_short_by_a_crash_is_passed_over(tmp_path):
    run = write_run(tmp_path / "run")
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"job": "se')
    write_report(run)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(["{broken", *lines]))
    with pytest.raises(PartnasError, match="line 1"):
        write_report(run)


def test_broken_files_are_named(tmp_path):
    run = write_run(tmp_path / "run")
    examples = json.loads((run / "predictions.json").read_text())
    del examples[2]["target_mm"]
    (run / "predictions.json").write_text(json.dumps(examples))
    with pytest.raises(PartnasError, match=r"predictions\.json: entry 2: field 'target_mm'"):
        write_report(run)
    (run / "predictions.json").write_text("{")
    with pytest.raises(PartnasError, match=r"predictions\.json: broken JSON"):
        write_report(run)
    with pytest.raises(PartnasError, match="no such run"):
        write_report(tmp_path / "nowhere")


def test_columns_of_alpha_have_the_names_of_the_searched_operations():
    assert operation_names(8, [])[-1] == "dil_conv_5x5"
    assert operation_names(2, [{"network": {"operations": ["none", "skip_connect"]}}]) == ["none", "skip_connect"]
    assert operation_names(2, [{"network": None}]) == ["operation 0", "operation 1"]


@pytest.mark.parametrize("job", ["search", "train"])
def test_a_run_of_one_job_only(tmp_path, job):
    run = write_run(tmp_path / "run")
    for name in ("predictions.json", "evaluation.json", *(["genotype.json"] if job == "train" else [])):
        (run / name).unlink()
    rows = [row for row in (run / "metrics.jsonl").read_text().splitlines() if json.loads(row)["job"] == job]
    (run / "metrics.jsonl").write_text("\n".join(rows))
    text = body(write_report(run))
    assert "not evaluated yet" in text
    assert text.count('class="missing') == (2 if job == "search" else 4)
    assert text.count("Plotly.newPlot(") == (3 + 2 if job == "search" else 2)
    assert "Plotly.react(" not in text


def test_an_empty_run(tmp_path):
    text = body(write_report(tmp_path))
    assert "Nothing was recorded yet" in text
    assert text.count('class="missing') == 5
    assert "<script" not in text


def test_a_run_of_another_skeleton(tmp_path):
    run = write_run(tmp_path / "run")
    body_of = np.random.default_rng(0).normal(0, 300, (21, 3)).tolist()
    examples = json.loads((run / "predictions.json").read_text())
    for example in examples:
        example |= {"predicted_mm": body_of, "target_mm": body_of, "joints_image": [[48, 48]] * 21}
    (run / "predictions.json").write_text(json.dumps(examples))
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation |= {
        "skeleton": "muco",
        "per_part_mm": dict.fromkeys(MUCO.parts[:17], 50.0),
        "part_groups": [[MUCO.parts[place] for place in group] for group in (MUCO.torso, MUCO.limbs)],
    }
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    text = body(write_report(run))
    assert "head of the limbs (12 parts)" in text
    assert "L Toe" in text
    write_png(tmp_path / "summary.png", run)
    (run / "evaluation.json").write_text(json.dumps(evaluation | {"skeleton": "smpl"}))
    with pytest.raises(PartnasError, match=r"evaluation\.json: skeleton: 'smpl' is not known"):
        write_report(run)


def test_heads_that_a_genotype_does_not_have_are_not_drawn(tmp_path):
    run = write_run(tmp_path / "run")
    evaluation = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(
        json.dumps(evaluation | {"part_groups": [list(HUMAN36M.parts)], "per_group_mm": [None]})
    )
    assert "head of 18 parts" not in body(write_report(run))
    (run / "evaluation.json").write_text(json.dumps(evaluation | {"part_groups": [["Tail"], list(HUMAN36M.parts)]}))
    with pytest.raises(PartnasError, match="'Tail'"):
        write_report(run)


def test_summary_picture(tmp_path):
    import cv2

    run = write_run(tmp_path / "run")
    picture = cv2.imread(str(write_png(tmp_path / "deep" / "summary.png", run)))
    assert picture.shape[1] > 1000
    assert picture.std() > 10
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["summary.png"]
    (run / "search").mkdir()
    (run / "genotype.json").rename(run / "search" / "genotype.json")
    moved = cv2.imread(str(write_png(tmp_path / "summary.png", run)))
    assert (moved == picture).all()
    (run / "search" / "genotype.json").unlink()
    without = cv2.imread(str(write_png(tmp_path / "summary.png", run)))
    assert (without != picture).any()
    (run / "evaluation.json").unlink()
    with pytest.raises(PartnasError, match="evaluation"):
        write_png(tmp_path / "summary.png", run)


def test_without_a_mean_training_pose(tmp_path):
    run = write_run(tmp_path / "run")
    evaluation = json.loads((run / "evaluation.json").read_text())
    (run / "evaluation.json").write_text(json.dumps({**evaluation, "mean_pose_mpjpe_mm": None}))
    text = body(write_report(run))
    assert "80.0 mm" in text
    assert "mean training pose" not in text
    assert write_png(tmp_path / "summary.png", run).stat().st_size > 1000
