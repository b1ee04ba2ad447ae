"""UCF101: 101 classes of human action. Class folders or a flat folder; official split lists are used when they are
there."""

from __future__ import annotations

import re
from pathlib import Path

from runtime.errors import InputError
from videos.codec import VIDEO_SUFFIXES
from videos.folders import ClipDataset, files_below

# The official index of classes (alphabetical), so that labels agree with everybody's even where only some classes are
# present.
_NAMES = """
    ApplyEyeMakeup ApplyLipstick Archery BabyCrawling BalanceBeam BandMarching BaseballPitch Basketball
    BasketballDunk BenchPress Biking Billiards BlowDryHair BlowingCandles BodyWeightSquats Bowling BoxingPunchingBag
    BoxingSpeedBag BreastStroke BrushingTeeth CleanAndJerk CliffDiving CricketBowling CricketShot CuttingInKitchen
    Diving Drumming Fencing FieldHockeyPenalty FloorGymnastics FrisbeeCatch FrontCrawl GolfSwing Haircut Hammering
    HammerThrow HandstandPushups HandstandWalking HeadMassage HighJump HorseRace HorseRiding HulaHoop IceDancing
    JavelinThrow JugglingBalls JumpingJack JumpRope Kayaking Knitting LongJump Lunges MilitaryParade Mixing MoppingFloor
    Nunchucks ParallelBars PizzaTossing PlayingCello PlayingDaf PlayingDhol PlayingFlute PlayingGuitar PlayingPiano
    PlayingSitar PlayingTabla PlayingViolin PoleVault PommelHorse PullUps Punch PushUps Rafting RockClimbingIndoor
    RopeClimbing Rowing SalsaSpin ShavingBeard Shotput SkateBoarding Skiing Skijet SkyDiving SoccerJuggling
    SoccerPenalty StillRings SumoWrestling Surfing Swing TableTennisShot TaiChi TennisSwing ThrowDiscus
    TrampolineJumping Typing UnevenBars VolleyballSpiking WalkingWithDog WallPushups WritingOnBoard YoYo
"""
CLASSES = tuple(_NAMES.split())
# Lower case, since official file names say HandStandPushups where the class is HandstandPushups.
_INDEX = {name.lower(): i for i, name in enumerate(CLASSES)}
_FILE = re.compile(r"v_(?P<name>[A-Za-z]+)_g(?P<group>\d+)_c\d+")
# Official split 1 keeps the groups 1 to 7 of every class for testing.
TEST_GROUPS = range(1, 8)
# How the archive of the lists unpacks, and what people call the folder.
LIST_FOLDERS = ("ucfTrainTestlist", "ucf101_splits", "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist")


class UCF101(ClipDataset):
    """Items are labelled by the official class index.

    The split comes from the official `trainlist01.txt` and `testlist01.txt` (see `find_split_lists`); without them from
    the group in the file name, which is how official split 1 was made. A file without an official name is labelled by
    its folder and belongs to the split "all" only: nothing says whether it was cut from a training or a test video.
    """

    name = "ucf101"
    num_classes = len(CLASSES)
    class_names = CLASSES

    def list_sources(self) -> list[Path]:
        """Videos of the split, sorted by path."""
        files = files_below(self.root, VIDEO_SUFFIXES)
        unknown = [path for path in files if class_of(path) is None]
        if unknown:
            more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
            raise InputError(
                f"{unknown[0]}: neither its folder nor its name is a UCF101 class{more}; "
                "give the folder of UCF101 alone, or --data videos"
            )
        if self.split == "all":
            return files
        lists = find_split_lists(self.root)
        if lists is not None:
            chosen = read_split_list(lists / f"{self.split}list01.txt")
            return [path for path in files if path.stem.lower() in chosen]
        groups = {path: group_of(path) for path in files}
        return [p for p in files if groups[p] is not None and (groups[p] in TEST_GROUPS) == (self.split == "test")]

    def label(self, source: Path) -> int:
        """Official class index, from 0."""
        return class_of(source)  # type: ignore[return-value] - checked when listing


def class_of(path: Path) -> int | None:
    """Class index from the official file name, else from the folder; None when neither is a class."""
    match = _FILE.match(path.stem)
    label = _INDEX.get(match["name"].lower()) if match else None
    return _INDEX.get(path.parent.name.lower()) if label is None else label


def group_of(path: Path) -> int | None:
    """The group number in an official file name, the same for clips of one source video; None for other names."""
    match = _FILE.match(path.stem)
    return int(match["group"]) if match else None


def find_split_lists(root: Path) -> Path | None:
    """The folder that holds the official lists: the root, the folder around it, or one of the usual names in either."""
    for place in (root, root.absolute().parent):
        for folder in (place, *(place / name for name in LIST_FOLDERS)):
            if all((folder / f"{split}list01.txt").is_file() for split in ("train", "test")):
                return folder
    return None


def read_split_list(path: Path) -> set[str]:
    """Stems of the files in an official list, lower case; without suffix, so that re-encoded copies are found too."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable split list ({error})") from error
    return {Path(line.split()[0]).stem.lower() for line in lines if line.strip()}
