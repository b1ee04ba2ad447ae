from pathlib import Path

import pytest

from runtime.errors import InputError
from videos import ClipSpec, open_dataset
from videos.ucf101 import CLASSES, TEST_GROUPS, class_of, find_split_lists, group_of, read_split_list

CLIP = ClipSpec(17, 32)


@pytest.mark.parametrize(
    "path, name",
    [
        ("UCF-101/Archery/v_Archery_g01_c01.avi", "Archery"),
        ("flat/v_YoYo_g25_c03.mp4", "YoYo"),
        ("HandstandPushups/v_HandStandPushups_g01_c01.avi", "HandstandPushups"),
        ("BabyCrawling/pyxploiter_test_babycrawling.avi", "BabyCrawling"),
        ("Biking/my holiday.mp4", "Biking"),
        ("Biking/v_Archery_g01_c01.avi", "Archery"),
    ],
)
def test_a_class_comes_from_the_official_name_and_else_from_the_folder(path, name):
    assert CLASSES[class_of(Path(path))] == name


def test_a_name_of_no_class_has_none():
    assert class_of(Path("holiday/beach.mp4")) is None and class_of(Path("holiday/v_Beach_g01_c01.avi")) is None


def test_files_without_an_official_name_are_in_no_split_but_all(make_video):
    root = make_video("ucf/BabyCrawling/v_BabyCrawling_g01_c01.avi").parents[1]
    make_video("ucf/BabyCrawling/v_BabyCrawling_g08_c01.avi")
    make_video("ucf/BabyCrawling/pyxploiter_test.avi")

    def names(split):
        return [source.name for source in open_dataset("ucf101", root=str(root), split=split, clip=CLIP).sources]

    assert len(names("all")) == 3
    assert names("test") == ["v_BabyCrawling_g01_c01.avi"] and names("train") == ["v_BabyCrawling_g08_c01.avi"]


def test_labels_are_official_though_only_one_class_is_there(make_video):
    root = make_video("ucf/YoYo/v_YoYo_g01_c01.avi").parents[1]
    dataset = open_dataset("ucf101", root=str(root), clip=CLIP)
    assert dataset[0]["label"] == 100 and dataset.num_classes == 101 and dataset.class_names[100] == "YoYo"


@pytest.mark.parametrize(
    "place",
    [
        "ucf",
        ".",
        "ucf/ucfTrainTestlist",
        "ucfTrainTestlist",
        "ucf101_splits",
        "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist",
    ],
)
def test_split_lists_are_found_where_people_put_them(tmp_path, place):
    (tmp_path / "ucf").mkdir()
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    assert find_split_lists(tmp_path / "ucf") is None
    for split in ("train", "test"):
        (folder / f"{split}list01.txt").write_text("Archery/v_Archery_g01_c01.avi 3\n")
    assert find_split_lists(tmp_path / "ucf").resolve() == folder.resolve()


def test_a_list_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "trainlist01.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="not a readable split list"):
        read_split_list(tmp_path / "trainlist01.txt")


@pytest.mark.real
def test_the_embedded_index_is_the_official_one(real_data):
    # The numbers in the training list, and not classInd.txt, of which shortened copies are about.
    lines = (real_data / "ucf101_splits" / "trainlist01.txt").read_text().splitlines()
    numbered = {(int(line.split()[1]), line.split("/")[0]) for line in lines if line.strip()}
    assert sorted(numbered) == list(enumerate(CLASSES, start=1))


@pytest.mark.real
def test_groups_divide_as_the_official_lists_do(real_data):
    for split in ("train", "test"):
        stems = read_split_list(real_data / "ucf101_splits" / f"{split}list01.txt")
        groups = {int(stem.rsplit("_g", 1)[1][:2]) for stem in stems}
        assert groups == (set(TEST_GROUPS) if split == "test" else set(range(8, 26)))
        assert all(class_of(Path(f"{stem}.avi")) is not None and group_of(Path(f"{stem}.avi")) for stem in stems)


@pytest.mark.real
def test_original_clips_fall_into_the_official_splits(real_data):
    root = str(real_data / "ucf101")
    sources = {
        split: set(open_dataset("ucf101", root=root, split=split, clip=CLIP).sources)
        for split in ("all", "train", "test")
    }
    assert not sources["train"] & sources["test"]
    left = sources["all"] - sources["train"] - sources["test"]
    assert [path.name for path in left] == ["pyxploiter_test_babycrawling.avi"]
