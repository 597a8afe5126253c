"""OCI layouts: the same files give the same bytes, and what is damaged or leads out of the folder is refused by name."""

import gzip
import io
import json
import os
import random
import tarfile
import tracemalloc

import pyarrow
import pytest

from trimtab.core.errors import InputError, MissingError
from trimtab.package.folder import fresh_folder, inside
from trimtab.package.oci import (
    Descriptor,
    Member,
    open_blob,
    put_bytes,
    put_file,
    put_json,
    put_tar,
    read_manifest,
    unpack_tar,
    write_manifest,
)

TAR = "application/vnd.oci.image.layer.v1.tar"


def layout_with(folder, *layers):
    """A layout whose layers are these bytes."""
    kept = [put_bytes(folder, data, media_type) for data, media_type in layers]
    write_manifest(folder, put_json(folder, {}, "application/json"), kept, name="1")
    return kept


def tar_of(*entries):
    """A tar that others might have written: (name, bytes), or TarInfo for what is no plain file."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                tar.addfile(info, io.BytesIO(entry[1]))
    return raw.getvalue()


def of_type(name, kind, target="/etc/passwd"):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def test_a_tar_depends_on_names_modes_and_contents_alone(tmp_path):
    names = ["b/two.txt", "a.txt", "b/" + "long-" * 40 + "name.bin"]
    digests = []
    for number, order in enumerate([names, list(reversed(names))]):
        folder = tmp_path / str(number)
        for name in names:
            path = folder / "files" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
            os.utime(path, (number * 1000, number * 1000))
        digests.append(put_tar(folder, [Member(name=name, content=folder / "files" / name) for name in order], TAR).digest)
    assert digests[0] == digests[1]
    assert (
        put_tar(tmp_path, [Member(name="a.txt", content=b"other")], TAR).digest
        != put_tar(tmp_path, [Member(name="a.txt", content=b"a")], TAR).digest
    )
    with tarfile.open(tmp_path / "0" / "blobs" / "sha256" / digests[0][7:]) as tar:
        assert tar.getnames() == ["a.txt", "b", names[2], "b/two.txt"]
        assert {(entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname) for entry in tar} == {(0, 0, 0, "", "")}


def test_a_large_file_takes_no_memory(tmp_path):
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(96 << 20)
    tracemalloc.start()
    put_file(tmp_path / "layout", big, TAR)
    put_tar(tmp_path / "layout", [Member(name="big.bin", content=big)], TAR)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 8 << 20


def test_a_layout_comes_back_as_it_was_written(tmp_path):
    kept = layout_with(tmp_path, (b"one", "text/plain"), (b"two", "text/plain"))
    manifest = read_manifest(tmp_path)
    assert manifest.layers == tuple(kept)
    with open_blob(tmp_path, kept[1]) as blob:
        assert blob.read() == b"two"
    assert json.loads((tmp_path / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert {path.name.startswith(".") for path in (tmp_path / "blobs" / "sha256").iterdir()} == {False}


@pytest.mark.parametrize(("change", "says"), [(b"onf", "holds other bytes"), (b"on", "has 2 bytes, not 3"), (None, "is missing")])
def test_a_blob_that_is_not_what_its_digest_says_is_named(tmp_path, change, says):
    (kept,) = layout_with(tmp_path, (b"one", "text/plain"))
    path = tmp_path / "blobs" / "sha256" / kept.digest[7:]
    path.unlink()
    if change is not None:
        path.write_bytes(change)
    with pytest.raises(InputError, match=says) as raised, open_blob(tmp_path, kept) as blob:
        blob.read()
    assert kept.digest in str(raised.value)


def test_a_file_that_changes_while_it_is_packed_is_refused(tmp_path):
    (tmp_path / "a").write_text("other")
    with pytest.raises(InputError, match="changed while it was packed"):
        put_file(tmp_path / "layout", tmp_path / "a", TAR, sha256="0" * 64)


@pytest.mark.parametrize(
    ("tar", "says"),
    [
        (tar_of(("../out.txt", b"x")), "outside of the folder"),
        (tar_of(("/etc/x", b"x")), "outside of the folder"),
        (tar_of(("a/../../x", b"x")), "outside of the folder"),
        (tar_of(of_type("link", tarfile.SYMTYPE)), "no plain file"),
        (tar_of(of_type("hard", tarfile.LNKTYPE)), "no plain file"),
        (tar_of(of_type("node", tarfile.CHRTYPE)), "no plain file"),
        (tar_of((".wh.gone", b"")), "no plain file"),
        (b"this is no tar" * 100, "not a tar archive"),
    ],
)
def test_layers_that_lead_out_of_the_folder_are_refused(tmp_path, tar, says):
    (kept,) = layout_with(tmp_path / "layout", (tar, TAR))
    with pytest.raises(InputError, match=says), fresh_folder(tmp_path / "out") as folder:
        unpack_tar(tmp_path / "layout", kept, folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout"]


def test_only_what_lies_below_a_path_is_unpacked_and_the_rest_may_be_anything(tmp_path):
    tar = tar_of(of_type("bin/sh", tarfile.SYMTYPE), ("opt/package/a/b.txt", b"b"), ("opt/packages/no.txt", b"no"))
    (kept,) = layout_with(tmp_path / "layout", (gzip.compress(tar), TAR + "+gzip"))
    assert unpack_tar(tmp_path / "layout", kept, tmp_path / "out", below="opt/package") == ["a/b.txt"]
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["a", "b.txt"]


def in_zstd(data):
    out = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(out, "zstd") as stream:
        stream.write(data)
    return out.getvalue().to_pybytes()


def test_layers_in_zstd_are_read(tmp_path):
    noise = random.Random(1).randbytes(300_000)
    tar = tar_of(("a.txt", b"a"), ("b/noise", noise))
    (kept,) = layout_with(tmp_path / "layout", (in_zstd(tar[:1000]) + in_zstd(tar[1000:]), TAR + "+zstd"))  # two frames, as pzstd writes
    assert unpack_tar(tmp_path / "layout", kept, tmp_path / "out") == ["a.txt", "b/noise"]
    assert (tmp_path / "out" / "b" / "noise").read_bytes() == noise


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"x" * 100, lambda data: data[:9]])
def test_what_is_no_zstd_is_refused(tmp_path, damage):
    (kept,) = layout_with(tmp_path / "layout", (damage(in_zstd(tar_of(("a.txt", b"a" * 5000)))), TAR + "+zstd"))
    with pytest.raises(InputError, match="not a tar archive that can be read"):
        unpack_tar(tmp_path / "layout", kept, tmp_path / "out")


def with_manifests(folder, n):
    layout_with(folder, (b"one", "text/plain"))
    index = json.loads((folder / "index.json").read_text())
    index["manifests"] *= n
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ("{", "not JSON"),
        ("[]", "JSON object"),
        ('{"manifests": []}', "0 manifests"),
        ('{"manifests": [{"digest": "sha256:../../../etc/passwd", "size": 1}]}', "not a descriptor"),
        ('{"manifests": [{"digest": "md5:1", "size": 1}]}', "not a descriptor"),
    ],
)
def test_an_index_that_is_none_is_refused(tmp_path, index, says):
    layout_with(tmp_path, (b"one", "text/plain"))
    (tmp_path / "index.json").write_text(index)
    with pytest.raises(InputError, match=says):
        read_manifest(tmp_path)


def test_several_manifests_are_for_the_user_to_choose_from(tmp_path):
    with_manifests(tmp_path, 2)
    with pytest.raises(InputError, match="2 manifests, not one"):
        read_manifest(tmp_path)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def killed():
        with fresh_folder(tmp_path / "out") as folder:
            (folder / "half").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        killed()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with fresh_folder(tmp_path / "out") as folder:
        (folder / "whole").write_text("whole")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole"]
    with pytest.raises(InputError, match="is not empty"), fresh_folder(tmp_path / "out"):
        pass
    with pytest.raises(InputError, match="not a folder"), fresh_folder(tmp_path / "out" / "whole"):
        pass
    with pytest.raises(MissingError, match="MB free"), fresh_folder(tmp_path / "other", needed_bytes=10**18):
        pass


@pytest.mark.parametrize("name", ["", "/a", "..", "a/../b", "a\0b", "a\\b"])
def test_names_that_lead_out(tmp_path, name):
    with pytest.raises(InputError, match="outside of the folder"):
        inside(tmp_path, name, tmp_path)


def test_descriptors_of_hand_made_digests_stay_in_the_layout(tmp_path):
    gone = Descriptor(media_type="x", digest="sha256:" + "0" * 64, size_bytes=1)
    with pytest.raises(InputError, match="is missing"), open_blob(tmp_path, gone):
        pass
