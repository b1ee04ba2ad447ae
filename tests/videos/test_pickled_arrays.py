"""A pickle of arrays, texts and numbers is read; any other is refused in one line, and nothing of it runs."""

import builtins
import collections
import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from hostile import Calls

from runtime.errors import InputError
from videos.pickled_arrays import read_pickled_arrays

VALUE = {
    "goat": {
        "points": np.linspace(0, 1, 12).reshape(2, 3, 2),
        "occluded": np.array([[True, False, True], [False, False, True]]),
        "video": np.arange(72, dtype=np.uint8).reshape(3, 2, 4, 3),
    },
    "more": ["text", 5, -2.5, None, True, b"bytes", (1, 2), 2**70, []],
    "scalar": np.float32(1.5),
    "big endian": np.arange(4, dtype=">i4"),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
    "empty": np.zeros((0, 2), np.float32),
    "none left": np.array(7.0),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol_come_back_as_they_were(protocol, tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(VALUE, protocol))
    found = read_pickled_arrays(tmp_path / "a.pkl")
    for name, array in VALUE["goat"].items():
        assert found["goat"][name].dtype == array.dtype and np.array_equal(found["goat"][name], array)
    for name in ("big endian", "fortran", "empty", "none left"):
        assert found[name].dtype == VALUE[name].dtype and np.array_equal(found[name], VALUE[name])
    assert found["more"] == VALUE["more"] and found["scalar"] == 1.5


def test_arrays_of_numpy_1_are_read_under_their_old_module(tmp_path):
    data = pickle.dumps({"a": np.arange(3)}, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (tmp_path / "a.pkl").write_bytes(data)
    assert b"numpy.core.multiarray" in data and read_pickled_arrays(tmp_path / "a.pkl")["a"].tolist() == [0, 1, 2]


def nested(depth: int) -> bytes:
    return b"\x80\x04" + b"]" * depth + b"a" * (depth - 1) + b"."


def bomb() -> bytes:
    """Lists of two of the list before: 2**60 leaves in some hundred bytes."""
    layers = b"".join(b"\x940h" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(60))
    return b"\x80\x04]" + layers + b"."


def itself() -> bytes:
    inner: list = []
    inner.append(inner)
    return pickle.dumps({"a": inner})


def composed() -> bytes:
    return pickle.dumps({"a": np.zeros(3, [("x", "f4"), ("y", "i4")])})


def swapped(old: bytes, new: bytes, value: object = None) -> bytes:
    data = pickle.dumps(np.arange(4.0) if value is None else value, 2)
    assert old in data
    return data.replace(old, new)


HOSTILE = {
    "system": (lambda: pickle.dumps({"a": Calls(os.system, "touch hacked")}), "posix.system"),
    "eval": (lambda: pickle.dumps([Calls(builtins.eval, "open('hacked', 'w')")]), "builtins.eval"),
    "getattr": (lambda: pickle.dumps(Calls(getattr, "text", "format")), "builtins.getattr"),
    "protocol 0": (lambda: b"cos\nsystem\n(S'touch hacked'\ntR.", "os.system"),
    "instance": (lambda: b"(S'touch hacked'\nios\nsystem\n.", "instruction INST"),
    "class of its own": (lambda: pickle.dumps(collections.OrderedDict(a=1)), "OrderedDict"),
    "numpy's own eval": (lambda: b"\x80\x02cnumpy.testing._private.utils\nrunstring\nU\x01aU\x01b\x86R.", "runstring"),
    "dots": (lambda: b"\x80\x04\x8c\x05numpy\x8c\x0ff2py.subprocess\x93.", "f2py.subprocess"),
    "object array": (lambda: pickle.dumps(np.array([Calls(os.system, "touch hacked")], object), 2), "'O8'"),
    "objects without calls": (lambda: pickle.dumps(np.array([None, "a"], object), 2), "'O8'"),
    "texts": (lambda: pickle.dumps(np.array(["a", "b"]), 2), "'U1'"),
    "composed type": (composed, "type 'V8'"),
    "dates": (lambda: pickle.dumps(np.array(["2020-01-01"], "M8[D]"), 2), "'M8'"),
    "scalar of objects": (lambda: pickle.dumps(np.float64(1.5), 2).replace(b"f8", b"O8"), "'O8'"),
    "scalar too long": (lambda: swapped(b"f8", b"f4", np.float64(1.5)), "shape \\[\\] and 8 bytes"),
    "wrong size": (lambda: swapped(b"f8", b"f4"), "shape \\[4\\] and 32 bytes"),
    "subarray": (lambda: swapped(b"NNNJ", b"h\x00NNJ"), "composed type|holds"),
    "torch": (lambda: pickle.dumps(torch.zeros(3)), "torch"),
    "partial": (lambda: pickle.dumps({"a": __import__("functools").partial(os.system, "touch hacked")}), "functools"),
    "a name alone": (lambda: b"\x80\x02cnumpy\nndarray\n.", "something else"),
    "a name called": (lambda: b"\x80\x02cnumpy\nndarray\nK\x05\x85R.", "no arguments|arguments"),
    "persistent": (lambda: b"\x80\x02U\x01aQ.", "BINPERSID"),
    "extension": (lambda: b"\x80\x02\x82\x01.", "EXT1"),
    "outside buffer": (lambda: b"\x80\x05\x97.", "NEXT_BUFFER"),
    "set": (lambda: pickle.dumps({1, 2}), "EMPTY_SET"),
    "deep": (lambda: nested(5_000), "nested"),
    "itself": (itself, "itself"),
    "cut": (lambda: pickle.dumps(VALUE)[:-40], "early|ended|ends|exhausted|not enough"),
    "nothing": (lambda: b"", "early"),
    "no pickle": (lambda: b"hello", "instruction OBJ"),
    "a text file": (lambda: b"\xef\xbb\xbf hello", "opcode"),
    "Python 2's bytes of a million": (lambda: b"c__builtin__\nbytes\n(I1000000\ntR.", "argument"),
    "a long promise": (lambda: b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc.", "early"),
    "a longer promise": (lambda: b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc.", "early"),
    "a frame": (lambda: b"\x80\x04\x95" + struct.pack("<Q", 2**50) + b"N.", "early|ended|exhausted|FRAME|frame"),
    "a memory": (lambda: b"\x80\x02Nr" + struct.pack("<I", 2**31) + b".", "remembers value"),
    "a number": (lambda: b"\x80\x02\x8b" + struct.pack("<i", 10**5) + b"\x7f" * 10**5 + b".", "thousands of digits"),
    "shape": (lambda: swapped(b"K\x02K\x02\x86", b"J\xff\xff\xff\xffK\x02\x86", np.zeros((2, 2))), "shape"),
    "keys": (lambda: pickle.dumps({(1, 2): 3}), "keys"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_anything_else_is_refused_in_one_line_and_nothing_of_it_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, words = HOSTILE[name]
    (tmp_path / "a.pkl").write_bytes(make())
    tracemalloc.start()
    with pytest.raises(InputError, match=words) as refusal:
        read_pickled_arrays(tmp_path / "a.pkl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(refusal.value) and "a.pkl" in str(refusal.value)
    assert not (tmp_path / "hacked").exists() and peak < 2**26


def test_what_is_named_again_and_again_is_looked_at_once(tmp_path):
    (tmp_path / "a.pkl").write_bytes(bomb())
    found = read_pickled_arrays(tmp_path / "a.pkl")
    depth = 0
    while found:
        assert found[0] is found[1]
        found, depth = found[0], depth + 1
    assert depth == 60


def test_a_file_gives_the_stand_ins_no_attributes_that_outlast_it(tmp_path):
    from videos import pickled_arrays

    (tmp_path / "a.pkl").write_bytes(
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nN}X\x05\x00\x00\x00helloK\x01s\x86b0N."
    )
    with pytest.raises(InputError, match="changes what arrays are made by"):
        read_pickled_arrays(tmp_path / "a.pkl")
    assert not vars(pickled_arrays._reconstruct)
