import json
import re

import pytest
from fake_run import write_run

from partnas.errors import PartnasError
from partnas.viz.report import edge_names, write_report
from partnas.viz.summary import write_png

FILES = ["predictions.json", "evaluation.json", "genotype.json", "metrics.jsonl"]


def body(path):
    """The page without plotly's own source."""
    text = path.read_text()
    scripts = re.findall(r"<script>.*?</script>", text, flags=re.S)
    return text.replace(max(scripts, key=len), "")


def test_a_whole_run_fills_every_section(tmp_path):
    page = body(write_report(write_run(tmp_path / "run")))
    assert 'class="missing"' not in page
    for text in ("80.0 mm", "0.40×", "1.23 M", "2.50 G", "Node 1", "L_Wrist", "dil_conv_5x5", "99 test frames"):
        assert text in page, text
    assert page.count("<svg") == 3
    assert page.count("data:image/jpeg;base64,") >= 4


def test_the_page_needs_nothing_from_outside(tmp_path):
    page = body(write_report(write_run(tmp_path / "run")))
    links = re.findall(r"(?:src|href)=\"(?!data:)([^\"]*)\"", page)
    assert links == []
    assert set(re.findall(r"https?://[^\s\"'<]+", page)) <= {"http://www.w3.org/2000/svg"}


def test_what_files_say_is_escaped(tmp_path):
    page = body(write_report(write_run(tmp_path / "run")))
    assert "<script>alert" not in page
    assert "<b>run</b>" not in page
    assert "&lt;b&gt;run" in page


@pytest.mark.parametrize("missing", FILES)
def test_a_missing_file_is_said(tmp_path, missing):
    run = write_run(tmp_path / "run")
    (run / missing).unlink()
    page = body(write_report(run))
    assert f"{missing}" in re.findall(r'class="missing">(.*?)</p>', page, flags=re.S)[0]


def test_parts_of_a_run_in_several_folders(tmp_path):
    run, search = write_run(tmp_path / "run"), tmp_path / "search"
    search.mkdir()
    for name in ("metrics.jsonl", "genotype.json"):
        (run / name).rename(search / name)
    assert 'class="missing"' in body(write_report(run))
    assert 'class="missing"' not in body(write_report(run, search_dir=search))


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


def test_edge_names_follow_the_rows_of_alpha():
    assert edge_names(5) == ["c_{k-2} → 0", "c_{k-1} → 0", "c_{k-2} → 1", "c_{k-1} → 1", "0 → 1"]
    assert len(edge_names(14)) == 14


def test_summary_picture(tmp_path):
    import cv2

    run = write_run(tmp_path / "run")
    picture = cv2.imread(str(write_png(tmp_path / "summary.png", run)))
    assert picture.shape[1] > 1000
    assert picture.std() > 10
    (run / "evaluation.json").unlink()
    with pytest.raises(PartnasError, match="evaluation"):
        write_png(tmp_path / "summary.png", run)
