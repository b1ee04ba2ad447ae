import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from videos import write_video


def run_check(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "videos.check", *flags],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_command_reports_everything_even_where_training_would_stop(make_video, tmp_path):
    make_video("Archery/v_Archery_g01_c01.avi", num_frames=30)
    make_video("Archery/v_Archery_g08_c01.avi", num_frames=20)
    make_video("YoYo/v_YoYo_g08_c01.avi", num_frames=5)
    (tmp_path / "YoYo" / "v_YoYo_g09_c01.avi").write_text("no video")
    done = run_check("--data", "ucf101", "--root", str(tmp_path), "--frame-stride", "3")
    assert done.returncode == 0 and done.stderr == ""
    assert "ucf101 (split all): 2 usable items, 2 skipped" in done.stdout
    assert "frames: 20 to 30" in done.stdout and "Archery (label 2): 2" in done.stdout
    assert "v_YoYo_g08_c01.avi: 5 frames, a clip needs 17" in done.stdout
    assert "v_YoYo_g09_c01.avi: not a readable video" in done.stdout
    assert run_check("--data", "ucf101", "--root", str(tmp_path), "--split", "test").stdout.count("label") == 1


@pytest.mark.parametrize(
    "flags, reason",
    [
        (["--data", "ucf1O1", "--root", "."], "did you mean ucf101?"),
        (["--data", "ucf101"], "needs --root"),
        (["--data", "videos", "--root", "no-such-folder"], "no such folder"),
        (["--data", "videos", "--root", ".", "--split", "val"], "val"),
    ],
)
def test_what_cannot_be_checked_is_refused_in_one_line(flags, reason):
    done = run_check(*flags)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and reason in done.stderr and done.stderr.count("\n") == 1


def test_a_folder_without_one_usable_item_is_an_error(tmp_path):
    (tmp_path / "a.avi").write_bytes(b"")
    done = run_check("--data", "videos", "--root", str(tmp_path))
    assert done.returncode == 2 and "a.avi: the file is empty" in done.stdout and "no usable item" in done.stderr


@pytest.mark.real
def test_the_original_clips_are_all_usable(real_data):
    done = run_check("--data", "ucf101", "--root", str(real_data / "ucf101"))
    assert done.returncode == 0 and " 0 skipped" in done.stdout and done.stderr == ""


def test_links_out_of_the_folder_are_listed(make_video, tmp_path):
    make_video("data/a.mp4", num_frames=20)
    make_video("other/b.mp4", num_frames=20)
    (tmp_path / "data" / "b.mp4").symlink_to(tmp_path / "other" / "b.mp4")
    (tmp_path / "data" / "inside.mp4").symlink_to(tmp_path / "data" / "a.mp4")
    done = run_check("--data", "videos", "--root", str(tmp_path / "data"))
    assert done.returncode == 0 and "2 usable items, 1 skipped" in done.stdout
    assert f"skipped {tmp_path / 'data' / 'b.mp4'}: a link that leads out of the data set" in done.stdout


def test_full_decodes_every_frame_and_lists_the_damaged(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (20, 32, 32, 3)).astype(np.uint8)
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, noise, 8)
    path = tmp_path / "a.mp4"
    flags = ("--data", "videos", "--root", str(tmp_path), "--full")
    assert "all 2 items decoded: no damage" in run_check(*flags).stdout
    content = bytearray(path.read_bytes())
    middle = slice(len(content) // 2, len(content) // 2 + 2000)
    content[middle] = bytes(byte ^ 0xFF for byte in content[middle])
    path.write_bytes(content)
    done = run_check(*flags)
    assert done.returncode == 2 and done.stderr.endswith("1 of 2 items are damaged inside; they are listed above\n")
    assert "a.mp4: damaged inside" in done.stdout
