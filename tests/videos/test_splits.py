"""Who is held out where nobody has said so."""

from pathlib import Path

import pytest

from videos.splits import held_out, source_name, sources_of_split, stratified_order

ROOT = Path("/data")


def names_of(*names: str) -> list[Path]:
    return [ROOT / name for name in names]


def test_a_few_percent_of_many_files_are_held_out_and_stay_so_when_files_come_and_go():
    files = names_of(*(f"{number:05d}.mp4" for number in range(4000)))
    out = dict(zip(files, held_out(ROOT, files), strict=True))
    assert 0.035 < sum(out.values()) / 4000 < 0.065  # a share of 0.05 of 4,000 has a deviation of 0.0034
    fewer = files[::3] + names_of("new.mp4")
    assert all(out[file] == side for file, side in zip(fewer[:-1], held_out(ROOT, fewer), strict=False))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Archery/v_Archery_g01_c01.avi", "Archery/v_Archery_g01_c02.mp4"),
        ("yoga/-a_b-cdEFGhi_000001_000011.mp4", "zumba/-a_b-cdEFGhi_000061_000071.mp4"),
    ],
)
def test_clips_of_one_video_stay_together(one, other):
    assert source_name(ROOT / one, ROOT) == source_name(ROOT / other, ROOT)
    assert source_name(ROOT / "a/1.mp4", ROOT) != source_name(ROOT / "b/1.mp4", ROOT)
    files = [ROOT / f"id{n:03d}_{at:06d}_{at + 10:06d}.mp4" for n in range(300) for at in (0, 10, 20)]
    out = held_out(ROOT, files)
    assert any(out) and out[0::3] == out[1::3] == out[2::3]


@pytest.mark.parametrize("count", range(2, 40))
def test_both_sides_of_a_small_folder_have_something(count):
    assert 0 < sum(held_out(ROOT, names_of(*(f"{n}.png" for n in range(count))))) < count


def test_a_single_video_is_on_both_sides():
    files = names_of("v_Archery_g01_c01.avi", "v_Archery_g01_c02.avi")
    assert held_out(ROOT, files) == [None, None]
    assert sources_of_split(ROOT, "test", lambda _: files) == sources_of_split(ROOT, "train", lambda _: files) == files


def test_folders_decide_where_there_is_one_for_tests(tmp_path):
    for name in ("test/a", "train/b", "train/c", "train/d", "other/e"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def parts() -> dict[str, list[str]]:
        def below(folder):
            return sorted(path for path in folder.rglob("*") if path.is_file())

        found = {split: sources_of_split(tmp_path, split, below) for split in ("all", "train", "test")}
        return {split: [path.name for path in paths] for split, paths in found.items()}

    assert parts() == {"all": ["e", "a", "b", "c", "d"], "train": ["b", "c", "d"], "test": ["a"]}
    (tmp_path / "train").rename(tmp_path / "clips")
    assert parts() == {"all": ["b", "c", "d", "e", "a"], "train": ["b", "c", "d", "e"], "test": ["a"]}
    (tmp_path / "clips").rename(tmp_path / "train")
    (tmp_path / "test").rename(tmp_path / "more")
    divided = parts()  # what is neither in train nor in test is in "all" alone
    assert sorted(divided["train"] + divided["test"]) == ["b", "c", "d"] and len(divided["test"]) == 1


def test_every_prefix_of_a_stratified_order_is_balanced():
    classes = ["a"] * 90 + ["b"] * 9 + ["c"]
    order = stratified_order(classes, 3)
    assert sorted(order) == list(range(100)) and order != stratified_order(classes, 4)
    assert sorted(classes[i] for i in order[:3]) == ["a", "b", "c"]
    assert [classes[i] for i in order[:19]].count("b") == 9
